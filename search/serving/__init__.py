"""Loads a registered model for `mlflow.pyfunc`. This package is copied into every logged model, so it stands alone.

A model logged by `search` needs TensorFlow, Keras and NumPy to be served, never `search` itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .model_code import CODE, OBJECTS, load_keras
from .rows import Rows

__all__ = ["CODE", "OBJECTS", "Predictor", "load_keras"]

_MOST_ROWS, _BATCH_BYTES = 1024, 2**20  # of a batch


class Predictor:
    """A Keras model behind the raw columns or arrays that its study was trained on.

    Args:
        model: The Keras model.
        described: What `search.json` says of it: `columns` (name and kind of each column of a table), `optional`
            (columns that may be missing), `inputs` and `outputs` (name, dtype, shape), `task`, `classes`.
    """

    def __init__(self, model: Any, described: dict[str, Any]) -> None:
        self._model, self._described, self._rows = model, described, Rows(described)

    def get_raw_model(self) -> Any:
        """Return the Keras model itself."""
        return self._model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return predictions for a data frame, an array, a list, or a dictionary or list of arrays.

        Args:
            model_input: Rows as the study's data function returns them.
            params: `output` is `raw` (what the model gives), `label` (the most probable class) or
                `probability` (one column for each class).

        Returns:
            An array of shape (rows, outputs); a dictionary of arrays for several outputs.

        Raises:
            ValueError: A column or input is missing or cannot be converted; the message names it.
        """
        wanted = (params or {}).get("output", "raw")
        if wanted not in ("raw", "label", "probability"):
            raise ValueError(f"output '{wanted}': use 'raw', 'label' or 'probability'")
        arrays = self.arrays(model_input)
        if not all(map(len, _leaves(arrays))):
            raise ValueError("no rows are given; give at least one")
        predicted = self.outputs(arrays)
        return predicted if wanted == "raw" else self._classified(predicted, wanted)

    def arrays(self, model_input: Any) -> Any:
        """Return rows as the Keras model takes them: an array, or arrays by name or in a list.

        Raises:
            ValueError: A column or input is missing or cannot be converted; the message names it.
        """
        return self._rows.arrays(model_input)

    def outputs(self, arrays: Any) -> Any:
        """Return what the model gives for arrays as `arrays` returns them."""
        return self._named(self._model.predict(_tensors(arrays), batch_size=_batch(arrays), verbose=0))

    def _named(self, predicted: Any) -> Any:
        """Return several outputs by name, each as NumPy knows it."""
        if isinstance(predicted, list | tuple):
            names = [each["name"] for each in self._described["outputs"]]
            predicted = dict(zip(names, predicted, strict=True))
        if isinstance(predicted, dict):
            return {name: _plain(each) for name, each in predicted.items()}
        return _plain(predicted)

    def _classified(self, predicted: Any, wanted: str) -> Any:
        task, classes = self._described["task"], self._described["classes"]
        if isinstance(predicted, dict) or task not in ("binary", "multiclass", "multilabel"):
            what = "several outputs" if isinstance(predicted, dict) else "no classes"
            raise ValueError(f"output '{wanted}': the model has {what}; use 'raw'")
        if task != "multilabel" and predicted.shape[-1] not in (1, len(classes)):  # as of a part that was exported
            raise ValueError(f"output '{wanted}': the model gives {predicted.shape[-1]} numbers, no classes; use 'raw'")
        last = getattr(self._model.layers[-1], "activation", None) if self._model.layers else None
        logits = getattr(last, "__name__", "") == "linear"
        single = task != "multilabel" and predicted.shape[-1] == 1
        if wanted == "label" and task == "multilabel":
            return (predicted > (0.0 if logits else 0.5)).astype("int64")
        if wanted == "label":
            first = predicted[..., 0] > (0.0 if logits else 0.5) if single else None
            index = first.astype("int64") if first is not None else predicted.argmax(axis=-1)
            return np.asarray(classes)[index]
        if logits:
            predicted = _sigmoid(predicted) if single or task == "multilabel" else _softmax(predicted)
        return np.concatenate([1 - predicted, predicted], axis=-1) if single else predicted


def _batch(arrays: Any) -> int:
    """Return how many rows go through the model at a time: more than Keras's 32 where they are small."""
    row = sum(each[:1].nbytes for each in _leaves(arrays))
    return int(max(32, min(_MOST_ROWS, _BATCH_BYTES // max(1, row))))


def _leaves(arrays: Any) -> list[Any]:
    return list(arrays.values()) if isinstance(arrays, dict) else arrays if isinstance(arrays, list) else [arrays]


def _plain(array: Any) -> Any:
    array = np.asarray(array)
    if array.dtype.kind in "OS":  # texts, which TensorFlow gives as bytes
        texts = [each.decode() if isinstance(each, bytes) else each for each in array.reshape(-1).tolist()]
        return np.array(texts, object).reshape(array.shape)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _tensors(arrays: Any) -> Any:
    """Return arrays as Keras takes them: where one is text all are tensors, it takes no NumPy text."""
    if not any(each.dtype.kind in "OSU" for each in _leaves(arrays)):
        return arrays
    import tensorflow as tf

    if isinstance(arrays, dict):
        return {name: tf.convert_to_tensor(array) for name, array in arrays.items()}
    return [tf.convert_to_tensor(each) for each in arrays] if isinstance(arrays, list) else tf.convert_to_tensor(arrays)


def _load_pyfunc(path: str) -> Predictor:
    """Load the model in the folder `path`; MLflow calls this."""
    return Predictor(load_keras(path), json.loads((Path(path) / "search.json").read_text()))
