"""What the model to register takes and gives, in words and numbers that need neither the model nor the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.dataset import Data
from search.data.facts import facts
from search.data.preprocessing import CATEGORICAL, MISSING, NUMERIC, Column
from search.data.profile import profile_of
from search.data.summary import Answers, DataSummary, TensorSpec
from search.errors import ModelError
from search.studyfile.schema import Definition
from search.training import fit
from search.training.model import registered_example

if TYPE_CHECKING:
    import keras


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

    example = registered_example(definition, model, data)
    return DataSummary(
        name=data.name,
        source=definition.data.source,
        digest=data.digest,
        task=data.task,
        classes=data.classes,
        rows={"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test or ())},
        columns=tuple((column.name, column.kind) for column in data.columns),
        inputs=_inputs(example, model),
        example=_raw_example(data) if data.columns else example,
        output=_output(definition, model, example),
        log_names=log_names,
        path=path,
        seconds=seconds,
        backend=keras.backend.backend(),
        profile=profile_of(data),
        optional=_incomplete(data),
        facts=facts(data),
        doubts=data.doubts,
    )


def _output(definition: Definition, model: keras.Model, example: Any) -> tuple[TensorSpec, ...]:
    """Return what the model to register gives: one array, or several with their names."""
    import keras

    one = keras.tree.map_structure(lambda each: each[:1], example)
    try:
        predicted = model(fit.as_tensors(one), training=False)
    except NotImplementedError:
        raise ModelError(
            f"model.build: {definition.model.build}: the model has no `call`, so it cannot be registered; "
            "name a function in model.export that returns the model to register"
        ) from None
    outputs = named(model, predicted)
    for name, each in outputs:
        if each.shape[0] != 1:
            what = f" in output '{name}'" if name else ""
            raise ModelError(
                f"model.build: {definition.model.build}: the model gave {each.shape[0]} predictions for 1 row{what}"
            )
    return tuple(TensorSpec(_dtype(each), (-1, *_open(each.shape[1:], model, name)), name) for name, each in outputs)


def answers(definition: Definition, model: keras.Model, data: Data) -> bytes:
    """Return what a model gives for the rows of its input example, as `Answers` writes them."""
    example = registered_example(definition, model, data)
    first, again = (dict(_plain_outputs(model, example)) for _ in range(2))
    same = all(np.allclose(first[name], again[name], equal_nan=True) for name in first)
    return Answers(example, first if same else {}).to_bytes()


def _plain_outputs(model: keras.Model, example: Any) -> Iterator[tuple[str, Any]]:
    import keras

    for name, each in named(model, model(fit.as_tensors(example), training=False)):
        yield name or "", keras.ops.convert_to_numpy(keras.ops.cast(each, "float32"))


def named(model: keras.Model, predicted: Any) -> list[tuple[str | None, Any]]:
    """Return each output with its name; a single one has none."""
    if isinstance(predicted, dict):
        return list(predicted.items())
    if not isinstance(predicted, list | tuple):
        return [(None, predicted)]
    names = list(getattr(model, "output_names", None) or ())
    if len(set(names)) != len(predicted):
        names = [f"output_{index}" for index in range(len(predicted))]
    return list(zip(names, predicted, strict=True))


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
    """Return an output's type as NumPy knows it: bfloat16 is served as float32."""
    name = str(getattr(tensor.dtype, "name", tensor.dtype))
    return "float32" if name == "bfloat16" else name


def _inputs(x: Any, model: keras.Model) -> tuple[TensorSpec, ...]:
    """Return what the model takes; sizes that it leaves open stay open."""
    listed = [(f"input_{index}", each) for index, each in enumerate(x)] if isinstance(x, list | tuple) else [(None, x)]
    named = list(x.items() if isinstance(x, dict) else listed)
    known = list(getattr(model, "inputs", None) or ())
    by_name = {each.name: each for each in known}
    specs = []
    for index, (name, each) in enumerate(named):
        tensor = by_name.get(name) if isinstance(x, dict) else known[index] if len(known) == len(named) else None
        specs.append(TensorSpec(str(each.dtype), (-1, *_left_open(each.shape[1:], tensor)), name))
    return tuple(specs)


def _left_open(shape: tuple[int, ...], tensor: Any) -> tuple[int, ...]:
    if tensor is None or len(tensor.shape) != len(shape) + 1:
        return shape
    return tuple(-1 if known is None else size for size, known in zip(shape, tensor.shape[1:], strict=True))


def _incomplete(data: Data) -> tuple[str, ...]:
    """Return the columns of which the training part has missing values."""
    if not data.columns:
        return ()
    arrays = data.x if isinstance(data.x, dict) else {NUMERIC: data.x}
    gaps = {
        **_gaps([each for each in data.columns if each.numeric], arrays.get(NUMERIC), np.isnan),
        **_gaps([each for each in data.columns if not each.numeric], arrays.get(CATEGORICAL), lambda x: x == MISSING),
    }
    return tuple(column.name for column in data.columns if gaps[column.name])


def _gaps(columns: list[Column], array: Any, is_missing: Callable[[Any], Any]) -> dict[str, bool]:
    return {each.name: bool(is_missing(array[:, index]).any()) for index, each in enumerate(columns)}


def _raw_example(data: Data) -> Any:
    """Return a few rows as the user sends them."""
    x = data.example()
    if not data.columns:
        return x
    arrays = x if isinstance(x, dict) else {NUMERIC: x}
    numbers = iter(arrays[NUMERIC].T if NUMERIC in arrays else ())
    texts = iter(arrays[CATEGORICAL].T if CATEGORICAL in arrays else ())
    return {
        column.name: [_raw_value(value, column.kind) for value in next(numbers if column.numeric else texts)]
        for column in data.columns
    }


def _raw_value(value: Any, kind: str) -> Any:
    if kind == "string":
        return str(value)
    if kind != "double" and math.isnan(value):  # a missing whole number
        return None
    return {"long": int, "boolean": bool, "double": float}[kind](value)
