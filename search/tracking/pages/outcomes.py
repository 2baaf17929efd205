"""What became of a study's trials, in words and counts: why they failed, and what pruning saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from search.errors import without_numbers
from search.figures import plural
from search.training.result import result_of


@dataclass(frozen=True)
class Failures:
    """Trials that failed for the same reason.

    Attributes:
        reason: The first one's reason; the others' differ at most in numbers.
        numbers: The trials.
    """

    reason: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Saved:
    """What pruning saved.

    Attributes:
        trials: How many trials were pruned.
        epochs: How many epochs they had left.
        seconds: How long these would have taken at the trials' own pace.
    """

    trials: int
    epochs: int
    seconds: float

    def __str__(self) -> str:
        """Return it in words; nothing when nothing was pruned."""
        if not self.trials:
            return ""
        pruned = f"{plural(self.trials, 'trial')} pruned"
        epochs = plural(self.epochs, "epoch")
        return f"{pruned}: {epochs} not trained, about {self.seconds:.3g} s of one worker's time saved"


def failures(trials: Sequence[FrozenTrial]) -> tuple[Failures, ...]:
    """Return the failed trials by their reason, the most frequent reason first."""
    groups: dict[str, tuple[str, list[int]]] = {}
    for trial in trials:
        if trial.state == TrialState.FAIL:
            result = result_of(trial)
            reason = (result.reason if result is not None else "") or "no reason was recorded"
            groups.setdefault(without_numbers(reason), (reason, []))[1].append(trial.number)
    found = [Failures(reason, tuple(numbers)) for reason, numbers in groups.values()]
    return tuple(sorted(found, key=lambda each: (-len(each.numbers), each.numbers)))


def saved(trials: Sequence[FrozenTrial], trainings: int) -> Saved:
    """Return what pruning saved in these trials.

    Args:
        trials: The trials.
        trainings: How often each is trained: once, or once for each fold or repeat.
    """
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    epochs, seconds = 0, 0.0
    for trial in pruned:
        result = result_of(trial)
        if result is None or not result.epochs:
            continue
        trained = len(result.epochs)
        left = max(0, trainings * int(result.training.get("fit", {}).get("epochs") or 0) - trained)
        epochs += left
        seconds += left * (trial.duration.total_seconds() if trial.duration is not None else 0.0) / trained
    return Saved(len(pruned), epochs, seconds)
