"""The model to register where it is another than the one trained, `[model] export`, and what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.dataset import Data
from search.errors import ModelError
from search.studyfile.references import load_object
from search.studyfile.schema import Definition
from search.training.fit import as_tensors

if TYPE_CHECKING:
    import keras

_ROWS = 3


def exported(definition: Definition, model: keras.Model, data: Data) -> keras.Model:
    """Return the model to register: what `[model] export` makes of the trained one, or that itself.

    Raises:
        ModelError: The function cannot be imported or returned no Keras model.
    """
    import keras

    name = definition.model.export
    if name is None:
        return model
    made = load_object(name, definition.folder, "model.export")(model, data)
    if not isinstance(made, keras.Model):
        raise ModelError(f"model.export: {name} returned {type(made).__name__}; return a keras.Model")
    return made


def example(definition: Definition, model: keras.Model, data: Data, rows: int = _ROWS) -> Any:
    """Return inputs of a few rows that the model to register takes.

    They are the study's own where the model has such inputs; a model that takes others (a generator's noise)
    gets zeros.
    """
    x = data.example(rows)
    if definition.model.export is None:
        return x
    if isinstance(x, dict):
        names = [each.name for each in model.inputs]
        if set(names) <= x.keys():
            several = len(names) > 1 or isinstance(_input(model), dict)
            return {name: x[name] for name in names} if several else x[names[0]]
    elif _takes(model, x):
        return x
    return _zeros(model, rows)


def _takes(model: keras.Model, x: Any) -> bool:
    try:
        model(as_tensors(x), training=False)
    except Exception:  # other inputs than the study's
        return False
    return True


def _zeros(model: keras.Model, rows: int) -> Any:
    import keras

    def zeros(each: Any) -> Any:
        return np.zeros((rows, *(size or 1 for size in each.shape[1:])), str(each.dtype))

    return keras.tree.map_structure(zeros, _input(model))


def _input(model: keras.Model) -> Any:
    """Return a model's symbolic inputs in the structure that it takes."""
    try:
        return model.input
    except AttributeError:  # a Sequential model that was not called on a symbolic tensor
        inputs: list[Any] = list(getattr(model, "inputs", None) or [])
    if len(inputs) != 1:
        raise ModelError("model.export: the returned model does not say what it takes; return a functional model")
    return inputs[0]
