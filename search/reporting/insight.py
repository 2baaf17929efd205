"""What a study teaches: which parameters matter, and which best values sit at the edge of their range.

It reads the study and changes nothing in it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.figures import number, plural
from search.study import ranking
from search.study.comparable import comparable_trials, read_study
from search.studyfile.parameters import FloatParameter, IntParameter
from search.studyfile.schema import Definition

# What Optuna and the plotting libraries raise of trials that they cannot show: too few, lists as choices, huge values.
UNDRAWN = (ValueError, RuntimeError, TypeError, ArithmeticError, LookupError)
ENOUGH = 30  # complete trials from which on importances are more than a hint
_FEWEST = 10  # complete trials from which on an edge is worth a word
_NEAR = 0.1  # share of the range that counts as its edge


@dataclass(frozen=True)
class Edge:
    """A parameter whose best values sit at one end of its range.

    Attributes:
        parameter: Its name.
        bound: `low` or `high`.
        value: The bound.
        write: What to write instead.
    """

    parameter: str
    bound: str
    value: float
    write: float

    def __str__(self) -> str:
        """Return it as a sentence."""
        where = f"{self.bound} = {number(self.value)}"
        return f"{self.parameter}: the best values sit at {where}; try {self.bound} = {number(self.write)}"


def importances(study: optuna.Study, definition: Definition) -> dict[str, float]:
    """Return each parameter's share in the difference between good and bad trials; empty with too few trials."""
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    if not varied(complete):
        return {}
    target = (lambda trial: trial.values[0]) if len(definition.metrics) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(read_study(study), evaluator=evaluator, target=target)
        except UNDRAWN:  # no parameter is in every trial, or none varies
            return {}


def caveat(complete: int) -> str:
    """Return what to bear in mind about importances from so many complete trials."""
    return f"only a hint: {plural(complete, 'complete trial')}, fewer than {ENOUGH}" if complete < ENOUGH else ""


def varied(complete: Sequence[FrozenTrial]) -> bool:
    """Return whether there are enough different values to compare."""
    return len(complete) >= 4 and len({tuple(trial.values) for trial in complete}) > 1


def edges(study: optuna.Study, definition: Definition) -> list[Edge]:
    """Return the parameters whose best values all sit at one end of their range."""
    ranked = ranking.best_trials(definition, comparable_trials(study))
    if len(ranked) < _FEWEST:
        return []
    best = ranked[: max(3, min(5, len(ranked) // 5))]
    found = []
    for name, parameter in definition.space.items():
        values = [trial.params[name] for trial in best if name in trial.params]
        if isinstance(parameter, IntParameter | FloatParameter) and len(values) == len(best):
            found += _edge(name, parameter, values)
    return found


def _edge(name: str, parameter: IntParameter | FloatParameter, values: Sequence[float]) -> list[Edge]:
    low, high = float(parameter.low), float(parameter.high)
    if low == high:
        return []
    places = [_place(value, low, high, log=parameter.log) for value in values]
    if min(places) >= 1 - _NEAR and not (high == 1.0 and isinstance(parameter, FloatParameter)):
        return [Edge(name, "high", parameter.high, _whole(parameter, _beyond(high, low, log=parameter.log)))]
    if max(places) <= _NEAR and low != 0:
        lower = _whole(parameter, _beyond(low, high, log=parameter.log))
        if low > 0:  # what was positive stays positive
            lower = max(lower, 1) if isinstance(parameter, IntParameter) else max(lower, low / 10)
        return [Edge(name, "low", parameter.low, lower)] if lower < low else []
    return []


def _place(value: float, low: float, high: float, *, log: bool) -> float:
    """Return where a value lies in its range, from 0 to 1."""
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _beyond(bound: float, other: float, *, log: bool) -> float:
    """Return a bound farther out: by half the range, or up to fourfold on a logarithmic scale."""
    if log:
        return float(f"{bound * min(4.0, max(0.25, (bound / other) ** 0.5)):.3g}")
    return float(f"{bound + (bound - other) / 2:.6g}")


def _whole(parameter: IntParameter | FloatParameter, value: float) -> float:
    """Return a bound that the parameter can have: a whole number, in its steps."""
    step = parameter.step
    if step:
        start = float(parameter.low)
        value = start + round((value - start) / step) * step
    return round(value) if isinstance(parameter, IntParameter) else value
