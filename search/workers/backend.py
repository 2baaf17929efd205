"""Whether the backend that Keras is told to use can be imported; asked before Keras is."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from search.errors import UsageError, did_you_mean

_BACKENDS = ("tensorflow", "jax", "torch")


def check_backend() -> None:
    """Refuse a backend that is none, or that is not installed.

    Raises:
        UsageError: Keras could not be imported.
    """
    name, where = _chosen()
    if name not in _BACKENDS:
        known = f"use one of {', '.join(_BACKENDS)}{did_you_mean(name, _BACKENDS)}"
        raise UsageError(f"{where}: '{name}' is not a backend that trains; {known}")
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"{where}: '{name}' is not installed; pip install {name}, or use tensorflow")


def _chosen() -> tuple[str, str]:
    """Return the backend that Keras will use, and where it is named."""
    named = os.environ.get("KERAS_BACKEND")
    if named:
        return named, "KERAS_BACKEND"
    file = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")) / "keras.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Keras writes it anew
        return "tensorflow", str(file)
    return str(kept.get("backend", "tensorflow")) if isinstance(kept, dict) else "tensorflow", str(file)
