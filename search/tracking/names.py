"""Names of metrics, parameters and tags as MLflow takes them: a metric may be `acc@5`, a parameter `units[0]`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

_ILLEGAL = re.compile(r"[^/\w.\- :]")
_LONGEST = 250  # characters


def legal(name: str) -> str:
    """Return a name with each character that MLflow refuses replaced by `_`; most names stay as they are."""
    # MLflow takes a name for a path, which must lead downwards and be written in one way.
    path = posixpath.normpath(_ILLEGAL.sub("_", name)[:_LONGEST]).lstrip("/")
    path = f"_{path.lstrip('.')}" if path.startswith("..") or path == "." else path
    return path or "_"


def distinct(names: Iterable[str]) -> dict[str, str]:
    """Return the legal name of each of these, no two alike."""
    taken: dict[str, str] = {}
    for name in names:
        wanted = legal(name)
        number = 1
        while wanted in taken.values():
            number += 1
            wanted = f"{legal(name)[: _LONGEST - 4]}_{number}"
        taken[name] = wanted
    return taken
