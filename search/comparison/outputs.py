"""Makes a kept model's predictions for the test rows, in the worker that trained it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.predictions import ONLY, About, Predictions
from search.data import streams
from search.data.dataset import Data
from search.data.preprocessing import Column, raw
from search.studyfile.references import overrides
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

Batch = tuple[Any, Any, Any]  # inputs as Keras takes them, targets, weights of the rows
_LARGEST = 2**26  # bytes of outputs beyond which only the losses of the rows are kept
_FEW = 50  # values that a column may have to be kept as it is
_MOST_COLUMNS = 200
_ALL = 2**31  # rows of a first batch
_LEAST_SHARE = 1e-7


def predict(
    definition: Definition, data: Data, model: keras.Model, batches: Iterable[Batch], tested: Mapping[str, float]
) -> Predictions:
    """Return a model's predictions for the test rows.

    Args:
        definition: The study file.
        data: Its training part gives the trivial model; says which rows the test part has.
        model: The trained model.
        batches: The test part in the order of its rows.
        tested: What was measured on the test part, by name without `test_`.
    """
    metric = definition.metrics[0].removeprefix("val_")
    known = metric in tested
    about = About(
        digest=data.digest,
        split=_split(definition),
        task=str(data.task),
        classes=tuple(map(str, data.classes)),
        metric=metric if known else "loss",
        direction=definition.directions[0] if known else "minimize",
        logits=gives_logits(model, str(data.task)),
        loss=_loss_text(model),
        metrics=_library_metrics(definition),
        target=definition.data.targets,
        group=definition.data.group or "",
    )
    return _predictions(about, data, model, list(_tested(model, batches)))


@dataclass(frozen=True)
class _Tested:
    """One batch: what the model gave, the targets, the weights of the rows and the loss of each."""

    outputs: dict[str, NDArray[Any]]
    targets: dict[str, NDArray[Any]]
    weight: NDArray[Any] | None
    loss: NDArray[np.float32] | None


def _tested(model: keras.Model, batches: Iterable[Batch]) -> Iterator[_Tested]:
    losses: _Losses | None = None
    for x, y, weight in batches:
        raw = _by_name(model, _outputs(model, x))
        outputs, targets = _arrays(raw), _arrays(_by_name(model, y))
        single = weight is None or not isinstance(weight, Mapping | list | tuple)
        losses = _losses(model, list(outputs)) if losses is None else losses
        # From what the model returned: Keras knows the logits behind it, which arrays no longer have.
        loss = _total(losses, targets, raw) if single else None
        yield _Tested(outputs, targets, np.asarray(weight) if single and weight is not None else None, loss)


_Losses = dict[str, tuple[Any, float]]  # by output: the loss and its weight


def named(model: keras.Model, given: Any) -> list[tuple[str | None, Any]]:
    """Return each output of a model, or what belongs to it, with the output's name; a single one has none."""
    if isinstance(given, Mapping):
        return list(given.items())
    if not isinstance(given, list | tuple):
        return [(None, given)]
    names = list(getattr(model, "output_names", None) or ())
    if len(set(names)) != len(given):
        names = [f"output_{index}" for index in range(len(given))]
    return list(zip(names, given, strict=True))


def _by_name(model: keras.Model, given: Any) -> dict[str, Any]:
    """Return outputs or targets by name: by `ONLY` for one without."""
    if given is None:
        return {}
    return {ONLY if name is None else str(name): each for name, each in named(model, given)}


def _losses(model: keras.Model, names: Sequence[str]) -> _Losses:
    """Return each output's loss and its weight in the sum; empty where the model has none."""
    loss = getattr(model, "loss", None)
    try:
        weights = (model.get_compile_config() or {}).get("loss_weights")
    except (AttributeError, TypeError, ValueError):  # losses of the user's own that Keras cannot describe
        return {} if len(names) > 1 or loss is None else {names[0]: (loss, 1.0)}
    return {
        name: (each, 1.0 if weight is None else float(weight))
        for at, name in enumerate(names)
        if (each := _of_output(loss, name, at)) is not None
        for weight in [_of_output(weights, name, at)]
    }


