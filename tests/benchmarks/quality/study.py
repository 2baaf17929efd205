"""A task as a study of `search`: the content of its study file, and the file with its data function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.benchmarks.quality.tasks import EPOCHS, SPACE

_DATA = """
import numpy as np

arrays = np.load("{file}")


def parts():
    return tuple((arrays[f"x_{{part}}"], arrays[f"y_{{part}}"]) for part in ("train", "validation", "test"))
"""


def content(file: Path, **more: dict[str, Any]) -> dict[str, Any]:
    """Return what the study file of a task says, and write its data function beside the arrays.

    Args:
        file: The task's arrays.
        more: More keys of its tables, by table.
    """
    import numpy as np

    source = file.with_suffix(".py")
    if not source.is_file():
        source.write_text(_DATA.format(file=file.absolute()), encoding="utf-8")
    kind = str(np.load(file)["kind"])
    tables: dict[str, Any] = {
        "name": file.stem,
        "metric": "val_loss",
        "direction": "minimize",
        "data": {"source": f"{source.absolute()}:parts", "task": kind},
        "model": {"build": "mlp"},
        "fit": {"epochs": EPOCHS},
        "space": SPACE,
    }
    return tables | {name: tables.get(name, {}) | keys for name, keys in more.items()}


def written(file: Path, folder: Path, **more: dict[str, Any]) -> Path:
    """Write the study file of a task, and return where it is.

    Args:
        file: The task's arrays.
        folder: Where to write it.
        more: As `content` takes them.
    """
    lines: list[str] = []
    for name, value in content(file, **more).items():
        if name == "space":
            lines += [line for key, each in value.items() for line in _table(f"space.{key}", each)]
        elif isinstance(value, dict):
            lines += _table(name, value)
        else:
            lines.insert(0, f"{name} = {json.dumps(value)}")
    study = folder / f"{file.stem}.toml"
    study.write_text("\n".join(lines), encoding="utf-8")
    return study


def _table(name: str, values: dict[str, Any]) -> list[str]:
    return [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
