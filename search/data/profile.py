"""What the training data looked like, column by column, and how other data differ from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.preprocessing import named_inputs
from search.serving.rows import CATEGORICAL, MISSING, NUMERIC

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.data.dataset import Data

_FEW = 0.01
_MOST_FEATURES = 1000  # beyond it (pictures, long sequences) one profile describes the whole input
_MOST_CATEGORIES = 1000
_BLOCK = 1_000_000  # values that are looked at together


def profile_of(data: Data) -> dict[str, Any]:
    """Return statistics of the rows that the registered model is trained on; empty for streams.

    Returns:
        `rows`, and `columns`: for each column, or each feature of an array, `missing` (share of the rows), and
        either `min` and `max` or `categories` (their shares of the rows). Numbers are as the model takes them;
        `center` is what was subtracted before.
    """
    part = data.rest if data.folds and data.rest is not None else data.train
    if part.streamed:
        return {}
    names = tuple(column.name for column in data.columns if column.numeric)
    texts = tuple(column.name for column in data.columns if not column.numeric)
    columns = described(part.x, names, texts)
    for column in data.columns:
        columns[column.name] |= {"center": column.center} if column.center else {}
    return {"rows": len(part), "columns": columns}


def features(x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each column or feature of a model's inputs with its values, of shape (rows, values of a row).

    Args:
        x: An array, or arrays by name or in a list, rows on their first axis.
        numeric: Names of a table's numeric columns, in the order of the array that holds them.
        texts: Names of its text columns, likewise.
    """
    for names, matrix in _matrices(x, numeric, texts):
        if len(names) > 1:
            yield from ((name, matrix[:, at : at + 1]) for at, name in enumerate(names))
        else:
            yield names[0], matrix


def _matrices(
    x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], NDArray[Any]]]:
    """Yield each input with the names of its columns; one name for all that a row holds."""
    if numeric or texts:
        arrays = x if isinstance(x, dict) else {NUMERIC: x}
        yield from ((names, arrays[key]) for key, names in ((NUMERIC, numeric), (CATEGORICAL, texts)) if names)
        return
    for name, array in named_inputs(x).items():
        matrix = np.asarray(array).reshape(len(array), -1)
        apart = np.ndim(array) == 2 and 1 < matrix.shape[1] <= _MOST_FEATURES
        yield tuple(f"{name}[{at}]" for at in range(matrix.shape[1])) if apart else (name,), matrix


