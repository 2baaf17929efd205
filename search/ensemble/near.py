"""How many trials cannot be told from the best: those within one standard error of it on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.bootstrap import indices, summed
from search.comparison.predictions import Predictions
from search.comparison.scores import score_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW_ROWS = 500  # below it folds help
_FOLDS, _AVERAGE = "[data] folds = 5 compares them on more", "--ensemble 5 averages the best"


@dataclass(frozen=True)
class Near:
    """Trials within one standard error of the best.

    Attributes:
        count: How many beside the best.
        of: Of how many whose outputs were kept.
        rows: On how many validation rows they were compared.
        helps: What the search did without and would help.
    """

    count: int
    of: int
    rows: int
    helps: tuple[str, ...]

    def __str__(self) -> str:
        if not self.count:
            return ""
        told = f"{self.count} of {self.of} other trials lie within one standard error of the best on {self.rows} "
        return f"{told}validation rows" + (f"; {', '.join(self.helps)}" if self.helps else "")


def near(kept: Mapping[int, Predictions], best: int, *, folds: int | None, ensemble: int) -> Near | None:
    """Return how many trials lie within one standard error of the best; None where that is not known.

    Trials are compared row by row in the study's metric; in the loss where that is no mean over rows.

    Args:
        kept: What trials gave for the validation rows, by their number.
        best: The best trial.
        folds: How many the search had.
        ensemble: How many trials it averages at most.
    """
    if best not in kept:
        return None
    metric = kept[best].about.metric
    name = metric if _of_rows(kept[best], metric) is not None else "loss"
    ours = _of_rows(kept[best], name)
    if ours is None:
        return None
    others = [
        theirs
        for number, given in kept.items()
        if number != best and np.array_equal(given.rows, kept[best].rows)
        if (theirs := _of_rows(given, name)) is not None and np.isfinite(theirs).all()
    ]
    score = score_of(name, kept[best])
    sign = -1.0 if score is not None and score.maximize else 1.0
    count = sum(_within_error(sign * (other - ours), kept[best].group) for other in others)
    helps = [line for line, used in ((_FOLDS, folds), (_AVERAGE, ensemble)) if not used]
    return Near(count, len(others), len(ours), tuple(helps) if len(ours) < _FEW_ROWS else ())


def _of_rows(predictions: Predictions, name: str) -> NDArray[np.float64] | None:
    """Return each row's part of a metric that is a mean over rows; None for other metrics."""
    score = score_of(name, predictions)
    if score is None or score.parts is None or score.parts.shape[1] != 2 or len(predictions) < 2:
        return None
    return np.asarray(score.parts[:, 0] / score.parts[:, 1].mean())


def _within_error(worse: NDArray[np.float64], group: NDArray[np.str_] | None) -> bool:
    units = worse if group is None else summed(worse[:, None], indices(group))[:, 0]  # rows that are independent
    return bool(units.sum() <= units.std(ddof=1) * np.sqrt(len(units)))
