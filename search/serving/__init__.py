"""Loads a registered model for `mlflow.pyfunc`. This package is copied into every logged model, so it stands alone.

A model logged by `search` needs TensorFlow, Keras and NumPy to be served, never `search` itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .meaning import Meaning
from .model_code import CODE, OBJECTS, load_keras
from .rows import Rows

__all__ = ["CODE", "OBJECTS", "Predictor", "load_keras"]

_MOST_ROWS, _BATCH_BYTES = 1024, 2**20  # of a batch


class Predictor:
    """A Keras model behind the raw columns or arrays that its study was trained on.

    Args:
        model: The Keras model.
        described: What `search.json` says of it: `columns` (name and kind of each column of a table), `optional`
            (columns that may be missing), `inputs` and `outputs` (name, dtype, shape), `meanings` of the outputs.
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
            names = [output["name"] for output in self._described["outputs"]]
            predicted = dict(zip(names, predicted, strict=True))
        if isinstance(predicted, dict):
            return {name: _plain(output) for name, output in predicted.items()}
        return _plain(predicted)

    def _classified(self, predicted: Any, wanted: str) -> Any:
        """Return labels or probabilities; of several outputs those of numbers are as they are."""
        meanings = [Meaning.of(kept) for kept in self._described.get("meanings", [])] or [Meaning("unknown")]
        try:
            if not isinstance(predicted, dict):
                return _asked(meanings[0], predicted, wanted)
            if not any(meaning.has_classes for meaning in meanings):
                raise ValueError("no output of the model has classes")
            return {
                meaning.name: predicted[meaning.name]
                if meaning.kind == "numbers"
                else _asked(meaning, predicted[meaning.name], wanted)
                for meaning in meanings
            }
        except ValueError as error:
            raise ValueError(f"output '{wanted}': {error}; use 'raw'") from None


def _asked(meaning: Meaning, predicted: Any, wanted: str) -> Any:
    return meaning.labels(predicted) if wanted == "label" else meaning.probabilities(predicted)


def _batch(arrays: Any) -> int:
    """Return how many rows go through the model at a time: more than Keras's 32 where they are small."""
    row = sum(array[:1].nbytes for array in _leaves(arrays))
    return int(max(32, min(_MOST_ROWS, _BATCH_BYTES // max(1, row))))


def _leaves(arrays: Any) -> list[Any]:
    import keras

    return list(keras.tree.flatten(arrays))


def _plain(array: Any) -> Any:
    array = np.asarray(array)
    if array.dtype.kind in "OS":  # texts, which TensorFlow gives as bytes
        texts = [text.decode() if isinstance(text, bytes) else text for text in array.reshape(-1).tolist()]
        return np.array(texts, object).reshape(array.shape)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _tensors(arrays: Any) -> Any:
    """Return arrays as Keras takes them: where one is text all are tensors, it takes no NumPy text."""
    if not any(array.dtype.kind in "OSU" for array in _leaves(arrays)):
        return arrays
    import keras
    import tensorflow as tf

    return keras.tree.map_structure(tf.convert_to_tensor, arrays)


def _load_pyfunc(path: str) -> Predictor:
    """Load the model in the folder `path`; MLflow calls this."""
    return Predictor(load_keras(path), json.loads((Path(path) / "search.json").read_text()))
