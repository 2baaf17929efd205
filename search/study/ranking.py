"""Which trials are best: the order among complete ones, Pareto fronts and constraints."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.figures import number as told
from search.figures import plural
from search.study.attributes import confirmed_of, constraints_of
from search.study.comparable import comparable_trials

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # states whose configuration is not tried again


RULE = "the nearest to the ideal point"  # which trial of several metrics is registered; see `best_trials`


class Goals(Protocol):
    """What a study asks for, as its study file says it, or the study itself: a direction for each metric."""

    @property
    def directions(self) -> Sequence[str]:
        """`minimize` or `maximize`, one for each metric."""
        ...


@dataclass(frozen=True)
class StudyGoals:
    """What a study asks for, as its storage has it."""

    directions: tuple[str, ...]


def goals_of(study: optuna.Study) -> StudyGoals:
    """Return what a study asks for."""
    return StudyGoals(tuple(each.name.lower() for each in study.directions))


def nearest(front: int) -> str:
    """Return in words which trial of a Pareto front of so many is registered."""
    if front == 1:
        return "the only one on the Pareto front"
    return f"of the {front} on the Pareto front {RULE}"


def states_of(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return how many trials are `complete`, `pruned`, `failed`, and in the other states that some are in."""
    names = Counter("failed" if trial.state == TrialState.FAIL else trial.state.name.lower() for trial in trials)
    return {"complete": 0, "pruned": 0, "failed": 0, **names}


def feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial meets the study's constraints."""
    return all(each <= 0 for each in constraints_of(trial))


def leads(
    definition: Goals,
    values: Sequence[float],
    number: int,
    others: Iterable[tuple[Sequence[float], int]],
    places: int = 1,
) -> bool:
    """Return whether a trial is among the best: fewer than `places` of the others stand before it.

    With several metrics those stand before it that dominate it. Of equal trials the lowest number stands first,
    whichever ended first.

    Args:
        definition: The study file, for the directions.
        values: The trial's values.
        number: The trial's number.
        others: Values and number of each other feasible complete trial.
        places: How many trials are the best.
    """
    mine = _cost(definition, values)
    several = len(mine) > 1
    before = 0
    for other, other_number in others:
        theirs = _cost(definition, other)
        before += _dominates(theirs, mine) if several else (theirs, other_number) < (mine, number)
        if before >= places:
            return False
    return True


def pruned(metric: str, trial: Any, when: str, values: Mapping[int, float]) -> optuna.TrialPruned:
    """Return what ends a trial that the pruner gives up: its value, and those that it was compared with.

    Args:
        metric: The study's metric.
        trial: The trial.
        when: After which step, in words.
        values: Its values by step.
    """
    standing = _standing(trial.study, trial.number, values, minimize=trial.study.direction.name == "MINIMIZE")
    return optuna.TrialPruned(f"pruned after {when}: {metric} {standing}")


def _standing(study: optuna.Study, number: int, values: Mapping[int, float], *, minimize: bool) -> str:
    sign = 1 if minimize else -1
    step = max(values)
    best = min(values, key=lambda each: sign * values[each])
    own = f", its best {told(values[best])} at step {best + 1}" if best != step else ""
    known = (each.intermediate_values for each in study.get_trials(deepcopy=False) if each.number != number)
    there = (each[step] for each in known if step in each)
    others = sorted(filter(math.isfinite, there), key=lambda each: sign * each)
    if not others:
        return f"{told(values[step])}{own}"
    better = sum(sign * each < sign * values[step] for each in others)
    among = f"{better} of {plural(len(others), 'other trial')} better there"
    middle = f", median {told(statistics.median(others))}" if len(others) > 1 else ""
    return f"{told(values[step])}{own}; {among} (best {told(others[0])}{middle})"


def worth_keeping(definition: Goals, study: optuna.Study, values: Sequence[float], number: int, places: int) -> bool:
    """Return whether a trial would be among so many best complete trials of the study."""
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    others = ((each.values, each.number) for each in complete if each.number != number and feasible(each))
    return leads(definition, values, number, others, places)


def best_trials(definition: Goals, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the feasible complete trials, best first.

    With several metrics the Pareto front comes first, ordered by the stated rule: nearest to the
    ideal point, each metric scaled to the front's range; then the rest by their first metric.
    """
    costs = _costs(definition, trials)
    complete = [trial for trial in trials if trial.number in costs]
    if len(definition.directions) == 1:
        return sorted(complete, key=lambda trial: (costs[trial.number], trial.number))
    front = pareto_front(definition, trials)
    on_front = {trial.number for trial in front}
    distances = _distances([costs[trial.number] for trial in front])
    ranked = [trial for _, _, trial in sorted(zip(distances, sorted(on_front), front, strict=True))]
    rest = [trial for trial in complete if trial.number not in on_front]
    return ranked + sorted(rest, key=lambda trial: (costs[trial.number], trial.number))


def leading_trials(definition: Goals, study: optuna.Study) -> list[FrozenTrial]:
    """Return the feasible complete trials on the study's data of now, the one to register first.

    That is the best one; where the leading trials were trained again under new seeds, the one that is best on
    average, as long as no later trial leads.
    """
    ranked = best_trials(definition, comparable_trials(study))
    known = confirmed_of(study)  # a storage is read for it
    confirmed = {trial.number: known[trial.number] for trial in ranked if trial.number in known}
    if not ranked or ranked[0].number not in confirmed or len(definition.directions) > 1:
        return ranked
    most = max(len(each.values) for each in confirmed.values())
    standing = [trial for trial in ranked if trial.number in confirmed and len(confirmed[trial.number].values) == most]
    first = min(standing, key=lambda trial: _cost(definition, [confirmed[trial.number].mean]))
    return [first, *(trial for trial in ranked if trial is not first)]


def pareto_front(definition: Goals, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the feasible complete trials that no other is better than in every metric, by number."""
    front: dict[int, list[float]] = {}
    # In this order only a trial before dominates one; one that is dominated is so by a trial of the front.
    for number, cost in sorted(_costs(definition, trials).items(), key=lambda each: each[1]):
        if not any(_dominates(other, cost) for other in front.values()):
            front[number] = cost
    return sorted((trial for trial in trials if trial.number in front), key=lambda trial: trial.number)


def _costs(definition: Goals, trials: Sequence[FrozenTrial]) -> dict[int, list[float]]:
    """Return the values of the feasible complete trials by number, the sign such that less is better."""
    counted = [trial for trial in trials if trial.state == TrialState.COMPLETE and feasible(trial)]
    return {trial.number: _cost(definition, trial.values) for trial in counted}


def _cost(definition: Goals, values: Sequence[float]) -> list[float]:
    """Return a trial's values with the sign such that less is better."""
    signs = (1 if direction == "minimize" else -1 for direction in definition.directions)
    return [sign * value for sign, value in zip(signs, values, strict=True)]


def _distances(costs: Sequence[Sequence[float]]) -> list[float]:
    """Return the squared distance of each to the ideal point, each metric scaled to the range of all."""
    ranges = [(min(column), max(column)) for column in zip(*costs, strict=True)]
    return [
        sum(
            (((cost - low) / (high - low)) ** 2 for cost, (low, high) in zip(each, ranges, strict=True) if high > low),
            0.0,
        )
        for each in costs
    ]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))
