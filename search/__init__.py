"""Hyperparameter search for Keras: Optuna samples, MLflow records, the best model is registered."""

from importlib import metadata

from search.errors import SearchError
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition

__version__ = metadata.version("search")
__all__ = ["Definition", "SearchError", "__version__", "load_definition"]
