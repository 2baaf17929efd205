"""Study files for the tests: a small valid one, and ways to change it."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from hypothesis.configuration import set_hypothesis_home_dir

from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition

# Not in the checkout: a folder `.hypothesis` there makes the next run of pytest warn, which is an error.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "search-hypothesis")

VALID: dict[str, Any] = {
    "name": "small",
    "metric": "val_loss",
    "direction": "minimize",
    "data": {
        "source": "sklearn:make_blobs",
        "options": {"n_samples": 100, "centers": 2, "random_state": 0},
        "test_size": 0.3,
        "validation_size": 0.2,
        "seed": 1,
    },
    "model": {"build": "mlp"},
    "space": {
        "epochs": {"type": "int", "low": 1, "high": 3},
        "batch_size": {"type": "categorical", "choices": [16, 32]},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.25},
    },
}


def changed(changes: dict[str, Any] | None = None, /) -> dict[str, Any]:
    """Return the valid content with these dotted keys set, or removed when None."""
    content = copy.deepcopy(VALID)
    for key, value in (changes or {}).items():
        *tables, last = key.split(".")
        table = content
        for name in tables:
            table = table.setdefault(name, {})
        if value is None:
            del table[last]
        else:
            table[last] = value
    return content


def definition(changes: dict[str, Any] | None = None, /, folder: Path = Path()) -> Definition:
    """Return the valid definition with these dotted keys set, or removed when None."""
    return parse_definition(changed(changes), folder / "small.toml")
