"""What the training data looked like, column by column, and how other data differ from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.preprocessing import CATEGORICAL, MISSING, NUMERIC

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.data.dataset import Data

SHIFTED = 0.25  # population stability index above which a column is said to be distributed otherwise
_BINS = 10
_FEW = 0.01
_MOST_FEATURES = 1000  # beyond it (pictures, long sequences) one profile describes the whole input
_MOST_CATEGORIES = 1000
_MOST_ROWS, _MOST_VALUES = 200_000, 1_000_000  # of a feature, that quantiles are taken from
_BLOCK, _COLUMNS = 1_000_000, 100  # values that are looked at, and columns that are copied, together
_LEAST_SHARE = 1e-4  # a bin that is empty counts as this share


def profile_of(data: Data) -> dict[str, Any]:
    """Return statistics of the rows that the registered model is trained on; empty for streams.

    Returns:
        `rows`, and `columns`: for each column, or each feature of an array, `missing` (share of the rows), and
        either `min`, `max`, `mean`, `std`, `edges` and `shares` (bins between quantiles) or `categories`
        (their shares of the rows).
    """
    part = data.rest if data.folds and data.rest is not None else data.train
    if part.streamed:
        return {}
    names = tuple(column.name for column in data.columns if column.numeric)
    texts = tuple(column.name for column in data.columns if not column.numeric)
    return {"rows": len(part), "columns": _described(part.x, names, texts)}


def features(x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each column or feature of a model's inputs with its values, one for each row.

    Args:
        x: An array, or arrays by name or in a list, rows on their first axis.
        numeric: Names of a table's numeric columns, in the order of the array that holds them.
        texts: Names of its text columns, likewise.
    """
    for names, array in _arrays(x, numeric, texts):
        if isinstance(names, str):
            yield names, array
        else:
            yield from ((name, array[:, index]) for index, name in enumerate(names))


def _arrays(
    x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()
) -> Iterator[tuple[str | tuple[str, ...], NDArray[Any]]]:
    """Yield the arrays behind `features`: one feature under its name, or the columns of a matrix under theirs."""
    if numeric or texts:
        arrays = x if isinstance(x, dict) else {NUMERIC: x}
        yield from ((names, arrays[key]) for key, names in ((NUMERIC, numeric), (CATEGORICAL, texts)) if names)
    elif isinstance(x, dict):
        yield from (_named(name, array) for name, array in x.items())
    elif isinstance(x, list | tuple):
        yield from (_named(f"input_{index}", array) for index, array in enumerate(x))
    else:
        yield _named("x", x)


def _named(name: str, array: Any) -> tuple[str | tuple[str, ...], NDArray[Any]]:
    array = np.asarray(array)
    if array.ndim == 2 and 1 < array.shape[1] <= _MOST_FEATURES:
        return tuple(f"{name}[{index}]" for index in range(array.shape[1])), array
    return name, array.reshape(len(array), -1) if array.ndim > 1 else array


