"""Rows of data before they are split: inputs and targets, checked, with what they are split by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data import preprocessing as features
from search.data import targets
from search.data.facts import doubts, doubts_of_arrays
from search.data.files import check_named
from search.data.given import are_arrays, is_table
from search.data.preprocessing import Column
from search.errors import DataError
from search.serving.rows import kind_of
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
        y: Targets as the user gave them: an array, a dictionary or list of arrays, or None.
        weight: A weight for each row, for several targets by their names or places; None when all count alike.
        columns: The columns of a table behind `x`; empty for arrays.
        group: What rows that stay together have in common; None when rows are independent.
        time: What rows are sorted by; None when they have no order.
        digest: Eight hexadecimal digits that change when a value changes.
        doubts: What in a table looks wrong, each with what mends it.
    """

    x: Any
    y: Any = None
    weight: Any = None
    columns: tuple[Column, ...] = ()
    group: NDArray[Any] | None = None
    time: NDArray[Any] | None = None
    digest: str = ""
    doubts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(features.leaves(self.x)[0])

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Return these rows; consecutive ones are not copied."""
        at = _consecutive(rows)
        parts = (self.x, self.y, self.weight, self.group, self.time)
        x, y, weight, group, time = (features.take(part, at) for part in parts)
        return Rows(x, y, weight, self.columns, group, time, self.digest)


def _consecutive(rows: NDArray[np.intp]) -> Any:
    """Return a slice for consecutive row numbers, else the numbers themselves."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def from_table(
    frame: pd.DataFrame, settings: DataDefinition, y: Any = None, weight: Any = None, *, targets_inside: bool = True
) -> Rows:
    """Return the rows of a table.

    Args:
        frame: The table.
        settings: Names the columns.
        y: The targets; None when they are columns of the table, or there are none.
        weight: A weight for each row; None when it is a column, or all rows count alike.
        targets_inside: Whether the table holds the targets when `y` is None.

    Raises:
        DataError: A column that is named is not there, or cannot be learned from.
    """
    if getattr(frame.columns, "nlevels", 1) > 1:
        first = ", ".join(map(str, frame.columns[0]))
        raise DataError(
            f"data.source: the columns have several levels, such as ({first}); give each one name, for example by "
            'frame.columns = ["_".join(map(str, c)) for c in frame.columns]'
        )
    frame = frame.rename(columns=str)
    if not len(frame):
        raise DataError(f"data.source: {settings.source} has no rows")
    _check_columns(frame, settings, beside=y is not None, needed=targets_inside)
    aside = {*settings.drop, *filter(None, (settings.group, settings.time, settings.sample_weight)), *settings.targets}
    wanted = list(settings.features or [name for name in frame.columns if name not in aside])
    if not wanted:
        raise DataError("data.features: no column is left to learn from; drop fewer")
    columns = features.columns_of(frame[wanted], centered=settings.normalize is not False)
    if y is None and settings.target is not None:
        y = targets.plain(frame[settings.target if isinstance(settings.target, str) else list(settings.targets)])
    target = targets.as_array(y)
    if weight is None and settings.sample_weight is not None:
        weight = frame[settings.sample_weight]
    weight = weights(weight, settings)
    x = features.to_arrays(frame[wanted], columns)
    group = _group(frame[settings.group]) if settings.group else None
    time = _time(frame[settings.time], settings.time) if settings.time else None
    if group is not None and time is not None:  # a group is as new as its newest row
        time = _newest(group, time)
    _check_arrays(x, target, weight, columns)
    digest = digest_of(_hashed(frame[wanted]), _squeezed(target), group, time, weight)
    return Rows(x, target, weight, columns, group, time, digest, doubts(frame[wanted], columns, _squeezed(target)))


def _squeezed(y: Any) -> Any:
    """Return a target of one column as one axis: the digest is that of earlier searches."""
    return y[:, 0] if isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] == 1 else y


