"""Metrics of predictions, by Keras's and scikit-learn's names, in a form that resampled rows are scored in at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.predictions import ONLY, About, Predictions
from search.serving.meaning import Meaning

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOP = 5
_SMALLEST = 1e-7
_MINIMIZED = re.compile(r"loss|error|deviance|divergence|crossentropy|hinge|^(mse|mae|mape|msle|rmse|poisson)$")
_ACCURACIES = ("accuracy", "acc", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy")
_SHORT = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "rmse": "root_mean_squared_error",
    "r2": "r2_score",
    "accuracy_score": "accuracy",
    "f1": "f1_score",
    "precision_score": "precision",
    "recall_score": "recall",
    "roc_auc_score": "auc",
    "balanced_accuracy": "balanced_accuracy_score",
}


@dataclass(frozen=True)
class Score:
    """A metric of one model on some rows.

    Attributes:
        name: The metric.
        maximize: Whether more is better.
        parts: What each row adds to the sums that the metric is made of, shape (n, sums); None where the metric
            is no function of sums.
        of: The metric of sums of shape (…, sums); without `parts` of how often each row counts, shape (…, n).
    """

    name: str
    maximize: bool
    parts: NDArray[np.float64] | None
    of: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    rows: int

    @property
    def value(self) -> float:
        """The metric with every row counted once."""
        sums = np.ones((1, self.rows)) if self.parts is None else self.parts.sum(axis=0, keepdims=True)
        with np.errstate(all="ignore"):
            return float(self.of(sums)[0])


def score_of(name: str, predictions: Predictions) -> Score | None:
    """Return a metric of predictions; None if the kept arrays do not suffice.

    Args:
        name: As Keras logs it, with or without `val_` or `test_`, a name of the study's `[metrics]`, or a
            function of `sklearn.metrics`.
        predictions: Outputs and targets.
    """
    about, plain = predictions.about, re.sub(r"^(val|test)_", "", name)
    maximize = about.direction == "maximize" if plain == about.metric else not _is_loss(about, plain)
    if plain == "loss":
        return _loss(predictions)
    if len(predictions.outputs) > 1:
        return _of_output(plain, predictions)
    if predictions.output is None or predictions.target is None or len(predictions) == 0:
        return None
    if plain in about.metrics:
        return _library(plain, maximize, predictions, about.metrics[plain])
    bare = re.sub(r"_\d+$", "", plain)
    made = _own(_SHORT.get(bare, bare), predictions)
    if made is not None:
        parts, of = made
        return Score(plain, maximize, parts, of, len(predictions))
    return _library(plain, maximize, predictions, {"function": f"sklearn.metrics:{bare}"})


def _of_output(name: str, predictions: Predictions) -> Score | None:
    """Return a metric of one of several outputs, which Keras logs under the output's name."""
    about = predictions.about
    for output, meaning in sorted(
        zip(predictions.outputs, about.meanings, strict=False), key=lambda output: len(output[0]), reverse=True
    ):
        if name.startswith(f"{output}_") and output in predictions.targets:
            metric = name.removeprefix(f"{output}_")
            judged = metric if name == about.metric else ""
            one: dict[str, Any] = {
                kind: {ONLY: getattr(predictions, kind)[output]} if output in getattr(predictions, kind) else {}
                for kind in ("targets", "outputs", "baseline")
            }
            told = replace(about, task=meaning.task or "regression", meanings=(meaning,), metric=judged)
            found = score_of(metric, replace(predictions, about=told, loss=None, **one))
            return None if found is None else replace(found, name=name)
    return None


def _is_loss(about: About, name: str) -> bool:
    """Return whether lower is better, judged by the function behind the user's name for a metric."""
    function = str(about.metrics.get(name, {}).get("function", "")).rpartition(":")[2] or name
    return not function.endswith("_score") and _MINIMIZED.search(function) is not None


def trivial(predictions: Predictions) -> Predictions | None:
    """Return what the trivial model gives for the same rows; None where that is not known."""
    if not predictions.baseline:
        return None
    outputs = {
        name: np.broadcast_to(predictions.baseline[name], output.shape)
        for name, output in predictions.outputs.items()
        if name in predictions.baseline
    }
    return replace(predictions, outputs=outputs, loss=predictions.baseline_loss)


def _loss(predictions: Predictions) -> Score | None:
    if predictions.loss is None:
        return None
    loss = predictions.loss.astype("float64")
    weight = np.ones(len(loss)) if predictions.weight is None else predictions.weight.astype("float64")
    return Score("loss", False, np.stack([loss * weight, weight], axis=1), _ratio, len(loss))


Made = tuple["NDArray[np.float64] | None", "Callable[[NDArray[np.float64]], NDArray[np.float64]]"]


