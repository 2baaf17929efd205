"""Loads a registered model for `mlflow.pyfunc`. Copied into every logged model, so it stands alone.

A model logged by `search` needs TensorFlow, Keras and NumPy to be served, never `search` itself.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

NUMERIC, CATEGORICAL, MISSING = "numeric", "categorical", ""


class Predictor:
    """A Keras model behind the raw columns or arrays that its study was trained on.

    Args:
        model: The Keras model.
        columns: Name and kind (`double`, `long`, `boolean`, `string`) of each column of a table;
            empty for arrays.
    """

    def __init__(self, model: Any, columns: list[tuple[str, str]]) -> None:
        self._model, self._columns = model, columns

    def get_raw_model(self) -> Any:
        """Return the Keras model itself."""
        return self._model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Return predictions for a data frame, an array, or a dictionary of arrays.

        Returns:
            An array of shape (rows, outputs): probabilities of the classes or labels, the
            probability of the second class for two, or the predicted numbers.
        """
        import pandas as pd

        if self._columns:
            frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
            model_input = _tensors(self._to_arrays(frame))
        elif isinstance(model_input, pd.DataFrame):
            model_input = model_input.to_numpy()
        return self._model.predict(model_input, verbose=0)

    def _to_arrays(self, frame: Any) -> Any:
        import numpy as np

        numbers = [name for name, kind in self._columns if kind != "string"]
        texts = [name for name, kind in self._columns if kind == "string"]
        frame = frame.reindex(columns=[name for name, _ in self._columns])
        numeric = frame[numbers].astype("float64").to_numpy(dtype="float32", na_value=np.nan)
        if not texts:
            return numeric
        categorical = frame[texts].astype("object").where(frame[texts].notna(), MISSING).astype(str)
        arrays = {CATEGORICAL: categorical.to_numpy(dtype=object).astype("U")}
        return {NUMERIC: numeric, **arrays} if numbers else arrays


def _tensors(arrays: Any) -> Any:
    """Return arrays as Keras takes them: where one is text all are tensors, it takes no NumPy text."""
    if not isinstance(arrays, dict):
        return arrays
    import tensorflow as tf

    return {name: tf.convert_to_tensor(array) for name, array in arrays.items()}


def _load_pyfunc(path: str) -> Predictor:
    """Load the model in the folder `path`; MLflow calls this."""
    import keras

    described = json.loads((Path(path) / "search.json").read_text())
    for module in described["modules"]:  # registers the user's own layers, losses and models
        importlib.import_module(module)
    model = keras.saving.load_model(Path(path) / "data" / "model.keras", compile=False)
    return Predictor(model, [(name, kind) for name, kind in described["columns"]])
