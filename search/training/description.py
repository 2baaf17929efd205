"""What the model to register takes and gives, in words and numbers that need neither the model nor the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison import outputs
from search.comparison.outputs import fixed_rows
from search.comparison.seen import seen_by
from search.data import files, streams
from search.data.dataset import Data
from search.data.facts import facts
from search.data.preprocessing import leaves, raw
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

_LOOKED_AT = 500  # validation rows that are drawn
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

    profile = profile_of(data)
    options = definition.data.options if definition.data.reader.file else {}  # a function's may hold passwords
    incomplete = {name for name, column in profile.get("columns", {}).items() if column["missing"]}
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
        profile=profile,
        optional=tuple(column.name for column in data.columns if column.name in incomplete),
        reading={"kind": definition.data.kind, "options": files.travelling(options)},
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

    where, rows = f"model.build: {called(definition.model.build)}", fixed_rows(model) or 1
    one = keras.tree.map_structure(lambda array: array[:rows], example)
    try:
        predicted = outputs.outputs_of(model, fit.as_tensors(one))
    except NotImplementedError:
        raise ModelError(
            f"{where}: the model has no `call`, so it cannot be registered; "
            "name a function in model.export that returns the model to register"
        ) from None
    found = named(model, predicted)
    for name, output in found:
        if isinstance(output, dict | list | tuple):
            raise ModelError(f"{where}: the model's outputs are nested; give one dictionary or one list of outputs")
        if output.shape[0] != rows:
            what = f" in output '{name}'" if name else ""
            raise ModelError(f"{where}: {output.shape[0]} predictions for {rows} row{what}")
    shapes = _symbolic_shapes(model, one, predicted, inputs)
    known = shapes if len(shapes) == len(found) else [None] * len(found)
    return tuple(
        TensorSpec(_dtype(output), (-1, *_left_open(output.shape[1:], shape)), name)
        for (name, output), shape in zip(found, known, strict=True)
    )


def _symbolic_shapes(model: keras.Model, one: Any, predicted: Any, inputs: tuple[TensorSpec, ...]) -> list[Any]:
    """Return the shapes of a model's outputs, with None where the inputs leave a size open; empty where unknown."""
    import keras

    arrays = [one[spec.name] for spec in inputs] if isinstance(one, dict) else leaves(one)
    sizes = {
        id(array): tuple(None if size == -1 else size for size in spec.shape)
        for array, spec in zip(arrays, inputs, strict=True)
    }

    def symbol(array: Any) -> Any:
        return keras.KerasTensor(sizes[id(array)], "string" if array.dtype.kind in "OSU" else array.dtype.name)

    try:
        if getattr(model, "outputs", None):
            given = keras.tree.pack_sequence_as(predicted, model.outputs)
        elif any(-1 in spec.shape[1:] for spec in inputs):
            given = model.compute_output_spec(keras.tree.map_structure(symbol, one))
        else:
            return []
        return [output.shape for _, output in named(model, given)]
    except Exception:  # whatever a model of the user's own raises of other sizes
        return []


def answers(definition: Definition, model: keras.Model, data: Data) -> bytes:
    """Return what a model gives for the rows of its input example, as `Answers` writes them."""
    example = registered_example(definition, model, data)
    first, again = (dict(_plain_outputs(model, example)) for _ in range(2))
    same = all(np.allclose(first[name], again[name], equal_nan=True) for name in first)
    return Answers(example, first if same else {}).to_bytes()


def _plain_outputs(model: keras.Model, example: Any) -> Iterator[tuple[str, Any]]:
    import keras

    for name, output in named(model, outputs.outputs_of(model, fit.as_tensors(example))):
        if _dtype(output) == "object":  # texts, which have no distance
            continue
        yield name or "", keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))


def _dtype(tensor: Any) -> str:
    """Return an output's type as NumPy knows it: bfloat16 is served as float32, texts as objects."""
    import keras

    name = str(keras.backend.standardize_dtype(tensor.dtype))  # of whatever backend
    return {"bfloat16": "float32", "string": "object"}.get(name, name)


def _inputs(x: Any, model: keras.Model, data: Data) -> tuple[TensorSpec, ...]:
    """Return what the model takes; sizes that it, or a stream where it does not say, leaves open stay open."""
    listed = (
        [(f"input_{index}", array) for index, array in enumerate(x)] if isinstance(x, list | tuple) else [(None, x)]
    )
    named = list(x.items() if isinstance(x, dict) else listed)
    known = list(getattr(model, "inputs", None) or ())
    by_name = {tensor.name: tensor.shape for tensor in known} or streams.input_shapes(data.train.x)
    by_place = [tensor.shape for tensor in known]
    specs = []
    for index, (name, array) in enumerate(named):
        place = by_place[index] if len(known) == len(named) else by_name.get(index)
        shape = by_name.get(name) if isinstance(x, dict) else place
        specs.append(TensorSpec(str(array.dtype), (-1, *_left_open(array.shape[1:], shape)), name))
    return tuple(specs)


def _left_open(shape: tuple[int, ...], known: tuple[int | None, ...] | None) -> tuple[int, ...]:
    if known is None or len(known) != len(shape) + 1:
        return shape
    return tuple(-1 if open_size is None else size for size, open_size in zip(shape, known[1:], strict=True))


def _raw_example(data: Data) -> Any:
    """Return a few rows as the user sends them."""
    named = raw(data.example(), data.columns)
    return {column.name: [_raw_value(value, column.kind) for value in values] for column, values in named}


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
    size = fixed_rows(model) or 1
    part = part.take(slice(0, max(size, min(len(part), _LOOKED_AT) // size * size)))
    rows = fit.held_out_rows(model, part)
    output = np.concatenate([_plain(model, part.take(slice(at, at + rows)).x) for at in range(0, len(part), rows)])
    if data.task == "regression" and output.size == part.y.size == len(part):
        pairs = zip(part.y.reshape(-1).tolist(), output.reshape(-1).tolist(), strict=True)
        return {"residuals": [[float(f"{true:.5g}"), float(f"{given:.5g}")] for true, given in pairs]}
    if data.task not in ("binary", "multiclass") or not 2 <= len(data.classes) <= _MOST_CLASSES:
        return {}
    meaning = outputs.meanings(model, fit.first_rows(model, data), data)[0]
    if not meaning.has_classes or len(meaning.classes) != len(data.classes) or output.ndim > 2:
        return {}
    counts = np.zeros((len(data.classes),) * 2, int)
    np.add.at(counts, (data.class_indices(part), meaning.indices(output)), 1)
    classes = [str(label)[:20] for label in data.classes]
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
    grid = np.stack([axis.reshape(-1) for axis in np.meshgrid(first, second)], axis=1)
    taken = meaning.indices(_plain(model, grid.astype(x.dtype)))
    some = slice(0, _POINTS)
    points = [[float(f"{value:.5g}") for value in row] for row in x[some].tolist()]
    indices = data.class_indices(data.train)[some].tolist()
    return {
        "regions": taken.reshape(_GRID, _GRID).tolist(),
        "extent": [low[0], high[0], low[1], high[1]],
        "points": [[*row, label] for row, label in zip(points, indices, strict=True)],
    }
