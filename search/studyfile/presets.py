"""Spaces that a study file takes by name, `[space] preset = "mlp"`: what is worth searching for any table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.errors import StudyFileError, did_you_mean

# Chosen on five tables and right on four others: the best of five configurations drawn from it is better in all nine
# than the best of five drawn from wider ranges (tests/benchmarks/results/defaults.md).
_MLP: dict[str, dict[str, Any]] = {
    "depth": {"type": "int", "low": 1, "high": 3},
    "width": {"type": "int", "low": 64, "high": 256, "log": True},
    "activation": {"type": "categorical", "choices": ["relu", "tanh", "swish"]},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "optimizer": {"type": "categorical", "choices": ["adam", "rmsprop"]},
    "learning_rate": {"type": "float", "low": 3e-4, "high": 3e-2, "log": True},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-3, "log": True},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
}
PRESETS = {"mlp": _MLP}
_EPOCHS = 30
_KEY = "preset"


def expanded(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return a study file's content with the parameters of the space that it names.

    What the file says of a parameter itself counts: in `[space]`, or fixed in `[model]` or `[fit]`. Training takes 30
    epochs, and numbers in arrays are scaled as those in tables, where the file says nothing of them.

    Args:
        content: The tables of a study file, not checked yet.
        where: The file.

    Raises:
        StudyFileError: There is no such space, or the model is not the built-in one of this name.
    """
    space, model, fit, data = (content.get(table, {}) for table in ("space", "model", "fit", "data"))
    tables = all(isinstance(table, Mapping) for table in (space, model, fit, data))
    if not tables or not isinstance(space.get(_KEY), str):
        return content  # no preset, or what the check of the whole file refuses
    name = space[_KEY]
    if name not in PRESETS:
        raise StudyFileError(where, f"space.{_KEY}", f"'{name}'", f"use 'mlp'{did_you_mean(name, PRESETS)}")
    if model.get("build", "mlp") != "mlp":
        found, right = f"'{name}' beside a builder of your own", 'leave it out, or use [model] build = "mlp"'
        raise StudyFileError(where, f"space.{_KEY}", found, right)
    given = {key: each for key, each in space.items() if key != _KEY}
    missing = {key: each for key, each in PRESETS[name].items() if key not in {*given, *model, *fit}}
    epochs = {} if "epochs" in {*given, *fit} else {"epochs": _EPOCHS}
    scaled = {"normalize": "auto", **data}
    return {**content, "space": {**missing, **given}, "fit": {**fit, **epochs}, "data": scaled}
