"""A training's state after its last epoch, kept in files, so that a killed trial goes on from there.

Keras's own `BackupAndRestore` saves and loads the model, its optimizer and the epoch. Beside that stand the
states of random layers, what the other callbacks have counted (early stopping's best epoch and weights, a
plateau's patience), and the logs so far. A kill while a state is written loses one epoch. Going on gives the
same losses to the last bit where the order of the rows is drawn from the trial's seed; plain `fit` on arrays
draws it anew.
"""

from __future__ import annotations

import inspect
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from search.errors import one_line, told
from search.system.whole import whole
from search.training.epochs import Epochs

if TYPE_CHECKING:
    import keras

AUTO_SECONDS = 3.0  # `auto` saves once an epoch takes longer
_STATE = "state.pickle"
_PLAIN = (bool, int, float, str, np.ndarray, np.generic, type(None))


class CheckpointDamaged(Exception):
    """A checkpoint cannot be read; it was removed."""


def checkpointing(
    folder: Path,
    wanted: Literal["auto"] | bool,
    epochs: Epochs,
    others: list[keras.callbacks.Callback],
    on_restored: Callable[[], None],
    own: Path,
) -> keras.callbacks.Callback:
    """Return a callback that saves the state after each epoch but the last, to stand after all others.

    Args:
        folder: Of this training alone. What is found there is restored when training begins.
        wanted: True for each epoch; `auto` once an epoch takes longer than `AUTO_SECONDS`.
        epochs: What the training logged; filled with what it had logged before.
        others: Callbacks whose counts are kept.
        on_restored: Called when a state was found and `epochs` is filled.
        own: The trial's folder in this process, whose paths are not kept.
    """
    import keras

    def backup(where: Path, model: keras.Model) -> keras.callbacks.BackupAndRestore:
        made = keras.callbacks.BackupAndRestore(str(where), delete_checkpoint=False)
        made.set_model(model)
        return made

    class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        began = 0.0

        def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's own
            found = _newest(folder)
            if found is None:
                return
            try:
                state = pickle.loads((found / _STATE).read_bytes())  # noqa: S301 - ours
                backup(found, self.model).on_train_begin()
                _put_back(state, self.model, epochs, others)
            except Exception as error:  # whatever half a file makes pickle, h5py and Keras raise
                shutil.rmtree(folder, ignore_errors=True)
                raise CheckpointDamaged(f"its checkpoint is damaged ({one_line(error)}); it begins anew") from error
            on_restored()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.began = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            last = self.model.stop_training or epoch + 1 >= self.params.get("epochs", 0)
            if last or (wanted == "auto" and time.monotonic() - self.began < AUTO_SECONDS):
                return
            # Where the disk is full.
            with told(f"the checkpoint of epoch {epoch + 1} is not kept"), _next(folder, epoch) as made:
                backup(made, self.model).on_epoch_end(epoch)
                (made / _STATE).write_bytes(pickle.dumps(_state(self.model, epochs, others, str(own))))

    return Checkpoint()


@contextmanager
def _next(folder: Path, epoch: int) -> Iterator[Path]:
    """Yield a folder for an epoch's state; it replaces the previous one if the block succeeds."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _newest(folder)
    with whole(folder / f"{epoch:09d}") as made:
        made.mkdir()
        yield made
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)


def _newest(folder: Path) -> Path | None:
    """Return the folder of the newest state; earlier versions named it `last` or `old`."""
    found = [state.parent for state in folder.glob(f"*/{_STATE}")]
    return max(found, key=lambda state: (state.name != "old", state.name), default=None)


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that Keras does not count as weights: the states of random and of recurrent layers."""
    import keras
    from keras.src.random.seed_generator import global_seed_generator  # what draws without a seed draws from it

    weights = {id(weight) for weight in model.weights}
    own = [variable for variable in model.variables if id(variable) not in weights]
    # Keras has no public way to all layers, and counts the states of stateful recurrent ones nowhere.
    states = keras.tree.flatten([getattr(layer, "states", None) for layer in model._flatten_layers()])  # noqa: SLF001
    recurrent = [state for state in states if isinstance(state, keras.Variable)]
    return [*own, *recurrent, global_seed_generator().state]


def _state(model: keras.Model, epochs: Epochs, others: list[keras.callbacks.Callback], own: str) -> dict[str, Any]:
    return {
        "logs": epochs.logs,
        "ended": epochs.ended,
        "offset": epochs.offset,
        "changed": epochs.changed,
        "seconds": epochs.seconds,
        "random": [np.asarray(variable.numpy()) for variable in _random_states(model)],
        "callbacks": [_counted(other, own) for other in others],
    }


def _put_back(
    state: dict[str, Any], model: keras.Model, epochs: Epochs, others: list[keras.callbacks.Callback]
) -> None:
    epochs.logs, epochs.ended, epochs.offset = state["logs"], state["ended"], state["offset"]
    epochs.changed = state.get("changed", set())  # an earlier version kept none
    epochs.began -= state.get("seconds", 0.0)
    for variable, value in zip(_random_states(model), state["random"], strict=False):  # it kept fewer
        variable.assign(value)
    for callback, counted in zip(others, state["callbacks"], strict=True):
        vars(callback).update(counted)


def _counted(callback: keras.callbacks.Callback, own: str) -> dict[str, Any]:
    """Return the attributes of a callback that are numbers, texts and arrays, and lists and dictionaries of them.

    Functions of Keras's are kept too: which way a monitor compares decides the sign of its `min_delta`. Paths in this
    process's folder are not: another process has another.
    """
    return {name: value for name, value in vars(callback).items() if name != "params" and _is_plain(value, own)}


def _is_plain(value: Any, own: str) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part, own) for part in value)
    if isinstance(value, dict):
        return all(_is_plain(part, own) for part in value.values())
    if inspect.isfunction(value):  # one that pickle finds again by its name
        return value.__module__.startswith("keras.") and value.__qualname__.isidentifier()
    return own not in value if isinstance(value, str) else isinstance(value, _PLAIN)