def _check_columns(frame: pd.DataFrame, settings: DataDefinition, *, beside: bool, needed: bool) -> None:
    if not frame.columns.is_unique:
        twin = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"data.source: two columns are named '{twin}'; give each a name of its own")
    if not beside and needed and settings.target is None:
        raise DataError("data.target: missing; name the target column, or return (frame, None) where there is none")
    if beside and settings.target is not None:
        raise DataError("data.target: the targets come beside the table already; leave target out")
    check_named(settings, list(frame.columns))


def _group(values: pd.Series[Any]) -> NDArray[Any]:
    _check_known(values, "group")
    return np.asarray(values.astype(str).to_numpy(dtype=object).astype(str))


def _check_known(values: pd.Series[Any], key: str) -> None:
    if values.isna().any():
        raise DataError(f"data.{key}: '{values.name}' is missing in {values.isna().sum()} rows; fill or drop them")


def _time(values: pd.Series[Any], name: str) -> NDArray[Any]:
    import pandas as pd

    _check_known(values, "time")
    if not pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_datetime64_any_dtype(values):
        try:
            values = pd.to_datetime(values.astype(str), format="ISO8601", utc=True)
        except (ValueError, TypeError):
            raise DataError(
                f"data.time: '{name}' holds {str(values.iloc[0])!r}, which is neither a number nor a date such as "
                f'2024-12-31; for csv say options = {{ parse_dates = ["{name}"], date_format = "%d/%m/%Y" }}'
            ) from None
    return np.asarray(values.rank(method="dense").to_numpy(dtype="float64"))


