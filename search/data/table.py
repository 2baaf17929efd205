"""Rows of data before they are split: inputs and targets, checked, with what they are split by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data import preprocessing as features
from search.data import targets
from search.data.preprocessing import Column
from search.errors import DataError, did_you_mean
from search.studyfile.schema import DataDefinition

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_DENSE = 250_000_000  # elements (1 GB) up to which a sparse matrix is made dense


@dataclass(frozen=True)
class Rows:
    """Inputs and targets, row by row.

    Attributes:
        x: An array, or a dictionary or list of arrays, the rows on their first axis.
        y: Targets as the user gave them.
        columns: The columns of a table behind `x`; empty for arrays.
        group: What rows that stay together have in common; None when rows are independent.
        time: What rows are sorted by; None when they have no order.
        digest: Eight hexadecimal digits that change when a value changes.
    """

    x: Any
    y: NDArray[Any]
    columns: tuple[Column, ...] = ()
    group: NDArray[Any] | None = None
    time: NDArray[Any] | None = None
    digest: str = ""

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Return these rows; consecutive ones are not copied."""
        at = _consecutive(rows)
        group = None if self.group is None else self.group[at]
        time = None if self.time is None else self.time[at]
        return Rows(features.take(self.x, at), self.y[at], self.columns, group, time, self.digest)


