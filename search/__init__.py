"""Hyperparameter search for Keras: Optuna samples, MLflow records, the best model is registered."""

from importlib import metadata

from search.definition import Definition, load_definition
from search.errors import SearchError

__version__ = metadata.version("search")
__all__ = ["Definition", "SearchError", "__version__", "load_definition"]
