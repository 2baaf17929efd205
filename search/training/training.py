"""One training: a model built, fitted and measured under one seed on one split of the data."""

from __future__ import annotations

import io
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.data.dataset import Data
from search.errors import TrialFailed
from search.studyfile.objects import called
from search.studyfile.references import overrides
from search.studyfile.schema import Definition
from search.training import callbacks, checkpoint, fit, metrics, own_fit
from search.training.epochs import Epochs, OnEpoch, measured_with, restores, same, watcher
from search.training.model import (
    build,
    has_user_code,
    is_built_in,
    refuse_batches,
    refuse_trained,
    settings_of,
    takes_rows,
)

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial

_WARM_UP_CALLS, _TIMED_CALLS = 3, 30


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        metrics: Keras's logs of the epoch whose weights the model has, and its trial metrics. Where no
            epoch has these weights, the metrics are measured on the model.
        best_epochs: How many epochs those weights were trained for.
        last: Whether they are those of the last epoch.
        test_rows: How many rows of a held-out part were measured at once; None for as many as memory allows.
    """

    model: keras.Model
    metrics: dict[str, float]
    best_epochs: int
    last: bool
    test_rows: int | None


class Training:
    """A model that is about to be trained.

    Args:
        definition: The study file.
        data: The training part, and the validation part if there is one.
        trial: Its parameters build the model, and may say `epochs` and `batch_size`.
        seed: Of the model's weights, of its random layers, and of the order of the rows.
        folder: The trial's own, where callbacks write.
        checkpoints: Where its state is kept after an epoch, and found again after a kill; None to keep none.
        epochs: How many to train for, when it is not for the study file or the trial to say; a
            schedule still spans as many as they say.
    """

    def __init__(
        self,
        definition: Definition,
        data: Data,
        trial: BaseTrial,
        seed: int,
        folder: Path,
        epochs: int | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        _set_seeds(seed, definition, data)
        self.model = build(definition, trial, data)
        fit.ensure_built(self.model, data)
        refuse_trained(definition, self.model)
        settings = settings_of(definition, trial)
        self.batch_size, self.epochs = settings["batch_size"], epochs or settings["epochs"]
        refuse_batches(definition, self.model, data, self.batch_size)
        self._definition, self._data, self._trial, self._seed = definition, data, trial, seed
        self._checkpoints, self._folder = checkpoints, folder
        self._test_rows = None if is_built_in(definition) else self.batch_size
        self._callbacks = callbacks.callbacks(definition, data, settings["epochs"], trial, folder, self.model)
        self.settings = callbacks.settings_of(self.model, definition, self.epochs, self.batch_size)

    def fit(
        self,
        on_epoch: OnEpoch,
        on_path: Callable[[str], None] = lambda _: None,
        on_restored: Callable[[Epochs], None] = lambda _: None,
    ) -> Trained:
        """Train the model.

        Args:
            on_epoch: Called with each epoch, from 0, when it ended, its logs, and whether it is the last; what it
                raises ends the training.
            on_path: Called with how the model is trained, as by `fit.fit`.
            on_restored: Called with the epochs that were trained before a kill, when it goes on from there.
        """
        epochs = Epochs()
        if self._definition.fit.function:
            on_path(own_fit.OWN_FIT)
            returned = self._fit_by_function(epochs, on_epoch)
        else:
            returned = {}
            self._fit(epochs, on_epoch, on_path, on_restored)
        seconds = epochs.seconds
        kept = epochs.kept(self.model, self._callbacks)
        logs = self._measured(epochs) if kept is None else self._validated(epochs.logs[kept])
        of_epoch = epochs.restored if kept is None else kept
        if of_epoch is not None and (of_epoch != epochs.last or any(map(restores, self._callbacks))):
            logs = {**logs, "best_epoch": float(of_epoch)}
        logs = {**logs, **self._own_metrics(logs, measured=kept is None or kept in epochs.changed), **returned}
        trained_for = epochs.last if of_epoch is None else of_epoch
        logs |= {"parameters": float(parameter_count(self.model)), "train_seconds": seconds}
        if "latency_ms" in metrics.needed(self._definition):
            logs["latency_ms"] = latency_ms(self.model, self._data)
        return Trained(
            self.model,
            logs,
            max(1, trained_for + 1),
            kept == epochs.last,
            self._test_rows,
        )

    def _fit(
        self,
        epochs: Epochs,
        on_epoch: OnEpoch,
        on_path: Callable[[str], None],
        on_restored: Callable[[Epochs], None],
    ) -> None:
        import keras

        wanted = self._definition.fit
        used = self._followed(epochs, on_epoch)
        if self._checkpoints is not None and wanted.checkpoint and not overrides(self.model, keras.Model, "fit"):
            saving = checkpoint.checkpointing(
                self._checkpoints,
                wanted.checkpoint,
                epochs,
                self._callbacks,
                lambda: on_restored(epochs),
                self._folder,
            )
            used.append(saving)
        fit.fit(
            self.model,
            self._data,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self._seed,
            callbacks=used,
            class_weight=callbacks.class_weight(self._definition, self._data),
            built_in=is_built_in(self._definition),
            shuffle=wanted.shuffle,
            steps_per_epoch=wanted.steps_per_epoch,
            validation_steps=wanted.validation_steps,
            validation_freq=wanted.validation_freq,
            on_path=on_path,
        )

    def _fit_by_function(self, epochs: Epochs, on_epoch: OnEpoch) -> dict[str, float]:
        """Train by the user's function, and return the metrics that it returned."""
        before = self.model.get_weights()
        answer = own_fit.train(
            self._definition,
            self._trial,
            self.model,
            self._data,
            epochs=self.epochs,
            batch_size=self.batch_size,
            callbacks=self._followed(epochs, on_epoch),
            class_weight=own_fit.class_weight(self._definition, self._data),
        )
        if answer.model is not None:
            self.model = answer.model
        elif (
            (epochs.logs or answer.history) and self.model.trainable_weights and same(before, self.model.get_weights())
        ):
            raise TrialFailed(
                f"fit.function: {called(self._definition.fit.function)} trained another model than model.build "
                "returned, whose weights are as they were; return (history, model)"
            )
        if not epochs.logs:  # it did not use the callbacks
            for epoch, logs in answer.history.items():
                step = epochs.add(epoch, logs)
                on_epoch(step, epochs.ended[step], logs, True)
            epochs.found = self._epoch_of(epochs, by_keras=answer.by_keras) if answer.history else None
        return answer.metrics

    def _followed(self, epochs: Epochs, on_epoch: OnEpoch) -> list[keras.callbacks.Callback]:
        """Return the training's callbacks between those that note its epochs."""
        before = [measured_with(epochs)] if self._definition.fit.callbacks else []
        return [*before, *self._callbacks, watcher(epochs, on_epoch)]

    def _epoch_of(self, epochs: Epochs, *, by_keras: bool) -> int | None:
        """Return the last epoch whose validation metrics are those of the model.

        Where no epoch has them: none if Keras measured them, else the last, as the user's function measured it.
        """
        now = self._validation()
        if not now:
            return epochs.last
        for step, logs in sorted(epochs.logs.items(), reverse=True):
            if all(
                math.isclose(now[name], logs[name], rel_tol=1e-3, abs_tol=1e-6) for name in now.keys() & logs.keys()
            ):
                return step
        return None if by_keras else epochs.last

    def _own_metrics(self, logs: Mapping[str, float], *, measured: bool) -> dict[str, float]:
        """Return the metrics of `[metrics]` that the kept epoch's logs do not have."""
        part = self._data.validation
        missing = {name for name in self._definition.own_metrics if measured or f"val_{name}" not in logs}
        if part is None or not missing:
            return {}
        found = metrics.measure(self._definition, self.model, self._data, part, missing)
        return {f"val_{name}": value for name, value in found.items()}

    def _measured(self, epochs: Epochs) -> dict[str, float]:
        """Return the metrics of the model as it is, and of the last epoch what only a callback can tell."""
        logs, train = dict(epochs.logs.get(epochs.last, {})), self._data.train
        if self._evaluates() and not train.streamed:
            logs |= fit.evaluate(self.model, train, self._test_rows)
        return logs | self._validation()

    def _validated(self, logs: dict[str, float]) -> dict[str, float]:
        """Return an epoch's logs; validate now if `validation_freq` skipped that epoch."""
        seen = self._definition.fit.validation_freq == 1 or any(name.startswith("val_") for name in logs)
        return logs if seen else logs | self._validation()

    def _validation(self) -> dict[str, float]:
        """Return what the model measures on the validation part; nothing where there is none."""
        part = self._data.validation
        if part is None or not self._evaluates():
            return {}
        measured = fit.evaluate(self.model, part, self._test_rows, steps=self._definition.fit.validation_steps)
        return {f"val_{name}": value for name, value in measured.items()}

    def _evaluates(self) -> bool:
        return bool(self.model.compiled) and takes_rows(self._definition, self.model, self._data)


