"""Makes a kept model's predictions for the test rows, in the worker that trained it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.predictions import ONLY, About, Predictions, joined
from search.data import streams
from search.data.dataset import Data
from search.data.preprocessing import Column, named_inputs, raw
from search.serving.meaning import Meaning, decide, named, of_output
from search.studyfile.references import overrides
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

Batch = tuple[Any, Any, Any]  # inputs as Keras takes them, targets, weights of the rows
_LARGEST = 2**26  # bytes of outputs beyond which only the losses of the rows are kept
_LARGEST_INPUTS = 2**24  # bytes of rows beyond which they are not kept
_FEW = 50  # values that a column may have to be kept as it is
_MOST_COLUMNS = 200
_SOME = 1000  # targets that are looked at
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
    batches = iter(batches)
    first = next(batches)
    about = About(
        digest=data.digest,
        split=_split(definition),
        task=str(data.task),
        classes=tuple(map(str, data.classes)),
        metric=metric if known else "loss",
        direction=definition.directions[0] if known else "minimize",
        meanings=meanings(model, first[0], data),
        loss=_loss_text(model),
        metrics=_library_metrics(definition),
        target=definition.data.targets,
        group=definition.data.group or "",
    )
    parts = list(_tested(about, model, itertools.chain([first], batches)))
    outputs = parts[0].outputs
    baseline = constants(about.meanings, outputs, data)
    if len(baseline) == len(outputs) and parts[0].loss is not None:
        losses = _losses(model, list(outputs))
        parts = [
            replace(part, baseline_loss=_total(losses, part.targets, spread(baseline, part.outputs))) for part in parts
        ]
    whole = joined(parts)
    x = None if data.test is None or data.test.streamed else data.test.x
    large = sum(output.nbytes for output in whole.outputs.values()) > _LARGEST
    return replace(
        whole,
        rows=np.arange(len(whole)) if data.test_rows is None else np.asarray(data.test_rows, "int64"),
        targets={} if large else whole.targets,
        outputs={} if large else whole.outputs,
        group=None if data.test_group is None else np.asarray(data.test_group).astype(str),
        baseline=baseline,
        slices={} if x is None else slices(x, data.columns),
        inputs={} if x is None else _inputs(x, data.columns),
    )


def fixed_rows(model: keras.Model) -> int | None:
    """Return how many rows a model takes at once, `Input(batch_shape=(16, …))`; None where it takes any number."""
    sizes = {tensor.shape[0] for tensor in getattr(model, "inputs", None) or () if tensor.shape} - {None}
    return max(sizes, default=None)


def meanings(model: keras.Model, x: Any, data: Data) -> tuple[Meaning, ...]:
    """Return what each output of a model means.

    Args:
        model: The model.
        x: At least one row, as Keras takes it, or as many as the model takes at once.
        data: The data that it learned.
    """
    import keras

    one = keras.tree.map_structure(lambda array: array[: fixed_rows(model) or 1], x)
    try:
        given = outputs_of(model, one)
    except Exception:  # a `predict_step` of the user's own, for other rows
        given = model(one, training=False)
    return decide(model, one, given, str(data.task), data.classes, targets=data.example_targets(_SOME))


def _tested(about: About, model: keras.Model, batches: Iterable[Batch]) -> Iterator[Predictions]:
    """Yield outputs, targets, row weights and row losses of each batch."""
    losses: _Losses | None = None
    for x, y, weight in batches:
        raw = _by_name(model, outputs_of(model, x))
        outputs, targets = _arrays(raw), _arrays(_by_name(model, y))
        losses = _losses(model, list(outputs)) if losses is None else losses
        single = weight is None or not isinstance(weight, Mapping | list | tuple)
        # From what the model returned: Keras knows the logits behind it, which arrays no longer have.
        loss = _total(losses, targets, raw) if single else None
        kept = np.asarray(weight) if single and np.ndim(weight) == 1 else None
        rows = np.zeros(len(next(iter(outputs.values()))), "int64")
        yield Predictions(about, rows, targets, outputs, loss, kept)


_Losses = dict[str, tuple[Any, float]]  # by output: the loss and its weight


def _by_name(model: keras.Model, given: Any) -> dict[str, Any]:
    """Return outputs or targets by name: by `ONLY` for one without."""
    if given is None:
        return {}
    return {ONLY if name is None else str(name): value for name, value in named(model, given)}


def _losses(model: keras.Model, names: Sequence[str]) -> _Losses:
    """Return each output's loss and its weight in the sum; empty where the model has none."""
    loss = getattr(model, "loss", None)
    try:
        weights = (model.get_compile_config() or {}).get("loss_weights")
    except Exception:  # losses and schedules of the user's own that Keras cannot describe
        return {} if len(names) > 1 or loss is None else {names[0]: (loss, 1.0)}
    return {
        name: (part_loss, 1.0 if weight is None else float(weight))
        for at, name in enumerate(names)
        if (part_loss := of_output(loss, name, at)) is not None
        for weight in [of_output(weights, name, at)]
    }