def _is_text(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "OSU"


def _described(x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the statistics of each feature; the arguments are those of `features`."""
    columns: dict[str, Any] = {}
    for names, array in _arrays(x, numeric, texts):
        columns |= _of_array(names, array)
    return columns


def _of_array(names: str | tuple[str, ...], array: NDArray[Any]) -> dict[str, Any]:
    """Return the statistics of one feature, or of each column of a matrix."""
    if _is_text(array):
        columns = {names: array} if isinstance(names, str) else dict(zip(names, array.T, strict=True))
        return {name: _of_texts(values) for name, values in columns.items()}
    lowest, highest = _extremes(array.reshape(len(array), -1))
    if isinstance(names, str):
        return {names: _of_numbers(_sample(array), np.fmin.reduce(lowest), np.fmax.reduce(highest))}
    found = zip(names, _columns(array), lowest, highest, strict=True)
    return {name: _of_numbers(values, low, high) for name, values, low, high in found}


def _columns(matrix: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the sampled rows of each column, read from memory several columns at a time."""
    at = _some_rows(len(matrix), _MOST_ROWS)
    for start in range(0, matrix.shape[1], _COLUMNS):
        yield from np.ascontiguousarray(matrix[at, start : start + _COLUMNS].T)


def _of_texts(values: NDArray[Any]) -> dict[str, Any]:
    known, counts = np.unique(values.astype(str).reshape(-1), return_counts=True)
    total, missing = max(1, int(counts.sum())), int(counts[known == MISSING].sum())
    order = [at for at in np.argsort(-counts, kind="stable") if known[at] != MISSING][:_MOST_CATEGORIES]
    return {"missing": missing / total, "categories": {str(known[at]): int(counts[at]) / total for at in order}}


def _of_numbers(some: NDArray[Any], lowest: Any, highest: Any) -> dict[str, Any]:
    """Return the statistics of a feature from some of its rows, and its extremes in all of them."""
    some = some.astype("float64").reshape(len(some), -1)
    there = some[np.isfinite(some)]
    missing_rows = float(np.isnan(some).any(axis=1).mean()) if len(some) else 0.0
    if not len(there):
        return {"missing": missing_rows, "min": None, "max": None, "mean": None, "std": None, "edges": [], "shares": []}
    ordered = np.sort(there)  # quantiles and bins are found faster in it
    edges = np.unique(np.quantile(ordered, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return {
        "missing": missing_rows,
        "min": float(lowest),
        "max": float(highest),
        "mean": float(there.mean()),
        "std": float(there.std()),
        "edges": edges.tolist(),
        "shares": (_binned(ordered, edges) / len(there)).tolist(),
    }


def _extremes(matrix: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the smallest and the largest number of each column, missing ones left out; read as they lie in memory."""
    step = max(1, _BLOCK // max(1, matrix.shape[1]))
    blocks = [matrix[start : start + step] for start in range(0, len(matrix), step)]
    lowest, highest = (take.reduce([take.reduce(block) for block in blocks]) for take in (np.fmin, np.fmax))
    return lowest, highest


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """Return all rows, or a few of them when they hold many values; the same ones each time."""
    most = max(1, min(_MOST_ROWS, _MOST_VALUES // max(1, int(np.prod(values.shape[1:])))))
    return values[_some_rows(len(values), most)]


@lru_cache(maxsize=4)
def _some_rows(count: int, most: int) -> NDArray[np.intp] | slice:
    """Return the places of at most so many rows, in order: those of one column are those of the next."""
    return slice(None) if count <= most else np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def _binned(numbers: NDArray[Any], edges: NDArray[Any]) -> NDArray[Any]:
    """Return how many numbers are up to each edge, and beyond the last."""
    return np.bincount(np.searchsorted(edges, numbers, side="left"), minlength=len(edges) + 1)


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
        stability: The population stability index; above 0.25 the distribution is said to have shifted.
        seen: What training had: smallest and largest value; None for text.
        shifted: Whether the index is above 0.25, and more than as few rows give by chance.
        rarer: Whether values are missing more often than in training, and than chance explains.
    """

    column: str
    beyond: float
    new: float
    categories: tuple[str, ...]
    missing: float
    was_missing: float
    stability: float
    seen: tuple[float, float] | None
    shifted: bool
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
            parts.append(f"{_percent(self.beyond)} of the rows beyond {self.seen[0]:g} to {self.seen[1]:g}")
        if self.new:
            more = ", …" if len(self.categories) > 3 else ""
            which = ", ".join(repr(each) for each in self.categories[:3]) + more
            parts.append(f"{_percent(self.new)} of the rows with new categories ({which})")
        if self.rarer:
            parts.append(f"missing in {_percent(self.missing)} of the rows ({_percent(self.was_missing)} in training)")
        if self.shifted:
            parts.append(f"distributed otherwise (population stability index {self.stability:.2f})")
        return tuple(parts)


@dataclass
class _Counts:
    """What was counted of one column."""

    rows: int = 0
    missing: int = 0
    beyond: int = 0
    new: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    bins: NDArray[Any] | None = None


class Comparison:
    """Counts, chunk by chunk, how data differ from those a model was trained on.

    Args:
        profile: What `profile_of` returned.
    """

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self._rows = int(profile.get("rows", 0))
        self._columns: Mapping[str, Any] = profile.get("columns", {})
        self._counts = {name: _Counts() for name in self._columns}

    def add(self, x: Any, numeric: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> None:
        """Count these rows; the arguments are those of `features`."""
        for name, values in features(x, numeric, texts):
            if name in self._columns:
                known, counts = self._columns[name], self._counts[name]
                (_count_texts if "categories" in known else _count_numbers)(known, counts, values)

    def outside(self) -> list[Outside]:
        """Return the columns that differ, those first that differ in most rows."""
        found = [self._of(name, counts) for name, counts in self._counts.items() if counts.rows]
        return sorted((each for each in found if each.told), key=lambda each: -max(each.beyond, each.new, each.missing))

    def _of(self, name: str, counts: _Counts) -> Outside:
        known = self._columns[name]
        expected, found, values = _shares(known, counts)
        stability = float(np.sum((found - expected) * np.log(found / expected))) if len(found) > 1 else 0.0
        was_missing = float(known["missing"])
        missing, by_chance = counts.missing / counts.rows, math.sqrt(was_missing * (1 - was_missing) / counts.rows)
        return Outside(
            column=name,
            beyond=counts.beyond / counts.rows,
            new=counts.new / counts.rows,
            categories=tuple(
                sorted(each for each in counts.categories if each not in known.get("categories", {}))[:20]
            ),
            missing=missing,
            was_missing=was_missing,
            stability=stability,
            seen=None if known.get("min") is None else (known["min"], known["max"]),
            rarer=missing > was_missing + 3 * by_chance,
            shifted=values > 0 and stability > max(SHIFTED, _by_chance(len(found), values, self._rows)),
        )


def _count_numbers(known: Mapping[str, Any], counts: _Counts, values: NDArray[Any]) -> None:
    numbers = np.asarray(values).astype("float64").reshape(len(values), -1)
    counts.rows += len(numbers)
    counts.missing += int(np.isnan(numbers).any(axis=1).sum())
    if known["min"] is None:
        counts.beyond += int((~np.isnan(numbers)).any(axis=1).sum())
        return
    counts.beyond += int(((numbers < known["min"]) | (numbers > known["max"])).any(axis=1).sum())
    binned = _binned(numbers[~np.isnan(numbers)], np.asarray(known["edges"]))
    counts.bins = binned if counts.bins is None else counts.bins + binned


def _count_texts(known: Mapping[str, Any], counts: _Counts, values: NDArray[Any]) -> None:
    texts = np.asarray(values).astype(str).reshape(len(values), -1)
    counts.rows += len(texts)
    counts.missing += int((texts == MISSING).any(axis=1).sum())
    found, where, times = np.unique(texts, return_inverse=True, return_counts=True)
    if len(known["categories"]) < _MOST_CATEGORIES:  # else rare ones are not known
        new = np.asarray([each != MISSING and each not in known["categories"] for each in found.tolist()], bool)
        counts.new += int(new[where.reshape(texts.shape)].any(axis=1).sum())
    for category, count in zip(found.tolist(), times.tolist(), strict=True):
        if category != MISSING and (category in counts.categories or len(counts.categories) < 2 * _MOST_CATEGORIES):
            counts.categories[category] = counts.categories.get(category, 0) + count


def _shares(known: Mapping[str, Any], counts: _Counts) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Return the shares of bins or categories in training and in these data, and how many values these have.

    A bin gets one value more, shared out as in training: few rows leave bins empty, which the index punishes.
    """
    if "categories" in known:
        names = list(known["categories"])
        others = sum(count for name, count in counts.categories.items() if name not in known["categories"])
        before = [*known["categories"].values(), max(0.0, 1 - known["missing"] - sum(known["categories"].values()))]
        now = [*(counts.categories.get(name, 0) for name in names), others]
    else:
        before, now = known["shares"], [] if counts.bins is None else counts.bins.tolist()
    total, bins = sum(now), len(now)
    if not total:
        return np.zeros(0), np.zeros(0), 0
    expected = np.maximum(np.asarray(before, float) / sum(before), _LEAST_SHARE)
    return expected, (np.asarray(now, float) + bins * expected) / (total + bins), total


def _by_chance(bins: int, values: int, trained: int) -> float:
    """Return the index that equal distributions exceed once in 1000 times, for so many values.

    The index divided by (1/values + 1/trained) is distributed as chi-squared, whose quantile is Wilson and
    Hilferty's approximation; the value that each bin gets more makes it smaller.
    """
    if bins < 2 or not trained:
        return math.inf
    part = 2 / (9 * (bins - 1))
    quantile = (bins - 1) * (1 - part + 3.09 * math.sqrt(part)) ** 3
    return float(quantile * (1 / values + 1 / trained) * (values / (values + bins)) ** 2)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) or share >= 0.1 else f"{share:.2%}"