def _own(name: str, predictions: Predictions) -> Made | None:
    """Return a metric that is computed with NumPy; None for others."""
    if name in _ERRORS:
        return _error(name, predictions)
    if name in _OF_COUNTS:
        return _of_counts(name, predictions)
    maker = _MAKERS.get(name)
    return None if maker is None else maker(predictions)


def _error(name: str, predictions: Predictions) -> Made | None:
    y, output = _numbers(predictions)
    if y.shape != output.shape:
        return None
    parts = _counted(_per_row(_ERRORS[name](y, output)))
    return parts, lambda sums: np.sqrt(_ratio(sums)) if name.startswith("root") else _ratio(sums)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _counted(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.stack([values.astype("float64"), np.ones(len(values))], axis=1)


def _mean(values: NDArray[Any] | None) -> Made | None:
    return None if values is None else (_counted(values), _ratio)


def _per_row(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values.reshape(len(values), -1).mean(axis=1))


def _numbers(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return targets and outputs as numbers of one shape where they are."""
    assert predictions.target is not None  # noqa: S101 - for the type checker: `score_of` saw it
    assert predictions.output is not None  # noqa: S101
    y, output = predictions.target, predictions.output.astype("float64")
    y = y.astype("float64") if y.dtype.kind in "fiub" else np.full(len(y), np.nan)
    if output.ndim == y.ndim + 1 and output.shape[-1] == 1:
        output = output[..., 0]
    elif y.ndim == output.ndim + 1 and y.shape[-1] == 1:
        y = y[..., 0]
    elif y.ndim > 1 and y.shape == output.shape and y.shape[-1] == 1:
        y, output = y[..., 0], output[..., 0]
    return y, output


def _classes(predictions: Predictions, threshold: float | None = None) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the true and the predicted class of each row; None unless each row has one class."""
    found = None if predictions.meaning.task == "multilabel" else _indices(predictions, threshold)
    return found if found is not None and found[0].ndim == 1 else None


def _indices(predictions: Predictions, threshold: float | None = None) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return true and predicted classes in the shape of the targets; None if the outputs have no classes."""
    meaning, output, y = predictions.meaning, predictions.output, predictions.target
    if output is None or y is None or y.dtype.kind not in "fiub" or not np.isfinite(output).all():
        return None
    if not meaning.has_classes:
        return None
    true, told = meaning.target_indices(y, output), meaning.indices(output, threshold)
    return (true, told) if true.shape == told.shape else None


def _right(predictions: Predictions) -> NDArray[Any] | None:
    found = _indices(predictions)
    return None if found is None else _per_row(found[0] == found[1])


def _among_top(predictions: Predictions) -> NDArray[Any] | None:
    known, output = _classes(predictions), predictions.output
    if known is None or output is None or output.ndim != 2 or output.shape[1] < 2:
        return None
    of_class = output[np.arange(len(output)), known[0]]
    return np.asarray((output > of_class[:, None]).sum(axis=1) < _TOP)


_ERRORS: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "mean_squared_error": lambda y, output: np.square(y - output),
    "root_mean_squared_error": lambda y, output: np.square(y - output),
    "mean_absolute_error": lambda y, output: np.abs(y - output),
    "mean_absolute_percentage_error": lambda y, output: 100 * np.abs(y - output) / np.maximum(np.abs(y), _SMALLEST),
    "mean_squared_logarithmic_error": lambda y, output: np.square(
        np.log1p(np.maximum(y, _SMALLEST)) - np.log1p(np.maximum(output, _SMALLEST))
    ),
}


def _r2(predictions: Predictions) -> Made | None:
    y, output = _numbers(predictions)
    if y.shape != output.shape or y.ndim != 1:
        return None
    parts = np.stack([np.square(y - output), np.square(y), y, np.ones(len(y))], axis=1)

    def of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.asarray(1 - sums[..., 0] / (sums[..., 1] - np.square(sums[..., 2]) / sums[..., 3]))

    return parts, of


def _recall(right: NDArray[Any], told: NDArray[Any], true: NDArray[Any]) -> NDArray[Any]:  # noqa: ARG001
    return np.asarray(right / np.maximum(true, _SMALLEST))


# Of how often each class is predicted rightly, predicted, and true.
_OF_COUNTS: Mapping[str, Callable[..., Any]] = {
    "precision": lambda right, told, true: right / np.maximum(told, _SMALLEST),  # noqa: ARG005
    "recall": _recall,
    "f1_score": lambda right, told, true: 2 * right / np.maximum(told + true, _SMALLEST),
    "balanced_accuracy_score": _recall,
}


def _of_counts(name: str, predictions: Predictions) -> Made | None:
    """Return a metric of counts, of class 1 or as the classes' mean."""
    known = _classes(predictions)
    if known is None:
        return None
    count = int(max(known[0].max(), known[1].max(), 1)) + 1
    one = predictions.meaning.task == "binary" and name != "balanced_accuracy_score"
    classes = np.asarray([1]) if one else np.arange(count)
    true, told = (side[:, None] == classes for side in known)
    parts = np.concatenate([true & told, told, true], axis=1).astype("float64")

    def of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        right, told_sum, true_sum = np.split(sums, 3, axis=-1)
        values = _OF_COUNTS[name](right, told_sum, true_sum)
        seen = true_sum + told_sum > 0
        return np.asarray((values * seen).sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1))

    return parts, of


def _auc(predictions: Predictions) -> Made | None:
    task = predictions.meaning.task
    if task in ("multiclass", "multilabel"):
        options = {"multi_class": "ovr"} if task == "multiclass" else {}
        found = _library("auc", True, predictions, {"function": "sklearn.metrics:roc_auc_score", "options": options})
        return None if found is None else (None, found.of)
    known = _classes(predictions)
    if known is None or predictions.output is None:
        return None
    output = predictions.output.reshape(len(known[0]), -1)[:, -1]
    order = np.argsort(output, kind="stable")
    starts = np.flatnonzero(np.diff(output[order], prepend=-np.inf))
    positive = (known[0] > 0)[order]

    def of(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sorted_counts = counts[..., order]
        above = np.add.reduceat(sorted_counts * positive, starts, axis=-1)
        below = np.add.reduceat(sorted_counts * ~positive, starts, axis=-1)
        pairs = (above * (below.cumsum(axis=-1) - below / 2)).sum(axis=-1)
        with np.errstate(all="ignore"):
            return np.asarray(pairs / (above.sum(axis=-1) * below.sum(axis=-1)))

    return None, of


_MAKERS: Mapping[str, Callable[[Predictions], Made | None]] = {
    **dict.fromkeys(_ACCURACIES, lambda predictions: _mean(_right(predictions))),
    "top_k_categorical_accuracy": lambda predictions: _mean(_among_top(predictions)),
    "sparse_top_k_categorical_accuracy": lambda predictions: _mean(_among_top(predictions)),
    "r2_score": _r2,
    "auc": _auc,
}


def _library(name: str, maximize: bool, predictions: Predictions, wanted: Mapping[str, Any]) -> Score | None:
    """Return a metric by a function of scikit-learn; None where there is no such function."""
    from sklearn import metrics

    function = getattr(metrics, str(wanted["function"]).partition(":")[2], None)
    if not callable(function) or not hasattr(function, "__wrapped__"):
        return None
    options, threshold = wanted.get("options") or {}, wanted.get("threshold")
    y, output = _numbers(predictions)

    def once(index: NDArray[np.intp]) -> float:
        try:
            return float(
                applied(function, predictions.meaning, y[index], output[index], options, threshold, scores=True)
            )
        except (ValueError, TypeError):
            return float("nan")

    def of(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = np.arange(len(predictions))
        return np.asarray([once(np.repeat(rows, count.astype(int))) for count in counts])

    return Score(name, maximize, None, of, len(predictions))


def applied(
    function: Callable[..., Any],
    meaning: Meaning | None,
    y: Any,
    output: Any,
    options: Mapping[str, Any],
    threshold: float | None,
    *,
    scores: bool,
) -> Any:
    """Call a metric's function with scores, or with classes if it refuses scores.

    Args:
        function: It is called as `function(y_true, y_pred, **options)`.
        meaning: What the output means; None for several outputs, which the function gets as they are.
        y: Targets.
        output: Outputs.
        options: The function's options.
        threshold: The probability above which a row is of class 1; None to try scores first.
        scores: Whether it takes probabilities instead of logits, as scikit-learn's functions do.
    """
    if meaning is not None and meaning.kind != "numbers" and threshold is not None:
        return function(meaning.target_indices(y, output), meaning.indices(output, threshold), **options)
    try:
        return function(y, meaning.scores(output) if scores and meaning is not None else output, **options)
    except (ValueError, TypeError):
        if meaning is None or meaning.kind == "numbers" or not np.isfinite(output).all():
            raise
    if meaning.task == "binary" and np.ndim(y) == 1 and np.shape(output)[1:] == (2,):
        with suppress(ValueError, TypeError):
            return function(y, meaning.scores(output)[:, 1], **options)
    true, told = meaning.target_indices(y, output), meaning.indices(output)
    if meaning.task == "multiclass":  # of every step of a sequence
        true, told = true.reshape(-1), told.reshape(-1)
    return function(true, told, **options)
