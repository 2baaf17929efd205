"""A search ends before its budget when there is a reason, and only then."""

from __future__ import annotations

import signal
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.errors import UsageError
from search.stopping import Stopping, check_terminator, signals
from search.study import orders
from search.study.attributes import CONSTRAINTS
from search.training.result import TrialResult
from tests.studyfiles import definition


def ended(number: int, value: float | None, beyond: float = 0.0) -> FrozenTrial:
    """Return a trial that completed with a value, or was pruned."""
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    trial = create_trial(value=value, state=state, user_attrs={CONSTRAINTS: [beyond]})
    trial.number = number
    return trial


def told(stopping: Stopping, trial: FrozenTrial) -> str:
    """Return what is said after a trial, whatever was said before."""
    stopping.reason = ""
    stopping.on_end(trial, TrialResult(trial.number, "complete", 0))
    return stopping.reason


def reasons(search: dict[str, Any], values: list[float | None], earlier: list[FrozenTrial] | None = None) -> list[str]:
    """Return what is said after each trial."""
    stopping = Stopping(definition({"search": search}), optuna.create_study(), earlier or [])
    return [told(stopping, ended(number, value)) for number, value in enumerate(values, 10)]


def test_nothing_ends_a_search_that_names_no_reason() -> None:
    """A search would end on the first bad trial."""
    assert reasons({}, [0.5, 0.9, None, 0.1]) == [""] * 4


def test_patience_counts_trials_without_a_better_one() -> None:
    """A search would go on for hours after its last progress, or end in the middle of it."""
    said = reasons({"patience": 2}, [0.5, 0.9, 0.4, None, 0.4, 0.1])
    assert said[:4] == ["", "", "", ""]
    assert said[4] == "no better trial among the last 2"
    assert said[5] == "", "a better trial begins to count anew"


def test_a_trial_beyond_a_constraint_is_no_progress() -> None:
    """A model that may not be used would keep the search going."""
    stopping = Stopping(definition({"search": {"patience": 1}}), optuna.create_study(), [])
    assert told(stopping, ended(0, 0.5)) == ""
    assert told(stopping, ended(1, 0.1, beyond=3.0)) == "no better trial among the last 1"
    assert stopping.best is not None
    assert stopping.best.number == 0


def test_a_target_ends_the_search_once_it_is_reached() -> None:
    """Trials would be trained that nobody needs."""
    assert reasons({"target": 0.3}, [0.5, 0.31, 0.3]) == ["", "", "the target of 0.3 is reached"]
    assert reasons({"target": 0.3}, [0.9], earlier=[ended(0, 0.2)]) == ["the target of 0.3 is reached"]


def test_the_terminator_needs_torch_and_says_so() -> None:
    """A search would end in a traceback after twenty trials."""
    from importlib.util import find_spec

    if find_spec("torch") is not None:
        check_terminator(definition({"search": {"terminator": True}}))
        return
    with pytest.raises(UsageError, match=r"search.terminator needs torch; pip install 'search\[gp\]'"):
        check_terminator(definition({"search": {"terminator": True}}))
    check_terminator(definition())


def test_a_search_under_nohup_outlives_its_terminal() -> None:
    """A night's search would end when its terminal is closed, although it was told not to."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    got: list[int] = []
    try:
        with signals(got.append):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert got == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_excluded_trial_is_best_no_more() -> None:
    """A leaked value of 1e-6 would end the search by patience, and be told as the best to its end."""
    study = optuna.create_study()
    stopping = Stopping(definition({"search": {"patience": 2}}), study, [])
    for number, value in enumerate((1e-6, 0.5)):
        study.add_trial(ended(number, value))
        assert told(stopping, ended(number, value)) == ""
    orders.exclude(study, 0, orders.Order("exclude", reason="leaked"))
    study.add_trial(ended(2, 0.4))
    assert told(stopping, ended(2, 0.4)) == ""
    assert stopping.best is not None
    assert stopping.best.number == 2
