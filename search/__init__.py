"""Hyperparameter search for Keras: Optuna samples, MLflow records, the best model is registered."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from search.errors import (
    ClusterError,
    DataError,
    Interrupted,
    ModelError,
    NoTrialCompleted,
    RegistryError,
    SearchError,
    StorageError,
    StudyFileError,
    TrackingError,
    UsageError,
)

if TYPE_CHECKING:
    from search.api import Result, Study
    from search.promotion import Promotion
    from search.register import Best
    from search.tracking.registry import Registered

__version__ = metadata.version("search")
__all__ = [
    "Best",
    "ClusterError",
    "DataError",
    "Interrupted",
    "ModelError",
    "NoTrialCompleted",
    "Promotion",
    "Registered",
    "RegistryError",
    "Result",
    "SearchError",
    "StorageError",
    "Study",
    "StudyFileError",
    "TrackingError",
    "UsageError",
    "__version__",
]
# Imported when they are first asked for: `import search` answers at once.
_LAZY = {
    "Best": "search.register",
    "Promotion": "search.promotion",
    "Registered": "search.tracking.registry",
    "Result": "search.api",
    "Study": "search.api",
}


if "ipykernel" in sys.modules:  # in a notebook tqdm, which Optuna and MLflow import, asks for a package of widgets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("tqdm.auto")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from search.tracking.surroundings import unchanged

        with unchanged():
            return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'search' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
