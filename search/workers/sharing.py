"""A study's data as files that all workers of a machine map, so that they lie in its memory once.

The worker that loads the data first writes each array of 1 MB or more to a file, in a folder that belongs to
one search, and the rest beside them. The others map these files instead of loading: what they read is shared,
what user code writes into an array stays with the process that wrote it (copy on write). Rows in double
precision lie there in single precision too, as Keras takes them.

Every worker loads by itself, as before, data of less than 16 MB, streams, objects that are no plain arrays,
data that depend on the trial, and what a function returns that leaves something behind in the user's modules,
in its own object or in the environment: a builder may need that.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from search.code.footprint import footprint
from search.data import sources
from search.data.dataset import Data
from search.data.loading import TrialData
from search.data.mapped import axes_of, mapped
from search.data.preprocessing import leaves
from search.studyfile.schema import Definition
from search.system.whole import whole

_DATA = "data.pickle"  # the file that stands for all, its large arrays in files beside it
_LARGE = 16_000_000  # bytes of a study's data from which on they are shared; smaller ones load as fast
_FILE = 1_000_000  # bytes of an array from which on it has a file of its own


def trial_data(definition: Definition, folder: str, *, first: bool) -> TrialData:
    """Return the data of each trial, those of all trials mapped where they are shared.

    Args:
        folder: The search's folder; empty where workers share none.
        first: Whether this process loads before all others, and writes the files unless they are there.

    Raises:
        DataError: They cannot be loaded.
    """
    place = Path(folder, "data")
    same = _read(place) if folder else None
    if not folder or not first or same is not None:
        return TrialData(definition, same=same)
    from_code = definition.data.kind == "python"
    before = footprint(sources.function_of(definition)) if from_code else None
    loaded = TrialData(definition)
    if loaded.same is None or not _shareable(loaded.same):
        return loaded
    if before is not None and not footprint(sources.function_of(definition)).unchanged(before):
        return loaded
    try:
        _write(place, loaded.same)
    except Exception:  # the disk is full, or what a data function returned cannot be pickled
        return loaded
    return TrialData(definition, same=_read(place) or loaded.same)


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


def _write(place: Path, data: Data) -> None:
    with whole(place) as made:
        made.mkdir()
        with (made / _DATA).open("wb") as file:
            _Pickler(file, made).dump(data)


def _read(place: Path) -> Data | None:
    """Return the data that were written; None where none were, or somebody removed them."""
    try:
        with (place / _DATA).open("rb") as file:
            data: Data = _Unpickler(file, place).load()
    except OSError:
        return None
    return data