def parameter_count(model: keras.Model) -> int:
    """Return how many numbers a model's weights hold, whether or not Keras counts it as built."""
    return sum(math.prod(weight.shape) for weight in model.weights)


@contextmanager
def seeds_of_its_own() -> Iterator[None]:
    """Draw the seeds of Keras's layers from a generator of their own.

    It draws them from Python's own, and so do other threads of a cluster's worker, now and then: the same
    trial would begin with other weights. Keras has no public way to give it another generator.
    """
    from keras.src.random import seed_generator

    shared = seed_generator.python_random
    seed_generator.python_random = random.Random()
    try:
        yield
    finally:
        seed_generator.python_random = shared


def _set_seeds(seed: int, definition: Definition, data: Data) -> None:
    """Seed every generator that the trial may draw from.

    TensorFlow's own is left alone where nothing draws from it: seeding it makes TensorFlow forget
    every function that it has optimised, 0.1 s of a small trial.
    """
    import keras
    from keras.src.random import seed_generator

    wanted = definition.fit
    plain = wanted.steps_per_epoch or wanted.validation_steps or fit.devices() > 1  # Keras shuffles the rows
    if plain or has_user_code(definition) or data.train.streamed or keras.backend.backend() != "tensorflow":
        keras.utils.set_random_seed(seed)
    else:
        random.seed(seed)
        np.random.seed(seed)
    seed_generator.python_random.seed(seed)  # where Keras draws the seeds of its layers


