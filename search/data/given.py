"""What a source returned, read as parts: rows or batches to train on, to choose by, and to hold out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from search.data import streams
from search.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
NAMES = (TRAIN, VALIDATION, TEST)
ALL = "all"  # the name of data that are still to be split
_POSITIONS = {2: (TRAIN, TEST), 3: NAMES}
_RIGHT = (
    "return x, (x, y) or (x, y, sample_weight), two or three such parts, "
    'parts by name {"train": …, "validation": …, "test": …}, a data frame, or streams'
)
_NO_DATA = (
    *(str, bytes, bool, int, float, complex, set, zip, map, filter, type),
    *(FunctionType, MethodType, BuiltinFunctionType, CoroutineType, ModuleType),
)
_FOUR = "of the four arrays that train_test_split gives, return ((x_train, y_train), (x_test, y_test))"


@dataclass(frozen=True)
class Given:
    """One part as it was returned.

    Attributes:
        x: Inputs, or a stream, or a table.
        y: Targets; None when there are none beside `x`.
        weight: A weight for each row; None when all count alike.
        alone: Whether `x` was returned without a place for targets: a table may hold them.
    """

    x: Any
    y: Any = None
    weight: Any = None
    alone: bool = True

    @property
    def streamed(self) -> bool:
        """Whether `x` yields batches."""
        return streams.is_stream(self.x)


def is_table(loaded: Any) -> bool:
    """Return whether `loaded` is a data frame."""
    return hasattr(loaded, "columns") and hasattr(loaded, "iloc")


def are_arrays(values: Any) -> bool:
    """Return whether this is a list or tuple of arrays."""
    listed = isinstance(values, list | tuple) and bool(values)
    return listed and all(hasattr(value, "shape") and np.ndim(value) for value in values)


def parts_of(loaded: Any, source: str) -> dict[str, Given]:
    """Return the parts of what a source returned, by name; `all` for data that are still to be split.

    Raises:
        DataError: It is nothing that `model.fit` takes.
    """
    if loaded is None or isinstance(loaded, _NO_DATA):
        raise DataError(f"data.source: {source} returned {type(loaded).__name__}; {_RIGHT}")
    _refuse_unknown_iterables(loaded)
    if type(loaded).__name__ == "Bunch" and {"data", "target"} <= set(loaded):  # scikit-learn's
        return {ALL: Given(loaded["data"], loaded["target"], alone=False)}
    if isinstance(loaded, Mapping) and loaded and set(loaded) <= set(NAMES):
        return _named(loaded, source)
    if isinstance(loaded, Mapping) and loaded and all(isinstance(value, tuple) for value in loaded.values()):
        names = ", ".join(map(str, loaded))
        raise DataError(f'data.source: {source} returned parts named {names}; name them "train", "validation", "test"')
    if isinstance(loaded, tuple | list) and len(loaded) in _POSITIONS and _are_parts(_without_gaps(loaded)):
        places = zip(_POSITIONS[len(loaded)], loaded, strict=True)
        return {name: _part(part) for name, part in places if part is not None}
    if isinstance(loaded, tuple | list) and _are_halves(loaded):
        raise DataError(f"data.source: {source} returned {type(loaded).__name__} of 4 values; {_FOUR}")
    if _is_sequence_of_rows(loaded) or not isinstance(loaded, tuple | list):
        return {ALL: Given(loaded)}
    if 1 <= len(loaded) <= 3:
        return {ALL: _part(loaded)}
    if isinstance(loaded, list) and loaded:
        return {ALL: Given(loaded)}  # rows as lists
    raise DataError(f"data.source: {source} returned {type(loaded).__name__} of {len(loaded)} values; {_RIGHT}")


def _named(loaded: Mapping[str, Any], source: str) -> dict[str, Given]:
    if TRAIN not in loaded:
        raise DataError(f'data.source: {source} returned parts without "train"; {_RIGHT}')
    return {name: _part(loaded[name]) for name in NAMES if loaded.get(name) is not None}


def _part(given: Any) -> Given:
    """Return x, (x, y) or (x, y, sample_weight) as one part."""
    if isinstance(given, tuple | list) and 1 <= len(given) <= 3 and not _is_sequence_of_rows(given):
        x, y, weight = (*given, None, None)[:3]
        return Given(x, y, weight, alone=len(given) == 1)
    return Given(given)


def _refuse_unknown_iterables(loaded: Any) -> None:
    """Refuse what yields batches, alone or as a part, in a way that Keras does not know."""
    parts = loaded.values() if isinstance(loaded, Mapping) else loaded if isinstance(loaded, tuple | list) else ()
    for value in (loaded, *parts) if len(parts) <= len(NAMES) else (loaded,):
        arrays = any(hasattr(value, name) for name in ("__array__", "shape", "toarray", "columns"))
        known = arrays or streams.is_stream(value) or isinstance(value, Sequence | Mapping | set)
        if hasattr(value, "__iter__") and not known:
            raise DataError(
                f"data.source: {type(value).__name__} is an iterable that Keras does not take; make it a "
                "keras.utils.PyDataset, a generator or a tf.data.Dataset"
            )


def _is_sequence_of_rows(given: Any) -> bool:
    """Return whether this is a list of texts or numbers: the rows of one input."""
    return isinstance(given, list | tuple) and all(isinstance(row, str | bytes | int | float) for row in given)


def _without_gaps(loaded: tuple[Any, ...] | list[Any]) -> tuple[Any, ...] | list[Any]:
    """Return three parts without the validation or test part that is None; anything else as it is."""
    given = [part for part in loaded if part is not None]
    parts = all(isinstance(part, tuple) or streams.is_stream(part) or is_table(part) for part in given)
    return given if len(loaded) == 3 and len(given) == 2 and loaded[0] is not None and parts else loaded


def _are_halves(loaded: tuple[Any, ...] | list[Any]) -> bool:
    """Return whether these are x and y of two parts in the order of scikit-learn's `train_test_split`."""
    if len(loaded) != 4 or not all(hasattr(part, "shape") for part in loaded):
        return False
    rows = [rows_of(part) for part in loaded]
    return rows[0] == rows[2] and rows[1] == rows[3] and (rows[0] != rows[1] or isinstance(loaded, tuple))


