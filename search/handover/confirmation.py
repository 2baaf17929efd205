"""Whether the best trials are as good as they look: the leading ones are trained again under new seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress

import numpy as np
from optuna.trial import FrozenTrial

from search.context import Context
from search.errors import SearchError
from search.stopping import Interruption, signals
from search.study import attributes, ranking
from search.study.attributes import Confirmed
from search.study.comparable import comparable_trials
from search.training.result import TrialResult
from search.workers import worker
from search.workers.base import Slot
from search.workers.process import reason_of

FINALISTS = 3
_MOST_SEEDS = 10  # trainings of one finalist
_AGAIN = 7_919  # keeps these seeds apart from those of trials
_POLL_SECONDS = 0.2
_PATIENCE = 30.0  # seconds without progress after which MLflow counts as away


def planned(seconds: Sequence[float], budget: float) -> tuple[int, int]:
    """Return how many of the leading trials are trained again, and under how many new seeds: at least two once.

    Args:
        seconds: How long the leading trials took, the best first.
        budget: Seconds of training to spend.
    """
    finalists = FINALISTS if sum(seconds[:FINALISTS]) <= budget else 2
    cost = sum(seconds[:finalists])
    return finalists, max(1, min(_MOST_SEEDS, int(budget / cost) if cost else 1))


def seconds_of(trial: FrozenTrial) -> float:
    """Return how long a trial took."""
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def confirm(context: Context) -> int:
    """Train the leading trials again for a share of the training time, and make sure that the best one has a model.

    What each reaches is kept with the study, whose ranking goes by it.

    Returns:
        The signal that ended it early; 0 when none did.

    Raises:
        SearchError: The trial that leads after all cannot be trained once more.
    """
    definition, study = context.definition, context.study
    budget = context.settings.confirm * sum(map(seconds_of, context.trials()))
    ranked = ranking.best_trials(definition, comparable_trials(study))
    if budget <= 0 or len(definition.metrics) > 1 or not ranked:
        return 0
    interruption = Interruption("interrupted; everything finished so far is kept")
    with signals(interruption.note):
        if len(ranked) > 1:
            finalists, seeds = planned([seconds_of(trial) for trial in ranked], budget)
            _train_again(context, [trial.number for trial in ranked[:finalists]], seeds, interruption)
        if not interruption.signal:
            _have_model(context, ranking.leading_trials(definition, study)[0])
    return interruption.signal


def _train_again(context: Context, numbers: Sequence[int], seeds: int, interruption: Interruption) -> None:
    """Train finalists under new seeds; a seed counts only if all of them were trained under it."""
    context.on_message(f"training the {len(numbers)} leading trials again under new seeds")
    new = [_seed(context.settings.seed, index) for index in range(seeds)]
    results = _train(context, [(number, seed) for seed in new for number in numbers], interruption)
    whole = [seed for seed in new if all((number, seed) in results for number in numbers)]
    found = {}
    for number in numbers:
        trainings = [results[number, seed] for seed in whole]
        failed = [training for training in trainings if not training.values]
        if failed:
            context.on_message(f"trial {number} failed under a new seed: {failed[0].reason}")
        elif trainings:
            values, metrics = tuple(training.values[0] for training in trainings), tuple(map(_kept, trainings))
            found[number] = Confirmed(values, metrics, tuple(training.seed for training in trainings))
    if whole:  # else an earlier search's still hold
        attributes.set_confirmed(context.study, found)


def _seed(study_seed: int, index: int) -> int:
    """Return one of the new study seeds under which leading trials are trained again."""
    return int(np.random.SeedSequence([study_seed, _AGAIN, index]).generate_state(1)[0])


def _kept(result: TrialResult) -> dict[str, float]:
    return {name: value for name, value in result.recorded.items() if math.isfinite(value)}


def _train(
    context: Context, tasks: Sequence[tuple[int, int]], interruption: Interruption
) -> dict[tuple[int, int], TrialResult]:
    """Train trials of these numbers under these seeds; those that were stopped have no result."""
    waiting, free = list(tasks), list(context.pool.slots)
    results = dict[tuple[int, int], TrialResult]()
    running: dict[Future[TrialResult], tuple[tuple[int, int], Slot]] = {}
    while (waiting or running) and not interruption.signal:
        while waiting and free:
            task, slot = waiting.pop(0), free.pop()
            running[slot.submit(worker.train_again, context.job, *task)] = task, slot
        for future in wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED).done:
            task, slot = running.pop(future)
            free.append(slot)
            results[task] = result = _result_of(future, task[0])
            context.files.put_outputs(task[0], result.validated, task[1], result.model)
    for _, slot in running.values():
        slot.stop()
    return results


def _result_of(future: Future[TrialResult], number: int) -> TrialResult:
    try:
        return future.result()
    except Exception as error:
        return TrialResult(number, "died", 0, reason=reason_of(error))


def _have_model(context: Context, trial: FrozenTrial) -> None:
    """Train the leading trial once more under its own seed if its model was not kept."""
    if trial.number in context.files.waiting() or _is_logged(context, trial):
        return
    result = context.pool.slots[0].submit(worker.train_again, context.job, trial.number).result()
    if result.model is None:
        raise SearchError(f"trial {trial.number} failed when it was trained once more: {result.reason}")
    context.files.put_model(trial.number, result.model, result.predictions, result.data, result.answers)


def _is_logged(context: Context, trial: FrozenTrial) -> bool:
    if context.run is None:
        return False
    from search.tracking import agreement

    context.mirror.outbox.drain(_PATIENCE)
    with suppress(Exception):  # MLflow is away: the model is made once more
        logged = agreement.model_of(context.definition, context.study, trial)
        return bool(context.mirror.model_id(trial.number) or logged)
    return False