def latency_ms(model: keras.Model, data: Data) -> float:
    """Return the median time of predicting one row, or as many as the model takes, in milliseconds, after a warm-up."""
    one = fit.first_rows(model, data)
    return median_ms(lambda: model.predict_on_batch(one), _WARM_UP_CALLS)


def median_ms(call: Callable[[], object], warm_up: int) -> float:
    """Return the median time of 30 calls in milliseconds, after so many that are not counted."""
    times = []
    for _ in range(warm_up + _TIMED_CALLS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times[warm_up:]) * 1000)


def summary(model: keras.Model) -> str:
    """Return the model's layers as a table of text."""
    text = io.StringIO()
    model.summary(print_fn=lambda line, **_: text.write(f"{line}\n"), line_length=100)
    return text.getvalue()


def archive(model: keras.Model) -> bytes:
    """Return the model as the bytes of a `.keras` file.

    Compile settings that Keras could not load again (a loss that is a plain function) are left out: predicting
    needs none.
    """
    optimizer = model.optimizer if model.compiled else None
    if optimizer is not None and not optimizer.built:  # trained by another: Keras would not load it again
        optimizer.build(model.trainable_variables)
    with tempfile.TemporaryDirectory() as folder, _saved_as_it_can_be_loaded(model):
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


@contextmanager
def _saved_as_it_can_be_loaded(model: keras.Model) -> Iterator[None]:
    """Save a model without its compile settings if Keras cannot load them again."""
    if _compiles_again(model):
        yield
        return
    model.get_compile_config = lambda: None
    try:
        yield
    finally:
        del model.get_compile_config


def _compiles_again(model: keras.Model) -> bool:
    import keras

    try:
        keras.saving.deserialize_keras_object(model.get_compile_config() or {})
    except Exception:  # whatever an object of the user's own raises
        return False
    return True
