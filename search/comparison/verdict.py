"""The verdict on a challenger: how much better it is than the champion on the same rows, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison import bootstrap
from search.comparison.predictions import Predictions
from search.comparison.scores import Score, score_of
from search.figures import finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANCE = 0.05
_FEWEST_DIFFERING = 6  # on fewer rows even equal models agree in direction more often than one time in forty


class Incomparable(ValueError):
    """Two models have no common rows, or no such metric; the message says why."""


@dataclass(frozen=True)
class Verdict:
    """How a challenger compares with a champion in one metric.

    Attributes:
        metric: The metric.
        champion: The champion's value; the trivial model's where there is no champion.
        challenger: The challenger's value.
        difference: How much better the challenger is; above 0 is better, whatever the metric's direction.
        interval: The 95 % interval of the difference; None where only recorded values were compared.
        better: Whether the interval is above 0 (true) or below (false); None: undecided.
        rows: How many rows were compared.
        groups: How many groups of rows were drawn whole; 0 where rows are independent.
        differing: On how many rows or groups the two differ; None where the metric is no sum over rows.
    """

    metric: str
    champion: float | None
    challenger: float | None
    difference: float | None
    interval: tuple[float, float] | None
    better: bool | None
    rows: int = 0
    groups: int = 0
    differing: int | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints: numbers, and null for what is not a finite number."""
        interval = None if self.interval is None else [finite(end) for end in self.interval]
        return {
            "metric": self.metric,
            "champion": finite(self.champion),
            "challenger": finite(self.challenger),
            "difference": finite(self.difference),
            "interval": interval,
            "better": self.better,
        }

    def more_rows(self, margin: float = 0.0) -> int | None:
        """Estimate how many more rows would move the interval beyond a margin; None if no number would.

        An interval narrows with the square root of the rows.
        """
        if self.interval is None or self.difference is None or not all(map(math.isfinite, self.interval)):
            return None
        away = self.difference - margin
        near = self.difference - self.interval[0] if away > 0 else self.interval[1] - self.difference
        if away == 0 or self.rows == 0:
            return None
        needed = self.rows * (near / away) ** 2
        if self.differing:
            needed = max(needed, self.rows * _FEWEST_DIFFERING / self.differing)
        return max(1, math.ceil(needed - self.rows)) if needed < 1e12 else None


def gain(difference: float) -> str:
    """Return in words how much better a challenger is."""
    if difference == 0:
        return "no difference"
    return f"{'better' if difference > 0 else 'worse'} by {abs(difference):.4g}"


def require_same_rows(champion: Predictions, challenger: Predictions) -> None:
    """Refuse to compare two models that were tested on different rows.

    Raises:
        Incomparable: They were not.
    """
    one, other = champion.about, challenger.about
    if one.digest != other.digest:
        raise Incomparable(f"they were tested on different data (digests {one.digest} and {other.digest})")
    if not np.array_equal(champion.rows, challenger.rows):
        raise Incomparable("they were tested on different rows of the data: the split changed")
    both = champion.targets.keys() & challenger.targets.keys()
    if any(not np.array_equal(champion.targets[name], challenger.targets[name]) for name in both):
        raise Incomparable("the same rows have different targets")
    if champion.about.task != challenger.about.task:
        raise Incomparable(f"their tasks differ ({one.task} and {other.task})")


def compare(champion: Predictions, challenger: Predictions, metric: str | None = None, seed: int = 0) -> Verdict:
    """Compare two models on the same rows by a paired bootstrap.

    Args:
        champion: What the one gave for the rows.
        challenger: What the other gave for the same rows.
        metric: The metric; the challenger's study's when left out.
        seed: Decides the resamples.

    Raises:
        Incomparable: The predictions do not tell this metric.
    """
    name = challenger.about.metric if metric is None else metric
    theirs, mine = score_of(name, champion), score_of(name, challenger)
    if theirs is None or mine is None:
        raise Incomparable(f"the kept predictions do not tell {name}")
    group = None if challenger.group is None else bootstrap.indices(challenger.group)
    counted = {"rows": mine.rows, "groups": 0 if group is None else int(group.max()) + 1}
    values = theirs.value, mine.value
    if not all(map(math.isfinite, values)):
        return Verdict(mine.name, *values, None, None, None if math.isfinite(values[1]) else False, **counted)
    low, high = bootstrap.interval(mine, theirs, group, seed)
    differing = bootstrap.differing(mine, theirs, group)
    enough = differing is None or differing >= _FEWEST_DIFFERING
    better = True if low > 0 and enough else False if high < 0 and enough else None
    difference = (values[1] - values[0]) * (1 if mine.maximize else -1)
    return Verdict(mine.name, *values, difference, (low, high), better, **counted, differing=differing)


@dataclass(frozen=True)
class Slice:
    """How two models compare on the rows of one slice.

    Attributes:
        name: The slice's value.
        rows: How many rows it has.
        difference: How much better the challenger is there; above 0 is better.
        chance: The chance that equal models differ as far downwards, with Holm's correction.
    """

    name: str
    rows: int
    difference: float
    chance: float

    @property
    def worse(self) -> bool:
        """Whether the challenger is surely worse there."""
        return self.chance <= _CHANCE


def compare_slices(
    champion: Predictions, challenger: Predictions, values: NDArray[Any], metric: str | None = None, seed: int = 0
) -> list[Slice]:
    """Compare two models on each slice of the rows, with Holm's correction for the number of slices.

    A metric that is no sum over rows is replaced by the loss.

    Args:
        champion: What the one gave for the rows.
        challenger: What the other gave.
        values: The slice of each row, shape (n,).
        metric: The metric; the challenger's study's when left out.
        seed: Decides the resamples.

    Raises:
        Incomparable: The predictions tell neither the metric nor the loss.
    """
    name = challenger.about.metric if metric is None else metric
    found: dict[str, tuple[int, float]] = {}
    chances: dict[str, float] = {}
    for value in np.unique(values):
        rows = np.flatnonzero(values == value)
        theirs, mine = _by_rows(champion.take(rows), name), _by_rows(challenger.take(rows), name)
        group = None if challenger.group is None else bootstrap.indices(challenger.group[rows])
        difference, chance = bootstrap.chance_of_worse(mine, theirs, group, seed)
        found[str(value)] = (len(rows), difference)
        chances[str(value)] = 1.0 if math.isnan(difference) else chance
    corrected = bootstrap.holm(chances)
    return [Slice(value, *found[value], p) for value, p in sorted(corrected.items(), key=lambda pair: pair[1])]


def _by_rows(predictions: Predictions, name: str) -> Score:
    for metric in (name, "loss"):
        score = score_of(metric, predictions)
        if score is not None and score.parts is not None:
            return score
    raise Incomparable(f"the kept predictions do not tell {name} row by row")
