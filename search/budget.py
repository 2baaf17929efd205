"""What is done and what is left: the budget, counts, and what a person is told of all that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from optuna.trial import FrozenTrial, TrialState

from search.errors import SearchError
from search.study import attributes
from search.study.listener import Listener

if TYPE_CHECKING:
    from search.training.result import TrialResult

MOST_DEATHS = 3  # so many trials in a row, and two for each worker, may die with their workers
GRACE_SECONDS = 60.0  # what running trials are given when the time is up
RUN_AGAIN = "--resume runs it again"  # ends the reason of a trial that was stopped with its search


@dataclass(frozen=True)
class Counts:
    """How many trials ended how.

    Attributes:
        failed: Those that failed, by themselves or with their worker.
        died: Those of the failed that died with their worker, or were stopped.
    """

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    died: int = 0

    @property
    def own_ends(self) -> int:
        """Trials that came to their own end: they count against the budget."""
        return self.complete + self.pruned + self.failed - self.died

    def as_json(self) -> dict[str, int]:
        """Return the counts that `--json` prints."""
        return {"complete": self.complete, "pruned": self.pruned, "failed": self.failed}


def failed_itself(trial: FrozenTrial) -> bool:
    """Return whether a trial failed by its own error or by a person's hand, not with its worker."""
    itself = bool(trial.system_attrs.get(attributes.FAILED_ITSELF)) or attributes.ended_elsewhere(trial)
    return trial.state == TrialState.FAIL and itself


def count(trials: list[FrozenTrial]) -> Counts:
    """Return how many of these trials ended how."""
    states = [trial.state for trial in trials]
    failed = states.count(TrialState.FAIL)
    return Counts(
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=failed,
        died=failed - sum(map(failed_itself, trials)),
    )


class Budget(Listener):
    """How much a search may still do.

    Attributes:
        total: Trials that come to their own end.
        timeout: Seconds after which no trial begins; None when there is no limit.
        counts: How many trials ended how.
    """

    def __init__(self, total: int, timeout: float | None = None) -> None:
        self.total, self.timeout, self.counts = total, timeout, Counts()
        self._started = time.monotonic()
        self._deaths: list[str] = []  # reasons of the last trials, while each died with its worker

    def left(self, running: int) -> int:
        """Return how many trials may begin while so many run."""
        return self.total - self.counts.own_ends - running

    def elapsed(self) -> float:
        """Return the seconds since the search began."""
        return time.monotonic() - self._started

    def time_is_up(self, grace: float = 0.0) -> bool:
        """Return whether the time was up so many seconds ago."""
        return self.timeout is not None and self.elapsed() >= self.timeout + grace

    def seconds_left(self) -> float | None:
        """Return an estimate of the time until the budget is spent; None before a trial has ended."""
        done = self.counts.own_ends
        if not done:
            return None
        left = self.elapsed() / done * (self.total - done)
        return left if self.timeout is None else min(left, max(0.0, self.timeout - self.elapsed()))

    def on_end(self, trial: FrozenTrial, result: TrialResult) -> None:
        """Count a trial; one that died with its worker is not charged."""
        died, before = result.fate == "died", self.counts
        self.counts = Counts(
            complete=before.complete + (trial.state == TrialState.COMPLETE),
            pruned=before.pruned + (trial.state == TrialState.PRUNED),
            failed=before.failed + (trial.state == TrialState.FAIL),
            died=before.died + died,
        )
        self._deaths = [*self._deaths, result.reason] if died else []

    def check_workers(self, slots: int) -> None:
        """Raise when trial after trial dies with its worker.

        Raises:
            SearchError: Too many trials in a row died with their workers.
        """
        if len(self._deaths) > MOST_DEATHS + 2 * slots:
            deaths = f"{len(self._deaths)} trials in a row died with their workers"
            raise SearchError(f"{deaths} (the last: {self._deaths[-1]})")


class Stage(str):
    """A message that says what the search does until the next one, while no trial trains.

    Attributes:
        done: How many of `total` are done, where that is known; 0 of 0 elsewhere.
        seconds_left: Estimate of the time until all are.
    """

    done: int
    total: int
    seconds_left: float | None

    def __new__(cls, text: str, done: int = 0, total: int = 0, seconds_left: float | None = None) -> Self:
        """Make a stage."""
        made = super().__new__(cls, text)
        made.done, made.total, made.seconds_left = done, total, seconds_left
        return made


@dataclass(frozen=True)
class Progress:
    """Where the search stands, told after each trial begins or ends, and every few seconds while a long one trains.

    Attributes:
        number: The trial.
        state: `began`, `training`, `silent` (it has reported nothing for long), `complete`, `pruned`, `failed` or
            `stopped` (with its worker, or by Ctrl-C).
        value: Its (first) value, when complete; while it trains the study's first metric after its last epoch.
        best_number: The best trial so far: the one that would be registered now.
        best_value: Its (first) value.
        done: Trials that came to their own end.
        total: The budget.
        seconds_left: Estimate of the time until the budget is spent.
        reason: Why a trial was pruned or failed; for how long it has been silent.
        counts: How many trials ended how.
        epoch: While it trains: how many epochs it has trained.
        epochs: How many it is to train, where the study says so.
        values: The trial's value in each metric, when complete.
        metrics: While it trains: the study's metrics after its last epoch, those that epochs have.
        best_values: The best trial's.
    """

    number: int
    state: str
    value: float | None
    best_number: int | None
    best_value: float | None
    done: int
    total: int
    seconds_left: float | None
    reason: str = ""
    counts: Counts = field(default_factory=Counts)
    epoch: int | None = None
    epochs: int | None = None
    values: tuple[float, ...] = ()
    best_values: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
