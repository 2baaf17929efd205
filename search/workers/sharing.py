"""A study's data as files that all workers of a machine map, so that they lie in its memory once.

The worker that loads the data first writes each array of 1 MB or more to a file, in a folder that belongs to
one search, and the rest beside them. The others map these files instead of loading: what they read is shared,
what user code writes into an array stays with the process that wrote it (copy on write). Rows in double
precision lie there in single precision too, as Keras takes them.

A search whose data come from a file that another search of this machine has loaded links to that one's files,
and so begins at once; each file goes with the last search that has it.

Every worker loads by itself, as before, data of less than 16 MB, streams, objects that are no plain arrays,
data that depend on the trial, and what a function returns that leaves something behind in the user's modules,
in its own object or in the environment: a builder may need that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from search.data import sources
from search.data.dataset import Data
from search.data.loading import TrialData
from search.data.mapped import axes_of, mapped
from search.data.preprocessing import leaves
from search.studyfile.schema import Definition
from search.workers.footprint import footprint

_PREFIX, _LOCK = "search-data-", ".search-lock"  # of a folder, and of the file by which one of ours is known
_LARGE = 16_000_000  # bytes of a study's data from which on they are shared; smaller ones load as fast
_FILE = 1_000_000  # bytes of an array from which on it has a file of its own
_KEY = "key"  # the file that tells which data lie beside it


class SharedFolder:
    """The folder of one search, below the system's temporary folder; it is removed with the search.

    The search holds a lock on it. Folders whose search was killed are removed when the next one is made.

    Attributes:
        path: The folder, readable by its owner alone; empty where none could be made.
    """

    def __init__(self) -> None:
        self.path, self._lock = "", -1
        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with suppress(OSError):  # its search runs, or it is none of ours
                _remove_left(left)
        with suppress(OSError):
            while not self.path:  # another search may take it for a leftover before it is locked
                path = tempfile.mkdtemp(prefix=_PREFIX)
                self._lock = os.open(Path(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                self.path = path if os.path.isdir(path) else ""

    def close(self) -> None:
        """Remove the folder; processes that map its files keep what they map."""
        if self.path:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self.path = ""


def _remove_left(folder: Path) -> None:
    """Remove a folder that a search of this person left.

    Raises:
        OSError: Its search runs, or it is another folder.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def trial_data(definition: Definition, folder: str, *, first: bool) -> TrialData:
    """Return the data of each trial, those of all trials mapped where they are shared.

    Args:
        definition: The study file.
        folder: The search's folder; empty where workers share none.
        first: Whether this process loads before all others, and writes the files unless they are there.

    Raises:
        DataError: They cannot be loaded.
    """
    place = Path(folder, "data")
    same = _read(place) if folder else None
    if not folder or not first or same is not None:
        return TrialData(definition, same=same)
    own = definition.data.kind == "python"
    before = footprint(sources.function_of(definition)) if own else None
    file = definition.data_file
    stamp = _stamp(file)
    with ThreadPoolExecutor(1) as beside:
        key = beside.submit(_key, definition, file) if file is not None and stamp else None  # while the data are loaded
        if key is not None and (linked := _link(place, key)) is not None:
            return TrialData(definition, same=linked)
        loaded = TrialData(definition)
    if loaded.same is None or not _shareable(loaded.same):
        return loaded
    if before is not None and not footprint(sources.function_of(definition)).unchanged(before):
        return loaded
    try:
        _write(place, loaded.same, key.result() if key is not None and stamp == _stamp(file) else "")
    except Exception:  # the disk is full, or what a data function returned cannot be pickled
        shutil.rmtree(_partial(place), ignore_errors=True)
        return loaded
    return TrialData(definition, same=_read(place) or loaded.same)


def _stamp(file: Path | None) -> tuple[int, ...]:
    """Return what changes when a file is written; empty where there is none, or a small one."""
    if file is None or not file.is_file():
        return ()
    found = file.stat()
    return (found.st_size, found.st_mtime_ns, found.st_ino) if found.st_size >= _FILE else ()


def _key(definition: Definition, file: Path) -> str:
    """Return what is the same for files of one content that are loaded alike."""
    how = definition.data.model_dump_json(exclude={"source"})
    read = f"{file.stem} {definition.data.kind} {definition.model.build == 'mlp'} {how} {_versions()}"
    with file.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashlib.sha256(f"{read} {content}".encode()).hexdigest()


def _versions() -> str:
    """Return the versions of what reads and splits data."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("search", "numpy", "pandas", "scikit-learn"))


def _link(place: Path, key: Future[str]) -> Data | None:
    """Return the same data of another search, whose files become this one's too; None where there is none."""
    for other in place.parent.parent.glob(f"{_PREFIX}*/{place.name}"):
        with suppress(Exception):  # that search has just ended, or another version wrote its files
            if other.lstat().st_uid != os.getuid() or (other / _KEY).read_text() != key.result():
                continue
            partial = _partial(place)
            shutil.copytree(other, partial, copy_function=os.link)
            partial.rename(place)
            return _read(place)
    shutil.rmtree(_partial(place), ignore_errors=True)
    return None


def _shareable(data: Data) -> bool:
    parts = [part for part in (data.train, data.validation, data.test, data.rest) if part is not None]
    if any(part.streamed for part in parts):
        return False
    arrays = [leaf for part in parts for each in (part.x, part.y, part.sample_weight) for leaf in leaves(each)]
    plain = all(type(each) in (np.ndarray, np.memmap) for each in arrays)
    return plain and sum(each.nbytes for each in arrays) >= _LARGE


class _Pickler(pickle.Pickler):
    """Pickles data, their large arrays as files."""

    def __init__(self, file: Any, folder: Path) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._folder, self._known = folder, dict[int, tuple[str, list[int], Any]]()

    def persistent_id(self, each: Any) -> Any:
        if not isinstance(each, np.ndarray) or each.dtype.hasobject or each.nbytes < _FILE:
            return None
        if id(each) not in self._known:
            name, axes = str(len(self._known)), axes_of(each)
            np.save(self._folder / f"{name}.npy", each.transpose(axes))
            if each.dtype == np.float64:
                np.save(self._folder / f"{name}.single.npy", each.transpose(axes).astype("float32"))
            self._known[id(each)] = (name, axes, each)
        return self._known[id(each)][:2]


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote."""

    def __init__(self, file: Any, folder: Path) -> None:
        super().__init__(file)
        self._folder, self._known = folder, dict[str, Any]()

    def persistent_load(self, found: Any) -> Any:
        name, axes = found
        if name not in self._known:
            single = self._folder / f"{name}.single.npy"
            self._known[name] = mapped(
                self._folder / f"{name}.npy", axes, mapped(single, axes) if single.exists() else None
            )
        return self._known[name]


def _partial(place: Path) -> Path:
    return place.with_name("partial")


def _write(place: Path, data: Data, key: str) -> None:
    partial = _partial(place)
    partial.mkdir()
    if key:
        (partial / _KEY).write_text(key)
    with (partial / "data.pickle").open("wb") as file:
        _Pickler(file, partial).dump(data)
    partial.rename(place)


def _read(place: Path) -> Data | None:
    """Return the data that were written; None where none were, or somebody removed them."""
    try:
        with (place / "data.pickle").open("rb") as file:
            data: Data = _Unpickler(file, place).load()
    except OSError:
        return None
    return data
