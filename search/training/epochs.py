"""The epochs of a training: their logs, and which of them the model's weights are from at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

OnEpoch = Callable[[int, float, dict[str, float], bool], None]
Weights = list["NDArray[Any]"]


@dataclass
class Epochs:
    """What a training logged.

    Attributes:
        logs: The logs of each epoch by its step. Steps count on when a model's own `fit` trains several times.
        ended: When each ended, in seconds since 1970.
        offset: What to add to Keras's epoch in the training that is going on.
        weights: Those at the end of the last epoch.
        measured: Those that an epoch's metrics were measured with, where a callback may change them afterwards.
        found: The epoch whose metrics the model has, where its training told no weights.
        restored: The epoch whose weights early stopping put back, whatever its metrics were measured with.
        changed: Epochs at whose end the weights were others than those that their metrics were measured with.
        began: When it began, by `time.perf_counter`, as if a kill had cost no time.
    """

    logs: dict[int, dict[str, float]] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    offset: int = 0
    weights: Weights | None = None
    measured: Weights | None = None
    found: int | None = None
    restored: int | None = None
    changed: set[int] = field(default_factory=set)
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long it has trained, in seconds, before a kill too."""
        return time.perf_counter() - self.began

    @property
    def last(self) -> int:
        """The step of the last epoch; -1 before the first."""
        return max(self.logs, default=-1)

    def add(self, epoch: int, logs: dict[str, float]) -> int:
        """Note an epoch as Keras counts it, and return its step."""
        if epoch + self.offset <= self.last:  # another training of the same model
            self.offset = self.last + 1 - epoch
        step = epoch + self.offset
        self.logs[step], self.ended[step] = logs, time.time()
        return step

    def kept(self, model: keras.Model, used: Sequence[keras.callbacks.Callback]) -> int | None:
        """Return the step of the epoch whose weights the model has; None if no epoch ended with them.

        A model whose own `fit` changes its weights after the last epoch, a callback that does, and an
        optimizer that puts averaged weights in place at the end leave weights that no epoch's logs are of; so does
        early stopping that restores others than those that an epoch was validated with, as with `SwapEMAWeights`.

        Args:
            model: The trained model.
            used: The callbacks it was trained with.
        """
        now = model.get_weights()
        for callback in reversed(used):  # the last to restore has the last word
            if restores(callback) and same(callback.best_weights, now):
                self.restored = int(callback.best_epoch) + self.offset
                return None if self.restored in self.changed else self.restored
        return self.last if same(self.weights, now) else self.found


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return logs as numbers: of a vector the mean, as `F1Score` gives a value for each class; without texts."""
    found = {name: _number(value) for name, value in logs.items()}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    import keras

    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        return float(np.mean(np.asarray(keras.ops.convert_to_numpy(value), "float64")))
    except (TypeError, ValueError):
        return None


def restores(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback puts the best epoch's weights back at the end of training."""
    import keras

    return isinstance(callback, keras.callbacks.EarlyStopping) and bool(callback.restore_best_weights)


def same(some: Weights | None, others: Weights) -> bool:
    """Return whether two lists of weights are equal to the last bit."""
    return some is not None and len(some) == len(others) and all(map(np.array_equal, some, others))


def watcher(epochs: Epochs, on_epoch: OnEpoch) -> keras.callbacks.Callback:
    """Return a callback that notes every epoch; it goes last.

    Args:
        epochs: Where to note them.
        on_epoch: Called with the step, when the epoch ended, the logs, and whether it is the training's last one.
    """
    import keras

    class Watcher(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            logged = numbers(logs or {})
            step = epochs.add(epoch, logged)
            last = self.model.stop_training or epoch + 1 >= self.params.get("epochs", 0)
            if epochs.measured and not same(epochs.measured, self.model.get_weights()):
                epochs.changed.add(step)
            if last:
                epochs.weights = epochs.measured or self.model.get_weights()
            epochs.measured = None
            on_epoch(step, epochs.ended[step], logged, last)

    return Watcher()


def measured_with(epochs: Epochs) -> keras.callbacks.Callback:
    """Return a callback that notes the weights with which an epoch was validated; it goes first.

    One of the user's may put the best weights back at an epoch's end, when its metrics are measured already.

    Args:
        epochs: Where to note them.
    """
    import keras

    class MeasuredWith(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's own
            epochs.measured = self.model.get_weights()

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
            epochs.measured = epochs.measured or self.model.get_weights()

    return MeasuredWith()
