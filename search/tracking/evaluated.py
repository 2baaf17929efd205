"""Versions evaluated anew: on a file of rows, and for how long one row takes. Here the models are loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from search.comparison import fresh
from search.comparison.predictions import Predictions
from search.errors import RegistryError, UsageError, one_line
from search.tracking import registry
from search.tracking.registry import Version
from search.training.training import median_ms

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else loading a model prints a page
_WARM_UP = 5


def predictions(version: Version, path: Path) -> Predictions:
    """Return what a version gives for the rows of a file.

    Args:
        version: The version.
        path: A CSV, Parquet or NPZ file with the target.

    Raises:
        UsageError: The file cannot be read, has no target, or does not suit the model.
    """
    kept = registry.predictions_of(version)
    if kept is None:
        raise RegistryError(
            f"{version.uri} was registered without what --data needs; register it anew, or leave it out"
        )
    rows = fresh.read(path, kept.about)
    try:
        outputs = mlflow.pyfunc.load_model(version.uri).predict(rows.inputs)
    except Exception as error:  # the model says which column is missing or wrong
        raise UsageError(f"--data {path}: {version.uri} cannot predict its rows ({one_line(error)})") from None
    return fresh.predictions(rows, np.asarray(outputs), kept)


def latency_ms(version: Version) -> float:
    """Return the median time that a loaded version takes for one row of its input example, in milliseconds."""
    model = mlflow.pyfunc.load_model(version.uri)
    example: Any = model.input_example
    if example is None:
        return float("nan")
    one = {name: each[:1] for name, each in example.items()} if isinstance(example, dict) else example[:1]
    return median_ms(lambda: model.predict(one), _WARM_UP)
