"""One model trained by this package and by Keras's `fit` on the same batches, and what differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.utils.naming import reset_uids

from search.comparison.outputs import fixed_rows
from search.training import checkpoint, fit
from search.training.epochs import Epochs, numbers, watcher
from search.training.training import archive
from tests.exact.bodies import Values
from tests.exact.changes import Changes
from tests.exact.kinds import Drawn

_KILLED_AFTER = 1  # epochs


class Killed(Exception):
    """A training ends as if its process had been killed."""


@dataclass
class Outcome:
    """What came of a training."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    variables: list[Any] = field(default_factory=list)
    error: str = ""
    path: str = ""
    model: keras.Model | None = None

    def differs(self, other: Outcome, within: float = 0.0) -> str:
        """Return how this training differs from another; empty when it does not.

        Args:
            other: The other training.
            within: How far a number may be off, as a share. Above 0 only the first that is off counts: TensorFlow sums
                all rows of a batch in an order that depends on how they come, and later epochs make more of it.
        """
        if self.error.partition(":")[0] != other.error.partition(":")[0]:
            return f"here: {self.error or 'trains'}; Keras: {other.error or 'trains'}"
        if len(self.epochs) != len(other.epochs):
            return f"{len(self.epochs)} epochs, Keras {len(other.epochs)}"
        for epoch, (mine, theirs) in enumerate(zip(self.epochs, other.epochs, strict=True)):
            if mine.keys() != theirs.keys():
                return f"epoch {epoch} logs {sorted(mine)}, Keras {sorted(theirs)}"
            off = [name for name, each in mine.items() if each != theirs[name] and not math.isnan(each + theirs[name])]
            if (
                off
                and within
                and all(math.isclose(mine[n], theirs[n], rel_tol=within, abs_tol=within / 10) for n in off)
            ):
                return ""
            if off:
                return f"epoch {epoch}: {off[0]} {mine[off[0]]!r}, Keras {theirs[off[0]]!r}"
        if len(self.variables) != len(other.variables):
            return f"{len(self.variables)} variables, Keras {len(other.variables)}"
        for index, (mine, theirs) in enumerate(zip(self.variables, other.variables, strict=True)):
            nan = mine.dtype.kind == "f"
            if not np.array_equal(mine, theirs, equal_nan=nan) and not (
                within and nan and np.allclose(mine, theirs, within, within, equal_nan=True)
            ):
                return f"variable {index} of {len(self.variables)}"
        return ""


def model_of(drawn: Drawn, values: Values, seed: int | None = None) -> keras.Model:
    """Return a model as a trial makes it."""
    keras.backend.clear_session(free_memory=False)  # to look for garbage takes longer than to make a model
    reset_uids()
    seed = values.seed if seed is None else seed
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(drawn.policy)
    model = made(drawn, values)
    fit.ensure_built(model, drawn.data)
    keras.utils.set_random_seed(seed)
    return model


def made(drawn: Drawn, values: Values) -> keras.Model:
    """Return what a builder makes."""
    if drawn.epsilon:
        keras.config.set_epsilon(10.0 ** -(2 + values.units % 4))
    return drawn.make(values)


@contextmanager
def settings_restored() -> Iterator[None]:
    """Undo what a builder sets for all of Keras."""
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_epsilon(1e-7)


def variables(model: keras.Model) -> list[Any]:
    """Return the values of all variables of a model and its optimizer."""
    return [each.numpy() for each in (*model.variables, *model.optimizer.variables)]


def train(
    drawn: Drawn,
    values: Values,
    run: Callable[[keras.Model, list[keras.callbacks.Callback]], None],
    seed: int | None = None,
) -> Outcome:
    """Return what comes of a training; an error is an outcome too."""
    found = Outcome()
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: found.epochs.append(numbers(logs)),
    )
    try:
        with settings_restored():
            found.model = model_of(drawn, values, seed)
            run(found.model, [*drawn.callbacks(), keep])
            found.variables = variables(found.model)
    except Exception as error:  # what Keras refuses is refused here too
        found.error = f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
    return found


def here(drawn: Drawn, values: Values) -> Outcome:
    """Train as a trial does."""

    paths = [""]

    def run(model: keras.Model, callbacks: list[keras.callbacks.Callback]) -> None:
        built_in = drawn.mlp is not None
        fit.fit(model, drawn.data, callbacks=callbacks, built_in=built_in, on_path=paths.append, **drawn.settings)

    found = train(drawn, values, run)
    found.path = paths[-1]
    return found


