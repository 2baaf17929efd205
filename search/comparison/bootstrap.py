"""Whether a difference between two models on the same rows is more than chance: resampling, by rows or groups.

The interval is the paired bootstrap's, 95 %, its quantiles widened for few rows as in Hesterberg's "What
teachers should know about the bootstrap" (2015), section 4.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.scores import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
_RESAMPLES = 4000
_SWAPS = 9999
_FEWEST, _MOST, _SECONDS = 200, 1000, 1.5  # resamples of a metric that is no sum, and the time they may take
_UNITS = 5000  # rows beyond this number are resampled in so many random blocks
_CELLS = 2_000_000  # numbers of a chunk of resamples


def interval(challenger: Score, champion: Score, group: NDArray[np.intp] | None, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of how much better the challenger is; above 0 is better.

    Args:
        challenger: Its score.
        champion: The same metric of the other model on the same rows.
        group: The index of each row's group, shape (n,): groups are drawn whole; None where rows are independent.
        seed: Decides the resamples.
    """
    rng = np.random.default_rng(seed)
    sign = 1.0 if challenger.maximize else -1.0
    parts = _both(challenger, champion, group, rng)
    units = len(parts) if parts is not None else challenger.rows if group is None else int(group.max()) + 1
    if units < 2:
        return -np.inf, np.inf
    drawn = _sums(challenger, champion, parts, rng) if parts is not None else _each(challenger, champion, group, rng)
    differences = sign * np.concatenate(list(drawn))
    known = differences[np.isfinite(differences)]
    if len(known) < len(differences) / 2:
        return -np.inf, np.inf
    low, high = np.quantile(known, _tails(units))
    return float(low), float(high)


def _tails(units: int) -> tuple[float, float]:
    from scipy import special

    tail = special.ndtr(np.sqrt(units / (units - 1)) * special.stdtrit(units - 1, (1 - LEVEL) / 2))
    return float(tail), 1 - float(tail)


def _both(
    one: Score, other: Score, group: NDArray[np.intp] | None, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return what each resampled unit adds to the sums of both models; None if one metric is no sum."""
    if one.parts is None or other.parts is None:
        return None
    parts = np.concatenate([one.parts, other.parts], axis=1)
    if group is not None:
        parts = summed(parts, group)
    if len(parts) > _UNITS:
        parts = summed(parts, rng.permutation(len(parts)) % _UNITS)
    return parts


def summed(parts: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the sum of the rows of each index, shape (indices, columns)."""
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    return np.asarray(np.add.reduceat(parts[order], starts, axis=0))


def _sums(
    one: Score, other: Score, parts: NDArray[np.float64], rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    width = parts.shape[1] // 2
    for counts in _counts(len(parts), _RESAMPLES, rng):
        sums = counts @ parts
        with np.errstate(all="ignore"):
            yield one.of(sums[:, :width]) - other.of(sums[:, width:])


def _each(
    one: Score, other: Score, group: NDArray[np.intp] | None, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    began, done = time.monotonic(), 0
    units = one.rows if group is None else int(group.max()) + 1
    while done < _FEWEST or (done < _MOST and time.monotonic() - began < _SECONDS):
        for counts in _counts(units, 50, rng):
            rows = counts if group is None else counts[:, group]
            yield one.of(rows) - other.of(rows)
            done += len(counts)


def _counts(units: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield how often each unit is drawn in each resample, shape (some resamples, units)."""
    chunk = max(1, _CELLS // units)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype("float64")


def chance_of_worse(
    challenger: Score, champion: Score, group: NDArray[np.intp] | None, seed: int = 0
) -> tuple[float, float]:
    """Return how much better the challenger is, and the p value of being worse (permutation test).

    Both models' outputs are swapped on random rows or groups, as if it did not matter which is which.

    Raises:
        ValueError: The metric is no function of sums over rows.
    """
    rng = np.random.default_rng(seed)
    parts = _both(challenger, champion, group, rng)
    if parts is None:
        raise ValueError(f"{challenger.name} is no function of sums over rows")
    sign = 1.0 if challenger.maximize else -1.0
    width = parts.shape[1] // 2
    mine, theirs = parts[:, :width], parts[:, width:]
    seen = sign * (challenger.value - champion.value)
    as_far, chunk = 0, max(1, _CELLS // len(parts))
    for start in range(0, _SWAPS, chunk):
        swap = rng.integers(0, 2, (min(chunk, _SWAPS - start), len(parts))).astype("float64")
        moved = swap @ (theirs - mine)
        with np.errstate(all="ignore"):
            found = sign * (challenger.of(mine.sum(axis=0) + moved) - champion.of(theirs.sum(axis=0) - moved))
        as_far += int((found <= seen + 1e-12 * max(1.0, abs(seen))).sum())
    return seen, (as_far + 1) / (_SWAPS + 1)


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Return p values with Holm's correction for multiple comparisons."""
    highest, corrected = 0.0, {}
    for index, name in enumerate(sorted(chances, key=lambda test: chances[test])):
        highest = max(highest, min(1.0, (len(chances) - index) * chances[name]))
        corrected[name] = highest
    return corrected


def differing(challenger: Score, champion: Score, group: NDArray[np.intp] | None) -> int | None:
    """Return the number of rows or groups in which two models differ in a metric; None if it is no sum over rows."""
    if challenger.parts is None or champion.parts is None:
        return None
    changed = (challenger.parts != champion.parts).any(axis=1)
    return int(changed.sum()) if group is None else len(np.unique(group[changed]))


def indices(values: Sequence[str] | NDArray[np.str_]) -> NDArray[np.intp]:
    """Return the index of each value among the different ones, shape (n,)."""
    return np.asarray(np.unique(np.asarray(values), return_inverse=True)[1]).reshape(-1)
