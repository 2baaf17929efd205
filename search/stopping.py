"""Reasons to end a search before its budget is spent: target, patience, terminator, time, a signal."""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import Interrupted, UsageError
from search.study.comparable import comparable_study, comparable_trials, is_comparable
from search.study.listener import Listener
from search.study.ranking import best_trials, feasible, leads
from search.studyfile.schema import Definition
from search.system import machine

if TYPE_CHECKING:
    from search.training.result import TrialResult

INTERRUPTED = "interrupted"
ALIKE = 4  # trials in a row that fail for the same reason, before any has completed, end the search
_ENOUGH = 20  # complete trials before Optuna's terminator is asked


def check_terminator(definition: Definition) -> None:
    """Refuse `terminator = true` where Optuna's terminator cannot run.

    Raises:
        UsageError: torch is not installed.
    """
    if definition.search.terminator and importlib.util.find_spec("torch") is None:
        raise UsageError("search.terminator needs torch; pip install 'search[gp]', or leave terminator out")


class Stopping(Listener):
    """Looks at each trial that ended, and says when the search should end.

    Attributes:
        best: The best trial so far.
        reason: Why the search ends before its budget is spent; empty while it goes on.
    """

    def __init__(self, definition: Definition, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self._definition, self._study = definition, study
        self.best = next(iter(best_trials(definition, trials)), None)
        self._complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
        self._since_best = 0
        self._failures: list[str] = []  # reasons of the last trials, while each failed in the user's code
        self.reason = ""

    def stop(self, reason: str) -> None:
        """End the search for this reason, where there is none yet."""
        self.reason = self.reason or reason

    def on_end(self, trial: FrozenTrial, result: TrialResult) -> None:
        """Take note of a trial that came to its own end, and see whether the search goes on."""
        if result.fate == "died":
            return
        self._complete += trial.state == TrialState.COMPLETE
        if trial.state == TrialState.COMPLETE and feasible(trial) and self._leads(trial):
            self.best, self._since_best = trial, 0
        else:
            self._since_best += 1
        raised = result.fate == "failed" and result.traceback
        self._failures = [*self._failures, result.reason] if raised else []
        self.stop(self._alike() or self._patience() or self._target() or self._terminator(trial))

    def _leads(self, trial: FrozenTrial) -> bool:
        if self.best is None:
            return True
        excluded = not is_comparable(self._study, self.best)
        if len(trial.values) == 1 and not excluded:
            return leads(self._definition, trial.values, trial.number, [(self.best.values, self.best.number)])
        # A new trial scales the others.
        self.best = next(iter(best_trials(self._definition, comparable_trials(self._study))), None)
        self._since_best = 0 if excluded else self._since_best
        return self.best is not None and self.best.number == trial.number

    def _alike(self) -> str:
        """Return that nothing else can be expected, before any trial completes."""
        if self.best is not None or len(self._failures) < ALIKE or len(set(self._failures[-ALIKE:])) > 1:
            return ""
        return f"the last {ALIKE} trials failed for the same reason"

    def _patience(self) -> str:
        patience = self._definition.search.patience
        return f"no better trial among the last {self._since_best}" if patience and self._since_best >= patience else ""

    def _target(self) -> str:
        target = self._definition.search.target
        if target is None or self.best is None or self._definition.better(target, self.best.values[0]):
            return ""
        return f"the target of {target:g} is reached"

    def _terminator(self, trial: FrozenTrial) -> str:
        if not self._definition.search.terminator or trial.state != TrialState.COMPLETE or self._complete < _ENOUGH:
            return ""
        from optuna.terminator import Terminator

        return (
            "Optuna's terminator expects no further progress"
            if Terminator().should_terminate(comparable_study(self._study))
            else ""
        )


class Interruption:
    """The first signal that asks to stop; a second one ends everything at once.

    Args:
        message: What a person is told, with the command that goes on.

    Attributes:
        signal: Its number; 0 while none came.
    """

    def __init__(self, message: str) -> None:
        self._message, self.signal = message, 0

    def note(self, number: int) -> None:
        """Take note of a signal.

        Raises:
            Interrupted: It is not the first.
        """
        if self.signal:
            raise self.error(number)
        self.signal = number

    def error(self, number: int = 0) -> Interrupted:
        """Return the error that ends the search."""
        return Interrupted(self._message, number or self.signal)


@contextmanager
def signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Hand Ctrl-C, SIGTERM and SIGHUP to a function inside this block; only a program's main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [signal.SIGINT, *machine.ending_signals()]
    before = {name: signal.signal(name, lambda number, _: handle(number)) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