def described(x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the statistics of each feature; the arguments are those of `features`."""
    found: dict[str, Any] = {}
    for names, matrix in _matrices(x, numeric, texts):
        if matrix.dtype.kind in "OSU":
            columns = matrix.T if len(names) > 1 else [matrix]
            found |= {name: _of_texts(values) for name, values in zip(names, columns, strict=True)}
        else:
            found |= dict(zip(names, _of_numbers(matrix, 0 if len(names) > 1 else None), strict=True))
    return found


def _of_texts(values: NDArray[Any]) -> dict[str, Any]:
    counts = Counter(values.astype(str).reshape(-1).tolist())
    total, missing = max(1, counts.total()), counts.pop(MISSING, 0)
    known = sorted(counts, key=lambda text: (-counts[text], text))[:_MOST_CATEGORIES]
    return {"missing": missing / total, "categories": {text: counts[text] / total for text in known}}


def _of_numbers(matrix: NDArray[Any], axis: int | None) -> Iterator[dict[str, Any]]:
    """Yield the statistics of each column, or of all values together; rows are read as they lie in memory."""
    missing, low, high = np.zeros(1), np.full(1, np.inf), np.full(1, -np.inf)
    step = max(1, _BLOCK // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step]
        gaps = np.isnan(block)
        missing = missing + (gaps.sum(axis=0) if axis == 0 else gaps.any(axis=1).sum())
        low = np.fmin(low, np.fmin.reduce(block, axis=axis))
        high = np.fmax(high, np.fmax.reduce(block, axis=axis))
    columns = zip(*(found.tolist() for found in np.broadcast_arrays(missing, low, high)), strict=True)
    for gap, lowest, highest in columns:
        there = {"min": lowest, "max": highest} if lowest <= highest else {"min": None, "max": None}
        yield {"missing": gap / max(1, len(matrix)), **there}


@dataclass(frozen=True)
class Outside:
    """How a column differs from what the model was trained on.

    Attributes:
        column: Its name.
        beyond: The share of rows below the smallest or above the largest value of training.
        new: The share of rows with a category that training did not have.
        categories: Some of those categories.
        missing: The share of rows without a value.
        was_missing: The same in training.
        seen: What training had: smallest and largest value; None for text.
        rarer: Whether values are missing more often than in training, and than chance explains.
    """

    column: str
    beyond: float
    new: float
    categories: tuple[str, ...]
    missing: float
    was_missing: float
    seen: tuple[float, float] | None
    rarer: bool

    @property
    def few_beyond(self) -> bool:
        """Whether all that is told is that less than 1 % of the rows are beyond the range."""
        return 0 < self.beyond < _FEW and len(self.told) == 1

    @property
    def told(self) -> tuple[str, ...]:
        """What is worth telling, in words; empty when the column looks as in training."""
        parts = []
        if self.beyond and self.seen:
            low, high = (f"{bound:.10g}" for bound in self.seen)
            parts.append(f"{_percent(self.beyond)} of the rows beyond {low} to {high}")
        if self.new:
            more = ", …" if len(self.categories) > 3 else ""
            which = ", ".join(repr(category) for category in self.categories[:3]) + more
            parts.append(f"{_percent(self.new)} of the rows with new categories ({which})")
        if self.rarer:
            parts.append(f"missing in {_percent(self.missing)} of the rows ({_percent(self.was_missing)} in training)")
        return tuple(parts)


@dataclass
class _Counts:
    """What was counted of one column."""

    rows: int = 0
    missing: int = 0
    beyond: int = 0
    new: int = 0
    categories: set[str] = field(default_factory=set)


class Comparison:
    """Counts, chunk by chunk, how data differ from those a model was trained on.

    Args:
        profile: What `profile_of` returned.
    """

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self._columns: Mapping[str, Any] = profile.get("columns", {})
        self._counts = {name: _Counts() for name in self._columns}

    def add(self, x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> None:
        """Count these rows; the arguments are those of `features`."""
        for name, values in features(x, numeric, texts):
            if name in self._columns:
                known, counts = self._columns[name], self._counts[name]
                counts.rows += len(values)
                (_count_texts if "categories" in known else _count_numbers)(known, counts, values)

    def outside(self) -> list[Outside]:
        """Return the columns that differ, those first that differ in most rows."""
        found = [self._of(name, counts) for name, counts in self._counts.items() if counts.rows]
        return sorted((one for one in found if one.told), key=lambda one: -max(one.beyond, one.new, one.missing))

    def _of(self, name: str, counts: _Counts) -> Outside:
        known = self._columns[name]
        was_missing, center = float(known["missing"]), known.get("center", 0.0)
        missing, by_chance = counts.missing / counts.rows, math.sqrt(was_missing * (1 - was_missing) / counts.rows)
        return Outside(
            column=name,
            beyond=counts.beyond / counts.rows,
            new=counts.new / counts.rows,
            categories=tuple(sorted(counts.categories)[:20]),
            missing=missing,
            was_missing=was_missing,
            seen=None if known.get("min") is None else (known["min"] + center, known["max"] + center),
            rarer=missing > was_missing + 3 * by_chance,
        )


def _count_numbers(known: Mapping[str, Any], counts: _Counts, values: NDArray[Any]) -> None:
    numbers = np.asarray(values).astype("float64")
    missing = np.isnan(numbers)
    counts.missing += int(missing.any(axis=1).sum())
    beyond = ~missing if known["min"] is None else (numbers < known["min"]) | (numbers > known["max"])
    counts.beyond += int(beyond.any(axis=1).sum())


def _count_texts(known: Mapping[str, Any], counts: _Counts, values: NDArray[Any]) -> None:
    texts = np.asarray(values).astype(str)
    counts.missing += int((texts == MISSING).any(axis=1).sum())
    if len(known["categories"]) < _MOST_CATEGORIES:  # else rare ones are not known
        new = set(texts.reshape(-1).tolist()) - {MISSING, *known["categories"]}
        counts.new += int(np.isin(texts, list(new)).any(axis=1).sum()) if new else 0
        counts.categories |= new if len(counts.categories) < _MOST_CATEGORIES else set()


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) or share >= 0.1 else f"{share:.2%}"
