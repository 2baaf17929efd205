"""What a search says of trials that it cannot tell apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from search.comparison.predictions import ONLY, About, Predictions
from search.ensemble.near import near

ROWS = 100
RNG = np.random.default_rng(0)
Y = RNG.normal(size=ROWS)


def trial(errors: NDArray[np.float64], metric: str = "loss") -> Predictions:
    """Return what a model of numbers gave that errs by so much in each row."""
    about = About("digest", "split", "regression", (), metric, "minimize")
    outputs = (Y + errors)[:, None].astype("float32")
    return Predictions(about, np.arange(ROWS), {ONLY: Y}, {ONLY: outputs}, np.square(errors))


def test_trials_within_a_standard_error_are_counted() -> None:
    """A person would take the first of equal trials for the best one."""
    errors = RNG.normal(size=ROWS)
    like = [trial(errors + RNG.normal(0, 0.05, ROWS)) for _ in range(3)]
    kept = {0: trial(errors), 1: trial(3 * errors), **dict(enumerate(like, 2))}
    kept[9] = replace(like[0], rows=np.arange(1, ROWS + 1))
    found = near(kept, 0, folds=0, ensemble=0)
    assert found is not None
    assert (found.of, found.rows) == (4, ROWS)
    assert 1 <= found.count <= 3
    told = f"{found.count} of 4 other trials lie within one standard error of the best on 100 validation rows"
    assert str(found) == f"{told}; [data] folds = 5 compares them on more, --ensemble 5 averages the best"
    assert str(near(kept, 0, folds=5, ensemble=0)) == f"{told}; --ensemble 5 averages the best"
    assert str(near(kept, 0, folds=5, ensemble=5)) == told
    assert near({1: kept[1]}, 0, folds=0, ensemble=0) is None


def test_a_best_trial_that_stands_apart_is_not_doubted() -> None:
    """A clear winner would be called chance."""
    errors = RNG.normal(size=ROWS)
    found = near({0: trial(errors / 10), 1: trial(errors), 2: trial(2 * errors)}, 0, folds=0, ensemble=0)
    assert found is not None
    assert found.count == 0
    assert not str(found)


def test_trials_are_compared_in_the_metric_where_it_is_a_mean_of_rows() -> None:
    """Trials that differ in the loss alone would be told apart in a metric in which they are equal."""
    errors = np.tile([0.5, -0.5], ROWS // 2)
    kept = {0: trial(errors, "mae"), 1: replace(trial(-errors, "mae"), loss=np.full(ROWS, 9.0))}
    found = near(kept, 0, folds=0, ensemble=0)
    assert found is not None
    assert found.count == 1


def test_rows_that_belong_together_count_as_one() -> None:
    """Copies of a row would make a difference look sure."""
    worse = np.repeat([0.1, -0.08, 0.12, -0.09, 0.1], ROWS // 5)
    kept = {0: replace(trial(np.zeros(ROWS)), loss=np.zeros(ROWS)), 1: replace(trial(np.zeros(ROWS)), loss=worse)}
    apart = near(kept, 0, folds=0, ensemble=0)
    group = np.repeat(list("abcde"), ROWS // 5)
    together = near({number: replace(each, group=group) for number, each in kept.items()}, 0, folds=0, ensemble=0)
    assert apart is not None
    assert together is not None
    assert (apart.count, together.count) == (0, 1)
