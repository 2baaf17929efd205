"""Versions evaluated anew: on a file of rows, and for how long one row takes. Here the models are loaded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from search.comparison.predictions import Predictions
from search.data import files
from search.errors import RegistryError, UsageError, one_line
from search.promotion import rows
from search.tracking import registry, versions
from search.tracking.registry import Registered
from search.tracking.versions import import_keras
from search.training.training import median_ms

_WARM_UP = 5


def predictions(version: Registered, path: Path) -> Predictions:
    """Return what a version gives for the rows of a file.

    Args:
        version: The version.
        path: A CSV, Parquet or NPZ file with the target.

    Raises:
        UsageError: The file cannot be read, has no target, or does not suit the model.
    """
    files.check(path, "--data")
    kept = registry.predictions_of(version)
    if kept is None:
        raise RegistryError(
            f"{version.uri} was registered without what --data needs; register it again, or leave it out"
        )
    if len(kept.targets) > 1:
        raise UsageError(f"--data: {version.uri} has {len(kept.targets)} outputs; a file compares models with one")
    loaded = versions.load(version)
    given = rows.read(path, kept.about, loaded.form)
    try:
        outputs = loaded.pyfunc.predict(given.inputs)
    except Exception as error:  # the model says which column is missing or wrong
        raise UsageError(f"--data {path}: {version.uri} cannot predict its rows ({one_line(error)})") from None
    return rows.predictions(given, np.asarray(outputs), kept)


def latency_ms(version: Registered) -> float:
    """Return the median time that a loaded version takes for one row of its input example, in milliseconds.

    NaN where it has no example or does not predict it here: whatever the model's own code raises.
    """
    import_keras()
    with suppress(Exception):
        model = mlflow.pyfunc.load_model(version.uri)
        example: Any = model.input_example
        if example is not None:
            one = {name: each[:1] for name, each in example.items()} if isinstance(example, dict) else example[:1]
            return median_ms(lambda: model.predict(one), _WARM_UP)
    return float("nan")
