"""What the model to register takes and gives, in words and numbers that need neither the model nor the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison import outputs
from search.comparison.seen import seen_by
from search.data import files, streams
from search.data.dataset import Data
from search.data.facts import facts
from search.data.preprocessing import MISSING, leaves, raw
from search.data.profile import profile_of
from search.data.summary import Answers, DataSummary, Interface, TensorSpec
from search.errors import ModelError
from search.serving.meaning import Meaning, named
from search.studyfile.objects import called
from search.studyfile.schema import Definition
from search.training import fit
from search.training.model import registered_example

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

_LOOKED_AT, _BATCH = 500, 100  # validation rows that are drawn, and how many a model is given at a time
_MOST_CLASSES, _GRID, _POINTS = 20, 40, 200


def describe(
    definition: Definition,
    data: Data,
    model: keras.Model,
    *,
    log_names: tuple[str, ...] = (),
    path: str = "",
    seconds: float = 0.0,
) -> DataSummary:
    """Return what MLflow and the person are told of the data and of the model that learns them.

    Args:
        definition: The study file.
        data: The data of one trial.
        model: The model to register.
        log_names: Every metric that Keras logs for it.
        path: How it is trained.
        seconds: How long loading the data took.

    Raises:
        ModelError: The model cannot predict, or gives other than one prediction for a row.
    """
    import keras

    return DataSummary(
        name=data.name,
        source=definition.data.source,
        digest=data.digest,
        task=data.task,
        classes=data.classes,
        rows={"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test or ())},
        columns=tuple((column.name, column.kind) for column in data.columns),
        log_names=log_names,
        path=path,
        seconds=seconds,
        backend=keras.backend.backend(),
        profile=profile_of(data),
        optional=_incomplete(data),
        reading={"kind": definition.data.kind, "options": files.travelling(definition.data.options)},
        facts=facts(data),
        seen=seen_by(data),
        doubts=data.doubts,
        cut=data.cut,
        **vars(interface(definition, data, model)),
    )


def interface(definition: Definition, data: Data, model: keras.Model) -> Interface:
    """Return what a model takes and gives.

    Args:
        definition: The study file.
        data: The data of one trial.
        model: The model to register.

    Raises:
        ModelError: The model cannot predict, or gives other than one prediction for a row.
    """
    example = registered_example(definition, model, data)
    inputs = _inputs(example, model, data)
    output = _output(definition, model, example, inputs)
    meanings = outputs.meanings(model, fit.as_tensors(example), data)
    centers = {column.name: column.center for column in data.columns if column.center}
    return Interface(inputs, _raw_example(data) if data.columns else example, output, meanings, centers)


def _output(
    definition: Definition, model: keras.Model, example: Any, inputs: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """Return what the model to register gives: one array, or several with their names."""
    import keras

    where, rows = f"model.build: {called(definition.model.build)}", fit.fixed_rows(model) or 1
    one = keras.tree.map_structure(lambda each: each[:rows], example)
    try:
        predicted = outputs.outputs_of(model, fit.as_tensors(one))
    except NotImplementedError:
        raise ModelError(
            f"{where}: the model has no `call`, so it cannot be registered; "
            "name a function in model.export that returns the model to register"
        ) from None
    found = named(model, predicted)
    for name, each in found:
        if isinstance(each, dict | list | tuple):
            raise ModelError(f"{where}: the model's outputs are nested; give one dictionary or one list of outputs")
        if each.shape[0] != rows:
            what = f" in output '{name}'" if name else ""
            raise ModelError(f"{where}: {each.shape[0]} predictions for {rows} row{what}")
    shapes = [(-1, *_open(each.shape[1:], model, name)) for name, each in found]
    if not getattr(model, "inputs", None) and any(-1 in each.shape[1:] for each in inputs):
        shapes = _left_open_by_shorter(shapes, model, one, inputs)
    return tuple(TensorSpec(_dtype(each), shape, name) for (name, each), shape in zip(found, shapes, strict=True))


def _left_open_by_shorter(
    shapes: list[tuple[int, ...]], model: keras.Model, one: Any, inputs: tuple[TensorSpec, ...]
) -> list[tuple[int, ...]]:
    """Return outputs' shapes with -1 where a size follows the inputs' open ones, in a model that does not say."""
    import keras

    arrays = [one[spec.name] for spec in inputs] if isinstance(one, dict) else leaves(one)
    parts = {
        id(array): tuple(slice(-1 if size == -1 else None) for size in (1, *spec.shape[1:]))
        for array, spec in zip(arrays, inputs, strict=True)
    }
    shorter = keras.tree.map_structure(lambda each: each[parts[id(each)]], one)
    try:
        given = [each.shape for _, each in named(model, outputs.outputs_of(model, fit.as_tensors(shorter)))]
    except Exception:  # whatever a model of the user's own raises of other sizes
        return shapes
    return [
        (-1, *(size if size in (-1, now) else -1 for size, now in zip(shape[1:], other[1:], strict=True)))
        for shape, other in zip(shapes, given, strict=True)
    ]


def answers(definition: Definition, model: keras.Model, data: Data) -> bytes:
    """Return what a model gives for the rows of its input example, as `Answers` writes them."""
    example = registered_example(definition, model, data)
    first, again = (dict(_plain_outputs(model, example)) for _ in range(2))
    same = all(np.allclose(first[name], again[name], equal_nan=True) for name in first)
    return Answers(example, first if same else {}).to_bytes()


def _plain_outputs(model: keras.Model, example: Any) -> Iterator[tuple[str, Any]]:
    import keras

    for name, each in named(model, outputs.outputs_of(model, fit.as_tensors(example))):
        if _dtype(each) == "object":  # texts, which have no distance
            continue
        yield name or "", keras.ops.convert_to_numpy(keras.ops.cast(each, "float32"))


def _open(shape: Any, model: keras.Model, name: str | None) -> tuple[int, ...]:
    """Return an output's shape with -1 where the model leaves a size open: lengths, sizes of pictures."""
    known = getattr(model, "output_shape", None)
    if isinstance(known, dict):
        known = known.get(name)
    elif isinstance(known, list):
        known = known[list(model.output_names).index(name)] if name in getattr(model, "output_names", ()) else None
    if not isinstance(known, tuple) or len(known) != len(shape) + 1:
        return tuple(shape)
    return tuple(-1 if open_size is None else size for size, open_size in zip(shape, known[1:], strict=True))


