"""Versions evaluated anew: on a file of rows, and for how long one row takes. Here the models are loaded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np

from search.comparison.predictions import Predictions
from search.data import files
from search.errors import DataError, RegistryError, UsageError, one_line
from search.promotion import rows
from search.tracking import registry, versions
from search.tracking.registry import Registered
from search.tracking.versions import import_keras
from search.training.training import median_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.tracking.versions import Loaded

_WARM_UP = 5


def predictions(version: Registered, path: Path) -> tuple[Predictions, NDArray[np.bool_] | None]:
    """Return what a version gives for the rows of a file, and which of them it has seen, where that is known.

    Args:
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
    return rows.predictions(given, np.asarray(outputs), kept), _seen(loaded, given.inputs)


def held_out(version: Registered, newer: Predictions) -> tuple[Predictions, NDArray[np.bool_] | None] | None:
    """Return what a version gives for the held-out rows of a newer one; None where it cannot predict them.

    Args:
        version: The older version.
        newer: The newer one's predictions, which keep the rows.
    """
    kept = registry.predictions_of(version)
    comparable = kept is not None and len(kept.targets) == 1 and kept.about.classes == newer.about.classes
    if kept is None or newer.target is None or not comparable or not newer.inputs:
        return None
    loaded = versions.load(version)
    try:
        inputs = loaded.as_trained(dict(newer.inputs))
        outputs = np.asarray(loaded.pyfunc.predict(loaded.served(inputs)))
    except Exception:  # it takes other columns
        return None
    given = rows.FreshRows(inputs, newer.target, newer.group, dict(newer.slices), newer.about.digest)
    return replace(rows.predictions(given, outputs, kept), rows=newer.rows), _seen(loaded, inputs)


def _seen(loaded: Loaded, inputs: Any) -> NDArray[np.bool_] | None:
    try:
        return loaded.has_seen(inputs)
    except DataError:  # a model that search did not log
        return None


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
