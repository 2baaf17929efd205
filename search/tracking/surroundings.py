"""What a program that uses `search` finds as it was: environment, warnings, log levels, and MLflow's own state."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("", "mlflow", "alembic", "optuna", "tensorflow")
_QUIET = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "optuna": logging.ERROR}


@contextmanager
def unchanged() -> Iterator[None]:
    """Keep the libraries quiet in this block, and leave environment, filters, levels and MLflow as they were."""
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    uri = _chosen_uri()
    with warnings.catch_warnings():
        for message in (".*MLflowCallback.*", ".*track_in_mlflow.*"):
            warnings.filterwarnings("ignore", message=message, category=FutureWarning)
        warnings.filterwarnings("ignore", message=r".*(is|is an) experimental (feature|\(supported)")
        for name, level in _QUIET.items():
            logging.getLogger(name).setLevel(level)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            _restore_mlflow(uri, environment.get("MLFLOW_EXPERIMENT_ID"))
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


def _chosen_uri() -> str | None:
    """Return the tracking store that the program chose by `mlflow.set_tracking_uri`; None where it chose none."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is None:
        return None
    named = os.environ.pop("MLFLOW_TRACKING_URI", None)  # which MLflow sets too, and asks where nothing was chosen
    try:
        return str(mlflow.get_tracking_uri()) if mlflow.is_tracking_uri_set() else None
    finally:
        os.environ.update({} if named is None else {"MLFLOW_TRACKING_URI": named})


def _restore_mlflow(uri: str | None, experiment: str | None) -> None:
    if "search.tracking.store" in sys.modules:
        from search.tracking import store

        store.restore(uri, experiment)