def _dtype(tensor: Any) -> str:
    """Return an output's type as NumPy knows it: bfloat16 is served as float32, texts as objects."""
    import keras

    name = str(keras.backend.standardize_dtype(tensor.dtype))  # of whatever backend
    return {"bfloat16": "float32", "string": "object"}.get(name, name)


def _inputs(x: Any, model: keras.Model, data: Data) -> tuple[TensorSpec, ...]:
    """Return what the model takes; sizes that it, or a stream where it does not say, leaves open stay open."""
    listed = [(f"input_{index}", each) for index, each in enumerate(x)] if isinstance(x, list | tuple) else [(None, x)]
    named = list(x.items() if isinstance(x, dict) else listed)
    known = list(getattr(model, "inputs", None) or ())
    by_name = {each.name: each.shape for each in known} or streams.input_shapes(data.train.x)
    by_place = [each.shape for each in known]
    specs = []
    for index, (name, each) in enumerate(named):
        place = by_place[index] if len(known) == len(named) else by_name.get(index)
        shape = by_name.get(name) if isinstance(x, dict) else place
        specs.append(TensorSpec(str(each.dtype), (-1, *_left_open(each.shape[1:], shape)), name))
    return tuple(specs)


def _left_open(shape: tuple[int, ...], known: tuple[int | None, ...] | None) -> tuple[int, ...]:
    if known is None or len(known) != len(shape) + 1:
        return shape
    return tuple(-1 if open_size is None else size for size, open_size in zip(shape, known[1:], strict=True))


def _incomplete(data: Data) -> tuple[str, ...]:
    """Return the columns of which the training part has missing values."""
    named = raw(data.x, data.columns) if data.columns else ()
    return tuple(
        column.name
        for column, values in named
        if (np.isnan(values) if column.numeric else np.asarray(values == MISSING)).any()
    )


def _raw_example(data: Data) -> Any:
    """Return a few rows as the user sends them."""
    named = raw(data.example(), data.columns)
    return {column.name: [_raw_value(each, column.kind) for each in values] for column, values in named}


def _raw_value(value: Any, kind: str) -> Any:
    if kind == "string":
        return str(value)
    if kind != "double" and math.isnan(value):  # a missing whole number
        return None
    return {"long": int, "boolean": bool, "double": float}[kind](value)


def looks(model: keras.Model, data: Data) -> dict[str, Any]:
    """Return what shows at a glance how a model errs on validation rows, as JSON.

    Returns:
        `confusion`: how many rows of each class (first axis) are taken for each, with `classes`; or `residuals`:
        true and predicted values; for two features `regions`: the class of each point of a grid, rows from the
        lowest second feature up, with its `extent` and some `points`. Nothing for other tasks and for streams.
    """
    part = data.validation
    if part is None or part.streamed or not isinstance(part.y, np.ndarray):
        return {}
    part = part.take(slice(0, _LOOKED_AT))
    starts = range(0, len(part), _BATCH)
    output = np.concatenate([_plain(model, part.take(slice(at, at + _BATCH)).x) for at in starts])
    if data.task == "regression" and output.size == part.y.size == len(part):
        pairs = zip(part.y.reshape(-1).tolist(), output.reshape(-1).tolist(), strict=True)
        return {"residuals": [[float(f"{true:.5g}"), float(f"{given:.5g}")] for true, given in pairs]}
    if data.task not in ("binary", "multiclass") or not 2 <= len(data.classes) <= _MOST_CLASSES:
        return {}
    meaning = outputs.meanings(model, fit.as_tensors(data.example(1)), data)[0]
    if not meaning.has_classes or len(meaning.classes) != len(data.classes) or output.ndim > 2:
        return {}
    counts = np.zeros((len(data.classes),) * 2, int)
    np.add.at(counts, (data.class_indices(part), meaning.indices(output)), 1)
    classes = [str(each)[:20] for each in data.classes]
    return {"confusion": counts.tolist(), "classes": classes, **_regions(model, data, meaning)}


def _plain(model: keras.Model, x: Any) -> NDArray[Any]:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(outputs.outputs_of(model, fit.as_tensors(x))), "float64")


def _regions(model: keras.Model, data: Data, meaning: Meaning) -> dict[str, Any]:
    x = data.x
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] != 2 or x.dtype.kind not in "fiu":
        return {}
    low, high = np.nanmin(x, axis=0).astype("float64"), np.nanmax(x, axis=0).astype("float64")
    first, second = (np.linspace(low[at], high[at], _GRID) for at in (0, 1))
    grid = np.stack([each.reshape(-1) for each in np.meshgrid(first, second)], axis=1)
    taken = meaning.indices(_plain(model, grid.astype(x.dtype)))
    some = slice(0, _POINTS)
    points = [[float(f"{value:.5g}") for value in row] for row in x[some].tolist()]
    indices = data.class_indices(data.train)[some].tolist()
    return {
        "regions": taken.reshape(_GRID, _GRID).tolist(),
        "extent": [low[0], high[0], low[1], high[1]],
        "points": [[*row, label] for row, label in zip(points, indices, strict=True)],
    }
