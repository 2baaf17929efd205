"""What is done and what is left: the budget, configurations to try again, counts, and what is told of all that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.study import attributes

MOST_DEATHS = 3  # so many trials in a row, and two for each worker, may die with their workers
RUN_AGAIN = "--resume runs it again"  # ends the reason of a trial that was stopped with its search


@dataclass(frozen=True)
class Retry:
    """A configuration to try again.

    Attributes:
        params: The parameters.
        left: How often it may be tried again after this time.
    """

    params: dict[str, Any]
    left: int


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
    """Return whether a trial failed by its own error, not with its worker."""
    return trial.state == TrialState.FAIL and bool(trial.system_attrs.get(attributes.FAILED_ITSELF))


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


@dataclass
class Budget:
    """How many trials a search may still begin.

    Attributes:
        total: Trials that come to their own end.
        retries: How often the configuration of a trial that died with its worker is tried again.
    """

    total: int
    retries: int
    remaining: int = field(init=False)
    waiting: list[Retry] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    deaths_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.remaining = self.total

    def try_first(self, configurations: list[dict[str, Any]]) -> None:
        """Begin these first: an interrupted search had begun them already."""
        self.waiting += [Retry(params, self.retries) for params in configurations]

    def begin(self) -> Retry | None:
        """Spend one trial of the budget; returns the configuration that it must try, if any."""
        self.remaining -= 1
        return self.waiting.pop(0) if self.waiting else None

    def give_back(self, retry: Retry | None) -> None:
        """Take back what `begin` spent: no trial began."""
        self.remaining += 1
        if retry is not None:
            self.waiting.insert(0, retry)

    def ended(self, trial: FrozenTrial, *, died: bool) -> None:
        """Count a trial; one that died with its worker is not charged, and is tried again while it may be."""
        before = self.counts
        self.counts = Counts(
            complete=before.complete + (trial.state == TrialState.COMPLETE),
            pruned=before.pruned + (trial.state == TrialState.PRUNED),
            failed=before.failed + (trial.state == TrialState.FAIL),
            died=before.died + died,
        )
        self.deaths_in_a_row = self.deaths_in_a_row + 1 if died else 0
        if died:
            self.remaining += 1
            left = int(trial.system_attrs.get(attributes.RETRIES, 0))
            if left > 0:
                self.waiting.append(Retry(dict(trial.params), left - 1))

    def hopeless(self, slots: int) -> bool:
        """Return whether so many trials died in a row that no worker can be expected to live."""
        return self.deaths_in_a_row > MOST_DEATHS + 2 * slots


class Stage(str):
    """A message that says what the search does until the next one, while no trial trains."""

    __slots__ = ()


@dataclass(frozen=True)
class Progress:
    """Where the search stands, told after each trial begins or ends, and every few seconds while a long one trains.

    Attributes:
        number: The trial.
        state: `began`, `training`, `silent` (it has reported nothing for long), `complete`, `pruned`, `failed` or
            `stopped` (with its worker, or by Ctrl-C).
        value: Its value, when complete; while it trains the study's first metric after its last epoch.
        best_number: The best trial so far.
        best_value: Its (first) value.
        done: Trials that came to their own end.
        total: The budget.
        seconds_left: Estimate of the time until the budget is spent.
        reason: Why a trial was pruned or failed; for how long it has been silent.
        counts: How many trials ended how.
        epoch: While it trains: how many epochs it has trained.
        epochs: How many it is to train, where the study says so.
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


OnProgress = Callable[[Progress], None]