def _total(losses: _Losses, targets: Mapping[str, NDArray[Any]], raw: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Return the loss of each row, the weighted sum over the outputs; None where one gives no number for each row."""
    total: NDArray[np.float32] | None = None
    for name, (loss, weight) in losses.items():
        part = row_losses(loss, targets[name], raw[name]) if name in targets else None
        if part is None:
            return None
        total = weight * part if total is None else total + weight * part
    return total


def losses_of(
    model: keras.Model, targets: Mapping[str, NDArray[Any]]
) -> Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]:
    """Return a function from outputs to row losses, by a model's compiled loss.

    The outputs may be those of several models for the same rows, one model's after another's.

    Raises:
        ValueError: The loss gives no number for each row.
    """
    losses, count = _losses(model, list(targets)), len(next(iter(targets.values())))

    def of(outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        models = len(next(iter(outputs.values()))) // count
        several = {name: np.concatenate([target] * models) for name, target in targets.items()}
        found = _total(losses, several, {name: output.astype("float32") for name, output in outputs.items()})
        if found is None:
            raise ValueError("the loss gives no number for each row")
        return found

    return of


def outputs_of(model: keras.Model, x: Any) -> Any:
    """Return what a model gives for a batch; calling it is as good as `predict` and traces nothing."""
    import keras

    own = overrides(model, keras.Model, "predict_step", "predict")
    if own or keras.backend.backend() != "tensorflow":
        return model.predict_on_batch(x)
    return model(x, training=False)


def spread(baseline: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Repeat the trivial model's outputs for every row."""
    return {name: np.broadcast_to(constant, outputs[name].shape) for name, constant in baseline.items()}


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


def _inputs(x: Any, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Return rows by column or input, as a person sends them; nothing where they are too large to keep."""
    named_rows = {column.name: values for column, values in raw(x, columns)} if columns else named_inputs(x)
    arrays = {
        name: np.asarray(values).astype("U") if np.asarray(values).dtype.kind in "OS" else np.asarray(values)
        for name, values in named_rows.items()
    }
    return arrays if sum(array.nbytes for array in arrays.values()) <= _LARGEST_INPUTS else {}


def slices(x: Any, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Return the slice of each row, for each column of a table with few slices.

    A column of more than 50 different numbers is cut at its quartiles.
    """
    named = itertools.islice(raw(x, columns) if columns else (), _MOST_COLUMNS)
    cut = {column.name: sliced(values if column.numeric else np.asarray(values, dtype=str)) for column, values in named}
    return {name: values for name, values in cut.items() if values is not None}


def sliced(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return each value's slice as text: the value itself, or its quartile range; None for many different texts."""
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
    return {name: _array(value) for name, value in named.items()}


def _array(values: Any) -> NDArray[Any]:
    import keras

    array = np.asarray(keras.ops.convert_to_numpy(values) if not isinstance(values, np.ndarray) else values)
    if array.dtype == object:
        return array.astype(str)
    return array if array.dtype.kind in "iubSU" else array.astype("float32")


def constants(
    meanings: Sequence[Meaning], outputs: Mapping[str, NDArray[Any]], data: Data
) -> dict[str, NDArray[np.float32]]:
    """Return the trivial model's constant output by output name, where it is known.

    That is the training rows' share of each class, or their mean, in the unit of the output.

    Args:
        meanings: What each output means.
        outputs: The outputs for some rows, which tell their shapes.
        data: Its training part has the targets.
    """
    y = streams.targets(data.train.x, data.example_targets(_ALL)) if data.train.streamed else data.train.y
    several = len(outputs) > 1
    found = {}
    for at, (meaning, (name, output)) in enumerate(zip(meanings, outputs.items(), strict=True)):
        targets = of_output(y, name, at) if several or isinstance(y, Mapping) else y
        if isinstance(targets, np.ndarray) and targets.dtype.kind in "fiub" and targets.size:
            constant = _constant(meaning, targets, output)
            if constant is not None:
                found[name] = np.asarray(constant, "float32")
    return found


def _constant(meaning: Meaning, y: NDArray[Any], output: NDArray[Any]) -> NDArray[Any] | None:
    shape = output.shape[1:]
    if not meaning.has_classes:
        flat = y.reshape(-1) if y.size == len(y) else y
        mean = np.atleast_1d(flat.astype("float64").mean(axis=0))
        return mean if mean.shape == (shape or (1,)) else None
    width = shape[-1] if shape else 1
    index = meaning.target_indices(y, output)
    if width > 1 and meaning.task != "multilabel":
        if index.min() < 0 or index.max() >= width:
            return None
        share = np.bincount(index.reshape(-1), minlength=width) / index.size
    else:
        share = np.atleast_1d(index.mean(axis=0))
    if meaning.kind == "logits":
        share = np.clip(share, _LEAST_SHARE, 1 - _LEAST_SHARE)
        softmax = width > 1 and meaning.task != "multilabel" and not meaning.independent
        share = np.log(share) if softmax else np.log(share / (1 - share))
    elif meaning.kind == "signs":
        share = np.sign(2 * share - 1)
    return np.broadcast_to(share, shape or (1,)) if share.shape in ((width,), shape) else None


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
        name: {"function": metric.function, "options": metric.options, "threshold": metric.threshold}
        for name, metric in definition.own_metrics.items()
        if metric.function.startswith("sklearn.")
    }


def _split(definition: Definition) -> str:
    """Return what decides which rows are the test part."""
    data = definition.data
    known = ("test_size", "seed", "stratify", "group", "time")
    return json.dumps({name: getattr(data, name) for name in known}, default=str)
