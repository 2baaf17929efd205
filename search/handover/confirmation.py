"""Whether the best trials are as good as they look: trained again under new seeds, and raced."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from search.context import Context
from search.errors import Interrupted, SearchError, one_line
from search.stopping import signals
from search.study import attributes, ranking
from search.study.attributes import Confirmed
from search.training.result import TrialResult
from search.workers import worker
from search.workers.base import Slot

_FEWEST, _MOST = 2, 5  # finalists
_MOST_SEEDS = 10  # trainings of one finalist
_SURE = 2.0  # standard errors behind the leader from which a finalist can no longer win
_POLL_SECONDS = 0.2
_PATIENCE = 30.0  # seconds without progress after which MLflow counts as away


@dataclass
class Race:
    """Which finalists are trained again: all once, then those that can still win, while there is time.

    Attributes:
        costs: The value of each training of a finalist, by its number, the sign such that less is better;
            finalists stand in the order of the search.
        budget: Seconds of training to spend.
    """

    costs: dict[int, list[float]]
    budget: float
    spent: float = 0.0
    lost: set[int] = field(default_factory=set)

    def standing(self) -> list[int]:
        """Return the finalists that can still win, the leader first; before any training in their order."""
        able = [number for number in self.costs if number not in self.lost]
        return sorted(able, key=lambda number: statistics.fmean(self.costs[number]) if self.costs[number] else 0.0)

    def next_round(self) -> list[int]:
        """Return whom to train once more; none when one stands, or the rest cannot be paid."""
        rounds = max(map(len, self.costs.values()))
        standing = self.standing()
        if rounds == 0:
            return standing
        expected = self.spent / sum(map(len, self.costs.values())) * len(standing)
        if len(standing) < 2 or rounds >= _MOST_SEEDS or self.spent + expected > self.budget:
            return []
        return standing

    def drop(self) -> None:
        """Drop the finalists that are too far behind the leader, once trainings say how much chance there is."""
        deviations = [
            cost - statistics.fmean(costs) for costs in self.costs.values() if len(costs) > 1 for cost in costs
        ]
        freedom = len(deviations) - sum(len(costs) > 1 for costs in self.costs.values())
        if freedom < 1:
            return
        deviation = math.sqrt(sum(each**2 for each in deviations) / freedom)
        leader, *others = self.standing()
        ahead, count = statistics.fmean(self.costs[leader]), len(self.costs[leader])
        for number in others:
            error = deviation * math.sqrt(1 / count + 1 / len(self.costs[number]))
            if statistics.fmean(self.costs[number]) - ahead > _SURE * error:
                self.lost.add(number)


def finalists(ranked: Sequence[FrozenTrial], budget: float) -> list[FrozenTrial]:
    """Return the leading trials that the budget pays for once: at least two, at most five."""
    chosen: list[FrozenTrial] = []
    seconds = 0.0
    for trial in ranked[:_MOST]:
        seconds += seconds_of(trial)
        if len(chosen) >= _FEWEST and seconds > budget:
            break
        chosen.append(trial)
    return chosen if len(chosen) >= _FEWEST else []


def seconds_of(trial: FrozenTrial) -> float:
    """Return how long a trial took."""
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def confirm(context: Context, budget: float, stopped: Callable[[], bool] = lambda: False) -> Mapping[int, Confirmed]:
    """Train the leading trials again, in parallel, and keep what they reach with the study, which has one metric.

    Args:
        context: The search.
        budget: Seconds of training to spend; every finalist is trained once, whatever it costs.
        stopped: Asked again and again; once true, nothing more is trained.

    Returns:
        What each finalist reached, by the number of its trial; empty when there are fewer than two.
    """
    definition, study, on_message = context.definition, context.study, context.on_message
    ranked = ranking.best_trials(definition, attributes.comparable_trials(study))
    leading = finalists(ranked, budget)
    if not leading:
        return {}
    on_message(f"training the {len(leading)} leading trials again under new seeds")
    sign = 1.0 if definition.directions[0] == "minimize" else -1.0
    race = Race({trial.number: [] for trial in leading}, budget)
    found: dict[int, Confirmed] = {trial.number: Confirmed() for trial in leading}
    while wanted := race.next_round():
        seed_index = max(len(each.values) for each in found.values())
        results = _train(context.job, context.pool.slots, wanted, seed_index, stopped)
        if len(results) < len(wanted):
            break  # stopped: a round that is not whole would compare unlike numbers of trainings
        for number, result in results.items():
            if not result.values:
                race.lost.add(number)
                on_message(f"trial {number} failed under a new seed: {result.reason}")
                continue
            race.costs[number].append(sign * result.values[0])
            race.spent += result.metrics.get("train_seconds", 0.0)
            found[number] = found[number].plus(result.values[0], _kept(result), result.seed)
        race.drop()
    kept = {number: each for number, each in found.items() if each.values}
    attributes.set_confirmed(study, kept)
    return kept


def _kept(result: TrialResult) -> dict[str, float]:
    return {name: value for name, value in result.recorded.items() if math.isfinite(value)}


def _train(
    job: worker.Job, slots: Sequence[Slot], numbers: Sequence[int], seed_index: int, stopped: Callable[[], bool]
) -> dict[int, TrialResult]:
    """Train each of these trials once more; those that were stopped have no result."""
    waiting, results = list(numbers), dict[int, TrialResult]()
    running: dict[Future[TrialResult], tuple[int, Slot]] = {}
    free = list(slots)
    while (waiting or running) and not stopped():
        while waiting and free:
            number, slot = waiting.pop(0), free.pop()
            running[slot.submit(worker.train_again, job, number, seed_index)] = number, slot
        done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            number, slot = running.pop(future)
            free.append(slot)
            results[number] = _result_of(future, number)
    for _, slot in running.values():
        slot.stop()
    return results


def _result_of(future: Future[Any], number: int) -> TrialResult:
    try:
        result: TrialResult = future.result()
    except Exception as error:  # the worker died
        return TrialResult(number, "died", 0, reason=one_line(error))
    return result


class Confirmation:
    """Trains a search's leading trials again, and sees that the one that leads then has a model.

    Args:
        context: The search, whose trials have ended; their time is the measure of the budget.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._signal = context, 0

    def run(self) -> int:
        """Train again for the share of the search's training time; returns the signal that ended it early, or 0.

        Raises:
            SearchError: The trial that leads after all cannot be trained once more.
        """
        context = self._context
        budget = context.settings.confirm * sum(map(seconds_of, context.trials()))
        if budget <= 0 or len(context.definition.metrics) > 1:
            return 0
        with signals(self._halt):
            confirm(context, budget, self._halted)
            leading = ranking.leading_trials(context.definition, context.study)
            if leading and not self._signal:
                self._have_model(leading[0])
        return self._signal

    def _halted(self) -> bool:
        return bool(self._signal)

    def _halt(self, number: int) -> None:
        if self._signal:
            raise Interrupted("interrupted; everything finished so far is kept", number)
        self._signal = number

    def _have_model(self, trial: FrozenTrial) -> None:
        """Train the trial that leads after all once more, under its own seed, where its model was not kept."""
        context = self._context
        if trial.number in context.spool.waiting() or self._is_logged(trial):
            return
        result = context.pool.slots[0].submit(worker.train_same, context.job, trial.number).result()
        if result.model is None:
            raise SearchError(f"trial {trial.number} failed when it was trained once more: {result.reason}")
        context.spool.put_model(trial.number, result.model, result.predictions, result.data, result.answers)

    def _is_logged(self, trial: FrozenTrial) -> bool:
        context = self._context
        if context.run is None:
            return False
        from search.tracking import agreement

        context.mirror.drain(_PATIENCE)
        with suppress(Exception):  # MLflow is away: the model is made once more
            logged = agreement.model_of(context.definition, context.study, trial)
            return bool(context.mirror.model_id(trial.number) or logged)
        return False