def _of_output(given: Any, name: str, at: int) -> Any:
    """Return what `compile` was given for an output: by name, by position, or one for all."""
    if isinstance(given, Mapping):
        return given.get(name)
    if isinstance(given, list | tuple):
        return given[at] if at < len(given) else None
    return given


def _total(losses: _Losses, targets: Mapping[str, NDArray[Any]], raw: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Return the loss of each row, the weighted sum over the outputs; None where one gives no number for each row."""
    total: NDArray[np.float32] | None = None
    for name, (loss, weight) in losses.items():
        part = row_losses(loss, targets[name], raw[name]) if name in targets else None
        if part is None:
            return None
        total = weight * part if total is None else total + weight * part
    return total


def _outputs(model: keras.Model, x: Any) -> Any:
    """Return what a model gives for a batch; calling it is as good as `predict` and traces nothing."""
    import keras

    own = overrides(model, keras.Model, "predict_step", "predict")
    if own or keras.backend.backend() != "tensorflow":
        return model.predict_on_batch(x)
    return model(x, training=False)


def _predictions(about: About, data: Data, model: keras.Model, batches: Sequence[_Tested]) -> Predictions:
    outputs = _joined([batch.outputs for batch in batches])
    targets = _joined([batch.targets for batch in batches])
    count = len(next(iter(outputs.values())))
    baseline = _baseline(about, data, outputs.get(ONLY))
    constant: list[NDArray[np.float32] | None] = [None]
    if baseline is not None and batches[0].loss is not None:
        shapes = [batch.outputs[ONLY].shape for batch in batches]
        given = [np.broadcast_to(baseline, shape).reshape(shape) for shape in shapes]
        constant = [row_losses(model.loss, b.targets[ONLY], out) for b, out in zip(batches, given, strict=True)]
    large = sum(each.nbytes for each in outputs.values()) > _LARGEST
    rows = data.test_rows if data.test_rows is not None else np.arange(count)
    return Predictions(
        about=about,
        rows=np.asarray(rows, "int64"),
        targets={} if large else targets,
        outputs={} if large else outputs,
        loss=_whole([batch.loss for batch in batches]),
        weight=_whole([batch.weight for batch in batches]),
        group=None if data.test_group is None else np.asarray(data.test_group).astype(str),
        baseline=baseline,
        baseline_loss=_whole(constant),
        slices={} if data.test is None or data.test.streamed else slices(data.test.x, data.columns),
    )


def _whole(batches: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Return the numbers of all rows, of shape (n,); None where a batch has none."""
    known = [each for each in batches if each is not None and each.ndim == 1]
    return np.concatenate(known) if len(known) == len(batches) else None


def row_losses(loss: Any, y: NDArray[Any], output: Any) -> NDArray[np.float32] | None:
    """Return the loss of each row, of shape (n,); None where the loss gives no number for each row.

    Args:
        loss: What a model was compiled with, for one output.
        y: Targets.
        output: Outputs, an array or what a model returned.
    """
    import keras

    function = keras.losses.get(loss)
    call = function.call if isinstance(function, keras.losses.Loss) else function
    column = y[..., None] if y.ndim == len(output.shape) - 1 and output.shape[-1] == 1 else y
    column = column if column.dtype.kind in "iu" else column.astype("float32")
    values: NDArray[Any] = keras.ops.convert_to_numpy(call(column, output))
    if values.ndim == 0 or len(values) != len(y):
        return None
    return np.asarray(values.reshape(len(y), -1).mean(axis=1), "float32")


def slices(x: Any, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Return each row's value in the columns of a table that cut it into few parts.

    A column of more than 50 different numbers is cut at its quartiles.
    """
    named = itertools.islice(raw(x, columns) if columns else (), _MOST_COLUMNS)
    cut = {each.name: sliced(values if each.numeric else np.asarray(values, dtype=str)) for each, values in named}
    return {name: values for name, values in cut.items() if values is not None}


def sliced(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return a text for each value: the value, or between which quartiles it is; None for many texts."""
    if values.dtype.kind not in "fiub":
        texts = values.astype(str)
        return texts if len(np.unique(texts)) <= _FEW else None
    if len(np.unique(values)) <= _FEW:
        return np.asarray([f"{value:g}" for value in values.astype("float64")])
    edges = np.unique(np.nanquantile(values, (0.25, 0.5, 0.75)))
    names = [f"up to {edges[0]:.4g}"]
    names += [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    names += [f"above {edges[-1]:.4g}", "missing"]
    index = np.searchsorted(edges, values)
    return np.asarray(names)[np.where(np.isnan(values.astype("float64")), len(names) - 1, index)]


def _arrays(named: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {name: _array(each) for name, each in named.items()}


def _array(values: Any) -> NDArray[Any]:
    import keras

    array = np.asarray(keras.ops.convert_to_numpy(values) if not isinstance(values, np.ndarray) else values)
    if array.dtype == object:
        return array.astype(str)
    return array if array.dtype.kind in "iubSU" else array.astype("float32")


def _joined(batches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _baseline(about: About, data: Data, output: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return what the trivial model gives for each row, as the model gives it; None where it has no such shape."""
    y = streams.targets(data.train.x, data.example_targets(_ALL)) if data.train.streamed else data.train.y
    if output is None or not isinstance(y, np.ndarray) or y.dtype.kind not in "fiub":
        return None
    width = output.shape[-1] if output.ndim > 1 else 1
    flat = y.reshape(-1) if y.size == len(y) else y
    if about.task in ("binary", "multiclass") and flat.ndim == 1 and width > 1:
        indices = flat.astype(int)
        if indices.min() < 0 or indices.max() >= width:
            return None
        constant = np.bincount(indices, minlength=width) / len(indices)
    else:
        constant = np.atleast_1d(flat.astype("float64").mean(axis=0))
    if constant.shape != (output.shape[1:] or (1,)):
        return None
    if about.logits:
        share = np.clip(constant, _LEAST_SHARE, 1 - _LEAST_SHARE)
        constant = np.log(share) if about.task == "multiclass" else np.log(share / (1 - share))
    return constant.astype("float32")


def gives_logits(model: keras.Model, task: str) -> bool:
    """Return whether a classifier's outputs are logits, as its loss or its last layer says."""
    if task not in ("binary", "multiclass", "multilabel"):
        return False
    said = getattr(getattr(model, "loss", None), "from_logits", None)
    if said is not None:
        return bool(said)
    last = getattr(model.layers[-1], "activation", None) if model.layers else None
    return getattr(last, "__name__", "") == "linear"


def _loss_text(model: keras.Model) -> str:
    """Return a model's loss as JSON; empty where it has none, or several.

    Of a loss of the user's own only the name is told: it can be computed here, and nowhere without its code.
    """
    import keras

    loss = getattr(model, "loss", None)
    if loss is None or isinstance(loss, Mapping | list | tuple):
        return ""
    if isinstance(loss, keras.losses.Loss) and type(loss).__module__.startswith("keras."):
        return json.dumps(keras.losses.serialize(loss), default=str)
    return json.dumps(loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__))


def _library_metrics(definition: Definition) -> dict[str, Any]:
    """Return the `[metrics]` that can be measured again without the user's files."""
    return {
        name: {"function": each.function, "options": each.options, "threshold": each.threshold}
        for name, each in definition.own_metrics.items()
        if each.function.startswith("sklearn.")
    }


def _split(definition: Definition) -> str:
    """Return what decides which rows are the test part."""
    data = definition.data
    known = ("test_size", "seed", "stratify", "group", "time")
    return json.dumps({name: getattr(data, name) for name in known}, default=str)
