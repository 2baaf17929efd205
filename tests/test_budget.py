"""Exactly as many trials come to their own end as were asked for, however many die with their workers."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState, create_trial

from search.budget import MOST_DEATHS, Budget, Retry, count
from search.study.attributes import FAILED_ITSELF, RETRIES


def ended(state: TrialState, *, itself: bool = False, retries: int = 0) -> FrozenTrial:
    attributes = {FAILED_ITSELF: True} if itself else {}
    value = 1.0 if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, system_attrs={**attributes, RETRIES: retries})


def test_a_trial_that_dies_with_its_worker_is_not_charged() -> None:
    """A night's budget would be spent on trials that the machine killed."""
    budget = Budget(total=2, retries=1)
    assert budget.begin() is None
    assert budget.begin() is None
    assert budget.remaining == 0
    budget.ended(ended(TrialState.FAIL, retries=1), died=True)
    assert (budget.remaining, budget.waiting) == (1, [Retry({}, 0)])
    budget.ended(ended(TrialState.FAIL, itself=True), died=False)
    assert budget.remaining == 1
    assert (budget.counts.failed, budget.counts.died, budget.counts.own_ends) == (2, 1, 1)


def test_a_configuration_is_tried_again_as_often_as_it_may_be() -> None:
    """One configuration that kills its worker would be tried for ever."""
    budget = Budget(total=5, retries=1)
    budget.ended(ended(TrialState.FAIL, retries=0), died=True)
    assert budget.waiting == []
    budget.try_first([{"width": 3}])
    retry = budget.begin()
    assert retry == Retry({"width": 3}, 1)
    budget.give_back(retry)
    assert budget.waiting == [Retry({"width": 3}, 1)]


def test_a_search_whose_workers_all_die_ends() -> None:
    """A search on a machine without memory would start workers all night."""
    budget = Budget(total=100, retries=0)
    for _ in range(MOST_DEATHS + 2):
        budget.ended(ended(TrialState.FAIL), died=True)
    assert not budget.hopeless(slots=1)
    budget.ended(ended(TrialState.FAIL), died=True)
    assert budget.hopeless(slots=1)
    budget.ended(ended(TrialState.COMPLETE), died=False)
    assert not budget.hopeless(slots=1)


def test_trials_are_counted_by_their_fate() -> None:
    """The summary would say another number of trials than there are."""
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    counted = count([*map(ended, states), ended(TrialState.FAIL, itself=True)])
    assert counted.as_json() == {"complete": 1, "pruned": 1, "failed": 2}
    assert (counted.died, counted.own_ends) == (1, 3)