def _newest(group: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
    import pandas as pd

    return np.asarray(pd.Series(time).groupby(group).transform("max").to_numpy())


def from_arrays(x: Any, y: Any, settings: DataDefinition, weight: Any = None) -> Rows:
    """Return the rows of arrays, or of a table with targets beside it.

    Raises:
        DataError: The numbers of rows differ, or the arrays cannot be learned from.
    """
    if is_table(x):
        return from_table(x, settings, y, weight, targets_inside=False)
    for key in ("target", "features", "drop", "group", "time", "sample_weight"):
        if getattr(settings, key):
            raise DataError(f"data.{key}: names columns, but the data are arrays; leave it out")
    y = targets.as_array(y)
    x = _as_arrays(x, next((len(leaf) for leaf in features.leaves(y)), None))
    inner = list(x.values()) if isinstance(x, dict) else x if isinstance(x, list) else []
    if any(isinstance(part, dict | list) for part in inner):
        raise DataError("data.source: the inputs are nested; give one dictionary or one list of arrays")
    if not features.leaves(x):
        raise DataError("data.source: x is empty; give at least one row of one input")
    weight = weights(weight, settings)
    _check_arrays(x, y, weight, ())
    if settings.normalize is True and isinstance(x, dict | list):
        raise DataError("data.normalize: several inputs are not scaled for you; leave normalize out")
    digest = digest_of(x, _squeezed(y), *([] if weight is None else [weight]))
    return Rows(x, y, weight, digest=digest, doubts=doubts_of_arrays(x))


def weights(values: Any, settings: DataDefinition) -> Any:
    """Return the weights of rows as single precision, nested as they were; None stays None.

    Raises:
        DataError: One is missing, negative or no number, or all are 0.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {str(name): weights(value, settings) for name, value in values.items()}
    if are_arrays(values):
        return [weights(value, settings) for value in values]
    key = f"data.sample_weight: '{settings.sample_weight}'" if settings.sample_weight else "data.source: sample_weight"
    try:
        array = targets.as_known(values).astype("float32")
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.ndim == 0:
        raise DataError(f"{key} holds no numbers; give a weight of at least 0 for each row")
    if not np.isfinite(array).all() or (array < 0).any() or not (array > 0).any():
        raise DataError(f"{key} has missing, infinite or negative values, or only 0; give weights of at least 0")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _as_arrays(x: Any, rows: int | None) -> Any:
    """Return inputs as arrays, nested as they were; a list whose elements have the rows is several inputs."""
    if isinstance(x, Mapping):
        return {str(name): _as_arrays(inner, rows) for name, inner in x.items()}
    if isinstance(x, list | tuple) and x and all(_has_rows(inner, rows) for inner in x):
        return [_as_arrays(inner, rows) for inner in x]
    return _array(x)


def _has_rows(value: Any, rows: int | None) -> bool:
    """Return whether an element of a list is an input of its own: an array, or a list, with all the rows."""
    if hasattr(value, "shape"):
        return len(value.shape) > 0 and (rows is None or value.shape[0] == rows)
    if isinstance(value, Mapping):
        return all(_has_rows(inner, rows) for inner in value.values())
    return rows is not None and isinstance(value, list | tuple) and len(value) == rows and isinstance(value[0], str)


def dense(matrix: Any) -> NDArray[Any]:
    """Return a sparse matrix as an array of single precision.

    Raises:
        DataError: It would not fit.
    """
    if np.prod(matrix.shape, dtype=float) > _DENSE:
        raise DataError("data: x is a sparse matrix too large to be made dense; give fewer columns, or a stream")
    return np.asarray(matrix.toarray(), "float32")


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "toarray"):
        return dense(values)
    try:
        array = targets.as_known(values)
    except Exception:  # rows of several shapes, and what an object of the user's own raises
        array = np.asarray(None, dtype=object)
    if array.ndim and array.dtype == object and array.size and all(isinstance(text, str) for text in array.flat):
        return array  # as objects: texts of one width would each take the room of the longest
    if array.ndim and array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype == object or array.ndim == 0 or array.dtype.kind in "mMcV":
        kind = f"array of {kind_of(values.dtype)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(
            f"data: x cannot be read as an array of numbers or texts, it is of the kind '{kind}'; rows must have one "
            "shape, and mixed columns belong in a data frame"
        )
    return array


def _check_arrays(x: Any, y: Any, weight: Any, columns: Sequence[Column]) -> None:
    if isinstance(weight, dict | list) and not _nested_alike(weight, y):
        raise DataError(
            "data.source: sample_weight is given for several targets, and they are others; give a weight for each row"
        )
    named = {"x": x, "y": y, "sample_weight": weight}
    rows = {name: dict.fromkeys(map(len, features.leaves(nested))) for name, nested in named.items()}
    if len({count for counts in rows.values() for count in counts}) != 1:
        told = ", ".join(f"{name} has {' and '.join(map(str, counts))}" for name, counts in rows.items() if counts)
        hint = '; give parts without targets by name: {"train": x, "test": x_test}' if _alike(x, y) else ""
        raise DataError(f"data: different numbers of rows: {told}{hint}")
    for leaf in features.leaves(x):
        if 0 in leaf.shape[1:]:
            raise DataError("data: the rows of x are empty; give at least one value in each")
        if leaf.dtype.kind == "f" and np.isinf(leaf).any():
            at = int(np.argwhere(np.isinf(leaf))[0][-1])
            numeric = [column.name for column in columns if column.numeric]
            where = f"column '{numeric[at]}'" if numeric else "x"
            raise DataError(f"data: {where} holds infinite values; give finite numbers")


def _nested_alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and set(one) <= set(other)
    return isinstance(other, list) and len(one) == len(other)


def _alike(x: Any, y: Any) -> bool:
    """Return whether the targets look like further inputs."""
    return isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.ndim > 1 and x.shape[1:] == y.shape[1:]


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
            digest.update(f"{leaf.shape}{leaf.dtype}".encode())
            flat = np.ascontiguousarray(leaf).reshape(-1)
            digest.update("\x1f".join(map(repr, flat)).encode() if leaf.dtype == object else flat.view("uint8").data)
    return digest.hexdigest()[:8]
