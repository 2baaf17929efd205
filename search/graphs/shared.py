"""Graphs that the workers of one search share: what one of them has traced, the others read from a file."""

from __future__ import annotations

import hashlib
import pickle
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.system import whole

_SUFFIX = ".graphs"


@dataclass
class _Shared:
    """Where the graphs are, and which files this process has read or written."""

    folder: Path | None = None
    known: set[str] = field(default_factory=set)


_shared = _Shared()


def use(folder: Path | None) -> None:
    """Share graphs through a folder from now on; with None share them no more.

    Args:
        folder: It belongs to one search and is readable by its owner alone: what lies there is unpickled.
    """
    if folder != _shared.folder:
        _shared.folder = folder
        _shared.known.clear()


def publish(key: str, graphs: Any) -> None:
    """Let the other workers read graphs; nothing happens where the folder cannot be written.

    Args:
        key: What decides the graphs.
        graphs: Anything that can be pickled.
    """
    if _shared.folder is None:
        return
    with suppress(OSError, pickle.PicklingError, TypeError):  # TypeError: a part that cannot be pickled
        file = _shared.folder / f"{_prefix(key)}{uuid.uuid4().hex}{_SUFFIX}"
        _shared.known.add(file.name)
        whole.write(file, pickle.dumps(graphs))


def published(key: str) -> Iterator[Any]:
    """Yield the graphs of this key that other workers have published since the last call."""
    if _shared.folder is None:
        return
    for file in sorted(_shared.folder.glob(f"{_prefix(key)}*{_SUFFIX}")):
        if file.name not in _shared.known:
            _shared.known.add(file.name)
            with suppress(OSError):  # the search ends and removes it
                yield pickle.loads(file.read_bytes())  # noqa: S301 - of a worker of this search, in a private folder


def _prefix(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32] + "-"
