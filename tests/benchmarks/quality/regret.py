"""How far each tool's choice is from the reference, for one task."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import rankdata

from tests.benchmarks.quality import parts
from tests.benchmarks.quality.parts import Curve, Params, Plan, Tried

Regret = Callable[[str, Params | None], float]  # of a tool's configuration
_LEADING = 5  # random configurations of which one is the reference
_WAY = 0.05  # what is left of the way from a median random configuration to the reference


@dataclass(frozen=True)
class OfTool:
    """What a tool reached in a task, as means over its seeds.

    Attributes:
        rank: Of its regret at the end among all tools; 1 is best.
        after_seconds: Regret at the plan's moments.
        after_trials: Regret at the plan's counts; None where not every search came so far.
        seconds_to_95: For each seed, when its best validation loss was 95 % of the way; None if never.
        trials: How many it ran, pruned ones too.
    """

    rank: float
    after_seconds: list[float]
    after_trials: list[float | None]
    seconds_to_95: list[float | None]
    trials: float


@dataclass(frozen=True)
class Regrets:
    """A task: the test losses that stand for regret 0 and 1, and its tools."""

    task: str
    reference: float
    usual: float
    tools: dict[str, OfTool]


def of_task(plan: Plan, task: str) -> Regrets | None:
    """Return the regrets of every tool; None where the task's test part tells no configuration from another.

    The reference is the lowest judged loss among the few random configurations that validation holds to be best:
    the one best in validation alone may be lucky, and then worse on the test part than the median.
    """
    random = parts.random_curves(plan, task)
    leading = sorted(random, key=lambda curve: curve.validation[curve.best])[:_LEADING]
    best = leading[0]
    searches = {tool: [parts.searched(plan, task, tool, seed) for seed in plan.seeds] for tool in parts.tools()}
    chosen = [params for several in searches.values() for tried in several for params in _looked_at(plan, tried)]
    judged = parts.judged(plan, task, [*(curve.params for curve in leading), *chosen])
    reference = min(_test(judged[parts.key(curve.params)], "best") for curve in leading)
    usual = statistics.median(curve.kept("best") for curve in random)
    if reference >= usual:
        return None
    losses = (statistics.median(curve.validation[curve.best] for curve in random), best.validation[best.best])

    def regret(tool: str, params: Params | None) -> float:
        if params is None:  # nothing found yet
            return 1.0
        return (_test(judged[parts.key(params)], parts.kept_epoch(tool)) - reference) / (usual - reference)

    at_end = {
        tool: [regret(tool, _best(tried, plan.seconds)) for tried in several] for tool, several in searches.items()
    }
    ranks = [rankdata(each) for each in zip(*at_end.values(), strict=True)]
    tools = {}
    for index, (tool, several) in enumerate(searches.items()):
        counted = [[_regret_after(regret, tool, tried, count) for tried in several] for count in plan.counts]
        tools[tool] = OfTool(
            rank=float(statistics.mean(each[index] for each in ranks)),
            after_seconds=[
                statistics.mean(regret(tool, _best(tried, moment)) for tried in several) for moment in plan.moments
            ],
            after_trials=[_mean(each) for each in counted],
            seconds_to_95=[_reached(tried, losses[1] + _WAY * (losses[0] - losses[1])) for tried in several],
            trials=statistics.mean(map(len, several)),
        )
    return Regrets(task, reference, usual, tools)


def _looked_at(plan: Plan, tried: list[Tried]) -> list[Params]:
    found = [_best(tried, moment) for moment in plan.moments]
    found += [_best(tried[:count], plan.seconds) for count in plan.counts if len(tried) >= count]
    return [params for params in found if params is not None]


def _best(tried: Sequence[Tried], moment: float) -> Params | None:
    """Return the configuration that a tool holds to be its best at a moment."""
    done = [
        (each.value, index) for index, each in enumerate(tried) if each.seconds <= moment and each.value is not None
    ]
    return tried[min(done)[1]].params if done else None


def _regret_after(regret: Regret, tool: str, tried: list[Tried], count: int) -> float | None:
    return regret(tool, _best(tried[:count], tried[-1].seconds)) if len(tried) >= count else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _reached(tried: list[Tried], loss: float) -> float | None:
    return next((each.seconds for each in tried if each.value is not None and each.value <= loss), None)


def _test(curves: list[Curve], epoch: str) -> float:
    return statistics.mean(curve.kept(epoch) for curve in curves)