def _are_parts(loaded: tuple[Any, ...] | list[Any]) -> bool:
    """Return whether these are two or three parts, and not one (x, y) or (x, y, sample_weight)."""
    if all(map(streams.is_stream, loaded)):
        return True
    if all(map(is_table, loaded)):
        return all(list(table.columns) == list(loaded[0].columns) for table in loaded)
    if not all(isinstance(part, tuple | list) and 2 <= len(part) <= 3 for part in loaded):
        return False
    if any(map(_is_sequence_of_rows, loaded)):
        return False
    weighed = len({len(part) for part in loaded}) > 1  # some parts alone have weights
    return _could_be_parts(loaded) and (not weighed or _have_rows_alike(loaded))


def _could_be_parts(loaded: tuple[Any, ...] | list[Any]) -> bool:
    """Return whether the elements have the rows of parts.

    In parts, x and y of one element have the same rows; in one (x, y) of lists, all arrays of both do. Where
    all rows are the same both could be meant: then tuples are parts, and lists are inputs and targets.
    """
    counts = [[rows_of(array) for array in part if array is not None] for part in loaded]
    if any(len(set(part)) != 1 for part in counts):
        return len({count for part in counts for count in part}) != 1
    if len({part[0] for part in counts}) > 1:
        return True
    if isinstance(loaded[0], tuple):
        return True
    return _have_rows_alike(loaded) and _shape(loaded[0][0]) != _shape(loaded[0][1])


def _have_rows_alike(parts: tuple[Any, ...] | list[Any]) -> bool:
    """Return whether the rows of all parts have the same shapes."""
    first, second = _shape(parts[0][0]), _shape(parts[0][1])
    return all(_shape(part[0]) == first and _shape(part[1]) == second for part in parts)


def rows_of(x: Any) -> int:
    """Return how many rows arrays, lists, tables or nested ones have; 0 when they have none to count."""
    if streams.is_stream(x):
        return 0
    if isinstance(x, Mapping):
        return rows_of(next(iter(x.values()))) if x else 0
    if isinstance(x, list | tuple) and x and hasattr(x[0], "shape"):
        return rows_of(x[0]) if np.ndim(x[0]) else len(x)
    if hasattr(x, "shape"):
        return int(x.shape[0]) if len(x.shape) else 0
    return len(x) if hasattr(x, "__len__") else 0


def _shape(x: Any) -> Any:
    """Return the shape of one row, nested as `x` is."""
    if isinstance(x, Mapping):
        return {name: _shape(inner) for name, inner in x.items()}
    if are_arrays(x):
        return [_shape(inner) for inner in x]
    return tuple(x.shape[1:]) if hasattr(x, "shape") else ()
