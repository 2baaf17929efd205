"""Metrics of the user's own, `[metrics]`: measured on predictions, after each epoch or at the end of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data import streams
from search.data.dataset import Data, Part
from search.errors import TrialFailed, one_line
from search.studyfile.references import load_object
from search.studyfile.schema import Definition, MetricDefinition
from search.training.fit import as_tensors, held_out_rows

if TYPE_CHECKING:
    import keras

_HALF = 0.5


def functions(definition: Definition) -> dict[str, Callable[..., Any]]:
    """Return the functions that `[metrics]` names.

    Raises:
        ModelError: One cannot be imported.
    """
    return {
        name: load_object(each.function, definition.folder, f"metrics.{name}.function")
        for name, each in definition.own_metrics.items()
    }


def measure(
    definition: Definition, model: keras.Model, data: Data, part: Part, names: set[str] | None = None
) -> dict[str, float]:
    """Return the own metrics of a model on a part, by their names in `[metrics]`.

    Args:
        definition: The study file.
        model: Its predictions are measured.
        data: Says which task the predictions are for.
        part: What to predict.
        names: Only these metrics; all when left out.

    Raises:
        TrialFailed: A function raised, or returned no number.
    """
    wanted = {n: each for n, each in definition.own_metrics.items() if names is None or n in names}
    if not wanted:
        return {}
    known, (y_true, y_pred) = functions(definition), _predicted(model, part)
    return {name: _value(name, each, known[name], data.task, y_true, y_pred) for name, each in wanted.items()}


def each_epoch(definition: Definition, data: Data, watched: set[str]) -> list[keras.callbacks.Callback]:
    """Return a callback that logs the metrics measured after each epoch, to stand before all others.

    Args:
        definition: The study file.
        data: Without a validation part nothing is measured.
        watched: Names that a callback of `[fit]` watches, so that they are needed after each epoch.
    """
    import keras

    held_out = data.validation
    names = {n for n, each in definition.own_metrics.items() if each.every_epoch or f"val_{n}" in watched}
    if not names or held_out is None:
        return []

    part = held_out

    class OwnMetrics(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's own
            measured = measure(definition, self.model, data, part, names)
            if logs is not None:
                logs.update({f"val_{name}": value for name, value in measured.items()})

    return [OwnMetrics()]


def _predicted(model: keras.Model, part: Part) -> tuple[Any, Any]:
    """Return the targets of a part and the model's predictions for it."""
    if not part.streamed:
        return part.y, model.predict(as_tensors(part.x), batch_size=held_out_rows(model, part), verbose=0)
    import keras

    pairs = [(y, model.predict_on_batch(x)) for x, y in streams.batches(part.x)]
    y_true, y_pred = ([pair[i] for pair in pairs] for i in (0, 1))
    return _joined(y_true), keras.tree.map_structure(lambda *each: np.concatenate(each), *y_pred)


def _joined(batches: list[Any]) -> Any:
    import keras

    return keras.tree.map_structure(lambda *each: np.concatenate(each), *batches)


def _value(name: str, wanted: MetricDefinition, function: Any, task: str, y_true: Any, y_pred: Any) -> float:
    y_true, y_pred = _one_axis(y_true), _one_axis(y_pred)
    classes = task != "regression" and isinstance(y_pred, np.ndarray)
    try:
        if classes and wanted.threshold is not None:
            value = function(*_as_classes(task, y_true, y_pred, wanted.threshold), **wanted.options)
        else:
            value = _raw_or_classes(function, wanted.options, task, y_true, y_pred, classes=classes)
    except Exception as error:
        raise TrialFailed(f"metrics.{name}: {wanted.function} raised {one_line(error)}") from error
    if np.ndim(value) != 0 or isinstance(value, str) or value is None:
        raise TrialFailed(f"metrics.{name}: {wanted.function} returned {type(value).__name__}; return a number")
    return float(value)


def _raw_or_classes(
    function: Any, options: Mapping[str, Any], task: str, y_true: Any, y_pred: Any, *, classes: bool
) -> Any:
    """Give a function the probabilities, and the classes when it refuses those, as scikit-learn's scores do."""
    try:
        return function(y_true, y_pred, **options)
    except (ValueError, TypeError):
        if not classes:
            raise
        return function(*_as_classes(task, y_true, y_pred, _HALF), **options)


def _as_classes(task: str, y_true: Any, y_pred: Any, threshold: float) -> tuple[Any, Any]:
    if task == "multiclass" and y_pred.ndim > 1:
        one_hot = np.ndim(y_true) == y_pred.ndim
        return (y_true.argmax(axis=-1) if one_hot else y_true), y_pred.argmax(axis=-1)
    return y_true, (y_pred >= threshold).astype("int64")


def _one_axis(values: Any) -> Any:
    """Return numbers of shape (rows, 1) as (rows,), in single precision at least; anything else as it is."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind not in "fiubOUS":  # bfloat16, which NumPy's functions do not know
        values = values.astype("float32")
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
