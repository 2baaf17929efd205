"""Exactly as many trials come to their own end as were asked for, however many die with their workers."""

from __future__ import annotations

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.budget import MOST_DEATHS, Budget, count
from search.errors import SearchError
from search.study.attributes import FAILED_ITSELF
from search.training.result import TrialResult


def ended(state: TrialState, *, itself: bool = False) -> FrozenTrial:
    attributes = {FAILED_ITSELF: True} if itself else {}
    value = 1.0 if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, system_attrs=attributes)


def died(reason: str = "") -> TrialResult:
    return TrialResult(0, "died", 0, reason=reason)


def test_a_trial_that_dies_with_its_worker_is_not_charged() -> None:
    """A night's budget would be spent on trials that the machine killed."""
    budget = Budget(total=2)
    assert budget.left(running=2) == 0
    budget.on_end(ended(TrialState.FAIL), died())
    assert budget.left(running=1) == 1
    budget.on_end(ended(TrialState.FAIL, itself=True), TrialResult(1, "failed", 0))
    assert budget.left(running=1) == 0
    assert (budget.counts.failed, budget.counts.died, budget.counts.own_ends) == (2, 1, 1)


def test_a_search_whose_workers_all_die_ends() -> None:
    """A search on a machine without memory would start workers all night."""
    budget = Budget(total=100)
    for _ in range(MOST_DEATHS + 2):
        budget.on_end(ended(TrialState.FAIL), died())
    budget.check_workers(slots=1)
    budget.on_end(ended(TrialState.FAIL), died("signal 9"))
    with pytest.raises(SearchError, match=r"6 trials in a row died with their workers \(the last: signal 9\)"):
        budget.check_workers(slots=1)
    budget.on_end(ended(TrialState.COMPLETE), TrialResult(0, "complete", 0))
    budget.check_workers(slots=1)


def test_trials_are_counted_by_their_fate() -> None:
    """The summary would say another number of trials than there are."""
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    counted = count([*map(ended, states), ended(TrialState.FAIL, itself=True)])
    assert counted.as_json() == {"complete": 1, "pruned": 1, "failed": 2}
    assert (counted.died, counted.own_ends) == (1, 3)