def _consecutive(rows: NDArray[np.intp]) -> Any:
    """Return a slice for consecutive row numbers, else the numbers themselves."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def from_table(frame: pd.DataFrame, settings: DataDefinition, y: Any = None) -> Rows:
    """Return the rows of a table.

    Args:
        frame: The table.
        settings: Names the columns.
        y: The targets; None when they are columns of the table.

    Raises:
        DataError: A column that is named is not there, or cannot be learned from.
    """
    frame = frame.rename(columns=str)
    _check_columns(frame, settings, y)
    aside = {*settings.drop, *filter(None, (settings.group, settings.time)), *settings.targets}
    wanted = list(settings.features or [name for name in frame.columns if name not in aside])
    if not wanted:
        raise DataError("data.features: no column is left to learn from; drop fewer")
    columns = features.columns_of(frame[wanted])
    of_target = settings.target if isinstance(settings.target, str) else list(settings.targets)
    target = targets.plain(frame[of_target] if y is None else y)
    x = features.to_arrays(frame[wanted], columns)
    group = _group(frame[settings.group]) if settings.group else None
    time = _time(frame[settings.time], settings.time) if settings.time else None
    _check_arrays(x, target, columns)
    return Rows(x, target, columns, group, time, digest_of(_hashed(frame[wanted]), target, group, time))


def _check_columns(frame: pd.DataFrame, settings: DataDefinition, y: Any) -> None:
    if not frame.columns.is_unique:
        twin = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"data.source: two columns are named '{twin}'; give each a name of its own")
    if y is None and settings.target is None:
        raise DataError("data.target: missing; name the target column")
    if y is not None and settings.target is not None:
        raise DataError("data.target: the targets come beside the table already; leave target out")
    named: dict[str, Sequence[str]] = {
        "target": settings.targets,
        "features": settings.features or (),
        "drop": settings.drop,
        "group": [settings.group] if settings.group else [],
        "time": [settings.time] if settings.time else [],
    }
    known = list(frame.columns)
    for key, names in named.items():
        for name in names:
            if name not in known:
                has = ", ".join(known[:30]) + (", …" if len(known) > 30 else "")
                raise DataError(
                    f"data.{key}: no column '{name}' in {settings.source} (it has {has}){did_you_mean(name, known)}"
                )


def _group(values: pd.Series[Any]) -> NDArray[Any]:
    if values.isna().any():
        raise DataError(f"data.group: '{values.name}' is missing in {values.isna().sum()} rows; fill or drop them")
    return np.asarray(values.astype(str).to_numpy(dtype=object).astype(str))


def _time(values: pd.Series[Any], name: str) -> NDArray[Any]:
    import pandas as pd

    if values.isna().any():
        raise DataError(f"data.time: '{name}' is missing in {values.isna().sum()} rows; fill or drop them")
    if not pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_datetime64_any_dtype(values):
        try:
            values = pd.to_datetime(values, format="ISO8601", utc=True)
        except (ValueError, TypeError):
            raise DataError(
                f"data.time: '{name}' holds {str(values.iloc[0])!r}, which is no number and no date such as "
                f'2024-12-31; for csv say options = {{ parse_dates = ["{name}"], date_format = "%d/%m/%Y" }}'
            ) from None
    return np.asarray(values.rank(method="dense").to_numpy(dtype="float64"))


def from_arrays(x: Any, y: Any, settings: DataDefinition) -> Rows:
    """Return the rows of arrays, or of a table with targets beside it.

    Raises:
        DataError: The numbers of rows differ, or the arrays cannot be learned from.
    """
    if is_table(x):
        return from_table(x, settings, y)
    for key in ("target", "features", "drop", "group", "time"):
        if getattr(settings, key):
            raise DataError(f"data.{key}: names columns, and these data are arrays without any; leave it out")
    y = targets.plain(y)
    if y.ndim == 0:
        raise DataError("data.source: the targets y are no array; return (x, y), one target for each row")
    x = _as_arrays(x, len(y))
    _check_arrays(x, y, ())
    if settings.normalize and isinstance(x, dict | list):
        raise DataError("data.normalize: several inputs are not scaled for you; leave normalize out")
    return Rows(x, y, digest=digest_of(x, y))


def _as_arrays(x: Any, rows: int) -> Any:
    if isinstance(x, Mapping):
        return {str(name): _array(each) for name, each in x.items()}
    several = isinstance(x, list | tuple) and all(isinstance(each, np.ndarray) and each.ndim for each in x)
    if several and all(len(each) == rows for each in x) and (len(x) != rows or x[0].ndim > 1):
        return [_array(each) for each in x]
    return _array(x)


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "toarray"):  # a sparse matrix
        if np.prod(values.shape, dtype=float) > _DENSE:
            raise DataError("data: x is a sparse matrix too large to be made dense; give fewer columns, or a stream")
        return np.asarray(values.toarray(), "float32")
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None, dtype=object)
    if array.dtype == object and array.ndim == 1 and all(isinstance(each, str) for each in array):
        return array.astype(str)
    if array.dtype == object or array.ndim == 0 or array.dtype.kind in "mMcV":
        raise DataError(
            "data: x cannot be read as an array of numbers or texts; rows must have one shape, and mixed "
            "columns belong in a data frame"
        )
    return array


def _check_arrays(x: Any, y: NDArray[Any], columns: Sequence[Column]) -> None:
    lengths = sorted({len(each) for each in (*features.leaves(x), np.atleast_1d(y))})
    if len(lengths) != 1:
        raise DataError(f"data: x and y have different numbers of rows ({', '.join(map(str, lengths))})")
    for leaf in features.leaves(x):
        if leaf.dtype.kind == "f" and np.isinf(leaf).any():
            at = int(np.argwhere(np.isinf(leaf))[0][-1])
            numeric = [column.name for column in columns if column.numeric]
            where = f"column '{numeric[at]}'" if numeric else "x"
            raise DataError(f"data: {where} holds infinite values; give finite numbers")


def is_table(loaded: Any) -> bool:
    """Return whether `loaded` is a data frame."""
    return hasattr(loaded, "columns") and hasattr(loaded, "iloc")


def _hashed(frame: pd.DataFrame) -> list[NDArray[Any]]:
    """Return a number for each value as it was read: conversion to single precision hides changes."""
    import pandas as pd

    texts = frame.astype({name: str for name in frame.columns if frame[name].dtype == object})
    names = np.asarray([f"{name}:{kind}" for name, kind in frame.dtypes.items()])
    return [names, *(pd.util.hash_pandas_object(texts[name], index=False).to_numpy() for name in texts.columns)]


def digest_of(*values: Any) -> str:
    """Return eight hexadecimal digits that change when a value in the arrays changes."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(sorted(value)).encode() if isinstance(value, dict) else b"")
        for leaf in features.leaves(value):
            if leaf is None:
                continue
            digest.update(f"{leaf.shape}{leaf.dtype}".encode())
            flat = np.ascontiguousarray(leaf).reshape(-1)
            digest.update("\x1f".join(map(repr, flat)).encode() if leaf.dtype == object else flat.view("uint8").data)
    return digest.hexdigest()[:8]