def by_keras(drawn: Drawn, values: Values, path: str, seed: int | None = None) -> Outcome:
    """Train by Keras's `fit`: on batches in the order of this package, or as it is where that does no more."""

    def run(model: keras.Model, callbacks: list[keras.callbacks.Callback]) -> None:
        data, settings = drawn.data, dict(drawn.settings)
        of_rows, size = settings.pop("seed"), settings.pop("batch_size")
        shuffle, validation = settings.pop("shuffle", True), data.validation
        more = {"callbacks": callbacks, "verbose": 0, **settings}
        if validation is not None:
            held_out = len(validation) if drawn.mlp else size
            more |= {"validation_data": _packed(validation), "validation_batch_size": held_out}
        if path == fit.PLAIN:
            x, y, weights = (*_packed(data.train), None)[:3]
            weighted = settings.get("class_weight")
            if weighted:
                more.pop("class_weight")
                weights = np.array([weighted[int(each)] for each in y.reshape(-1)], "float32")
            model.fit(x, y, sample_weight=weights, batch_size=size, shuffle=shuffle, **more)
        else:
            model.fit(_batches(_packed(data.train), of_rows if shuffle else None, size), shuffle=False, **more)

    return train(drawn, values, run, seed)


def _packed(part: Any) -> tuple[Any, ...]:
    if part.y is None:
        return (fit.as_tensors(part.x),)
    packed = (fit.as_tensors(part.x), part.y, part.sample_weight)
    return packed if part.sample_weight is not None else packed[:2]


def _batches(packed: Any, seed: int | None, size: int) -> Any:
    """Return an epoch of batches, each time it is read in the next order; without a seed in the order of the rows."""
    import tensorflow as tf

    tensors = keras.tree.map_structure(tf.convert_to_tensor, packed)
    rows = len(keras.tree.flatten(tensors)[0])
    generator = np.random.default_rng(seed)

    def batches() -> Iterator[Any]:
        order = np.arange(rows) if seed is None else generator.permutation(rows)
        for first in range(0, rows, size):
            yield order[first : first + size].astype("int32")

    indices = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([None], tf.int32))
    taken = indices.map(lambda index: keras.tree.map_structure(lambda each: tf.gather(each, index), tensors))
    return taken.apply(tf.data.experimental.assert_cardinality(-(-rows // size)))


def resumed(drawn: Drawn, values: Values, folder: Path) -> Outcome | None:
    """Train, die after an epoch, and go on in a new model; None where a callback would change what is trained."""
    if any(
        isinstance(each, Changes) and each.hook not in ("set_model", "on_train_begin") for each in drawn.callbacks()
    ):
        return None

    def once(model: keras.Model, callbacks: list[keras.callbacks.Callback], die: bool) -> None:
        epochs, counted = Epochs(), callbacks[:-1]

        def on_epoch(epoch: int, *_: Any) -> None:
            if die and epoch == _KILLED_AFTER:
                raise Killed

        saving = checkpoint.checkpointing(folder, True, epochs, counted, lambda: None, folder / "own")
        followed = [*callbacks, watcher(epochs, on_epoch), saving]
        fit.fit(model, drawn.data, callbacks=followed, built_in=drawn.mlp is not None, **drawn.settings)

    train(drawn, values, lambda model, callbacks: once(model, callbacks, die=True))
    return train(drawn, values, lambda model, callbacks: once(model, callbacks, die=False))


def saved(found: Outcome, drawn: Drawn, file: Path) -> str:
    """Keep a model and what it predicts for a fresh process; return why it cannot be kept."""
    assert found.model is not None
    rows = fixed_rows(found.model) or 5
    x = drawn.data.example(rows)
    try:
        file.with_suffix(".keras").write_bytes(archive(found.model))
    except Exception as error:  # whatever Keras cannot save
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    predicted = found.model.predict(fit.as_tensors(x), batch_size=rows, verbose=0)
    np.savez(file, *(np.asarray(each, "float64") for each in keras.tree.flatten(predicted)))
    return ""


def load_and_compare(file: Path, drawn: Drawn) -> str:
    """Return how a kept model differs in this process; empty when it does not."""
    try:
        model = keras.saving.load_model(file.with_suffix(".keras"), safe_mode=False)
    except Exception as error:  # an object that no other process knows
        return f"cannot be loaded: {type(error).__name__}"
    rows = fixed_rows(model) or 5
    predicted = model.predict(fit.as_tensors(drawn.data.example(rows)), batch_size=rows, verbose=0)
    kept = np.load(file.with_suffix(".npz"))
    pairs = zip(keras.tree.flatten(predicted), kept.values(), strict=True)
    off = 1e-4 if drawn.policy == "float32" else 3e-2
    close = all(np.allclose(mine, theirs, off, off / 10, equal_nan=True) for mine, theirs in pairs)
    return "" if close else "predicts otherwise"
