"""What the pruner, `keep_epoch` and the preset rest on: replayed over recorded curves (30 minutes; `--quick` 10).

The curves are those of the random configurations of the benchmark `quality`, of which it keeps the parts.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from pydantic import TypeAdapter

from search.study.samplers import make_pruner
from search.study.space import distribution
from search.studyfile.load import parse_definition
from search.studyfile.parameters import Parameter
from search.studyfile.presets import PRESETS
from tests.benchmarks import quality
from tests.benchmarks.quality import parts, tasks
from tests.benchmarks.quality.parts import Curve, Plan
from tests.benchmarks.quality.study import content
from tests.benchmarks.timing import Size, note, table

_KEEP_TASKS = ("digits", "breast_cancer", "diabetes", "oj", "attrition")
_SPLITS = 5
_SEARCH = 20  # trials in a search that is drawn from the random configurations
_EPOCHS = ("last", "best")
_DRAWS = 2000
_FEW = 5
_PARAMETER: TypeAdapter[Any] = TypeAdapter(Parameter)


def main(size: Size) -> None:
    """Print the tables."""
    plan = quality.plan_of(size)
    names = [name for name in tasks.TASKS if not size.quick or name in quality.QUICK]
    _keep_table(replace(plan, random=size.of(40, 12)))
    replay_pruners(plan, names)
    replay_kept(plan, names)
    replay_preset(plan, names)


def replay_pruners(plan: Plan, names: Sequence[str]) -> None:
    """Print the table of pruners, by the random configurations of these tasks."""
    _pruner_table(plan, {name: parts.random_curves(plan, name) for name in names})


# Which epoch is kept


def _keep_table(plan: Plan) -> None:
    """Compare both on several splits of each task: on one split validation and test part may differ by chance."""
    rows = [_keep_row(plan, name) for name in _KEEP_TASKS if name in tasks.TASKS]
    table(
        f"keep_epoch: test loss, {plan.random} random configurations on each of {_SPLITS} splits",
        ["", "median training: last", "best", "last − best", "the winner, fresh seeds: last", "best", "last − best"],
        rows,
        f"The winner has the lowest validation loss of the epoch that is kept; {plan.judges} fresh seeds. "
        "In brackets the standard error over splits; above 0: the best epoch is better.",
    )


def _keep_row(plan: Plan, name: str) -> list[str]:
    cells = [name]
    found = [_kept_losses(plan, f"{name}-split{split}") for split in range(1, _SPLITS + 1)]
    for which in range(2):
        last, best = ([each[which][index] for each in found] for index in range(2))
        gains = [one - other for one, other in zip(last, best, strict=True)]
        error = statistics.stdev(gains) / math.sqrt(len(gains))
        gain = f"{statistics.mean(gains):+.4f} ({error:.4f})"
        cells += [f"{statistics.mean(last):.4f}", f"{statistics.mean(best):.4f}", gain]
    return cells


def _kept_losses(plan: Plan, task: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return test losses by the last and by the best epoch: the median training, and the winner's."""
    curves = parts.random_curves(plan, task)
    winners = {
        "last": min(curves, key=lambda curve: curve.validation[-1]),
        "best": min(curves, key=lambda curve: curve.validation[curve.best]),
    }
    judged = parts.judged(plan, task, [curve.params for curve in winners.values()])
    last, best = (
        statistics.mean(each.kept(epoch) for each in judged[parts.key(curve.params)])
        for epoch, curve in winners.items()
    )
    every = [statistics.median(curve.kept(epoch) for curve in curves) for epoch in _EPOCHS]
    return (every[0], every[1]), (last, best)


def replay_kept(plan: Plan, names: Sequence[str]) -> None:
    """Print the test loss of what searches drawn from a task's random configurations choose and keep."""
    rows = []
    for name in names:
        curves = parts.random_curves(plan, name)
        drawn = random.Random(0)
        found: dict[str, list[float]] = {"last": [], "best": [], "both": []}
        for _ in range(_DRAWS):
            some = drawn.sample(curves, min(_SEARCH, len(curves)))
            last = min(some, key=lambda curve: curve.validation[-1])
            best = min(some, key=lambda curve: curve.validation[curve.best])
            found["last"].append(last.kept("last"))
            found["best"].append(best.kept("best"))
            found["both"].append(last.kept("best"))
        rows.append([_named(name), *(f"{statistics.mean(values):.4f}" for values in found.values())])
    table(
        f"keep_epoch: mean test loss of the winner of {_SEARCH} random configurations, {_DRAWS} draws",
        ["", "value and weights of the last epoch", "of the best epoch", "value of the last, weights of the best"],
        rows,
    )


def _named(task: str) -> str:
    return task + (", held back" if tasks.TASKS[task].held_back else "")


# What is worth searching


def replay_preset(plan: Plan, names: Sequence[str]) -> None:
    """Print how good the best of a few configurations is, drawn from the whole space and from the preset."""
    preset = {name: distribution(_PARAMETER.validate_python(each)) for name, each in PRESETS["mlp"].items()}
    rows = []
    for name in names:
        curves = parts.random_curves(plan, name)
        lowest, usual = min(c.validation[-1] for c in curves), statistics.median(c.validation[-1] for c in curves)
        inside = [curve for curve in curves if all(_holds(preset[key], value) for key, value in curve.params.items())]
        regrets = []
        for several in (curves, inside):
            drawn = random.Random(0)
            best = [min(c.validation[-1] for c in drawn.sample(several, _FEW)) for _ in range(_DRAWS)]
            regrets.append((statistics.mean(best) - lowest) / (usual - lowest))
        rows.append([_named(name), str(len(inside)), *(f"{each:.3f}" for each in regrets)])
    table(
        f"preset: regret of the best of {_FEW} random configurations, {_DRAWS} draws",
        ["", f"of {plan.random} inside the preset", "whole space", "preset"],
        rows,
        "Regret of the validation loss: 0 the best of all, 1 the median.",
    )


def _holds(known: BaseDistribution, value: Any) -> bool:
    if isinstance(known, CategoricalDistribution):
        return value in known.choices
    assert isinstance(known, IntDistribution | FloatDistribution)
    return bool(known.low <= value <= known.high)


# Which trials are given up


@dataclass(frozen=True)
class _Replayed:
    """Searches replayed with a pruner: the share of the best tenth it ended, of epochs it saved, and the regret."""

    ended: float
    saved: float
    regret: float


def _pruners(task_file: Path) -> dict[str, Callable[[], BasePruner]]:
    tables = content(task_file)

    def ours(name: str, **options: Any) -> Callable[[], BasePruner]:
        search = {"pruner": name, "pruner_options": options}
        definition = parse_definition({**tables, "search": search}, task_file)
        return lambda: make_pruner(definition, name)

    at_once = {"n_startup_trials": 5, "n_warmup_steps": 0, "n_min_trials": 1}
    return {
        "none": ours("none"),
        "percentile (the default)": ours("percentile"),
        "percentile, 5 to start": ours("percentile", n_startup_trials=5),
        "percentile, warm-up 3": ours("percentile", n_warmup_steps=3),
        "percentile, warm-up 10": ours("percentile", n_warmup_steps=10),
        "percentile 60": ours("percentile", percentile=60.0),
        "percentile 25": ours("percentile", percentile=25.0),
        "median": ours("median"),
        "median, Optuna's defaults": ours("median", **at_once),
        "patient": ours("patient"),
        "hyperband": ours("hyperband"),
        "asha": ours("asha"),
    }


def _pruner_table(plan: Plan, curves: dict[str, list[Curve]]) -> None:
    rows = []
    for pruner in _pruners(parts.arrays(plan, next(iter(curves)))):
        note(f"  replaying {pruner}")
        found = [
            _replayed(_pruners(parts.arrays(plan, name))[pruner], several, seed)
            for name, several in curves.items()
            for seed in range(5)
        ]
        means = [statistics.mean(getattr(each, key) for each in found) for key in ("ended", "saved", "regret")]
        rows.append([pruner, f"{means[0]:.0%}", f"{means[1]:.0%}", f"{means[2]:.3f}"])
    table(
        "pruners, replayed over random configurations",
        ["", "of the best tenth ended", "epochs saved", f"regret after the epochs of {_SEARCH} whole trials"],
        rows,
        f"{len(curves)} tasks of {plan.random} configurations in 5 orders; a trial's value is its best epoch's. "
        "Regret of the validation loss: 0 the best of all, 1 the median.",
    )


def _replayed(make: Callable[[], BasePruner], curves: list[Curve], seed: int) -> _Replayed:
    order = list(curves)
    random.Random(seed).shuffle(order)
    values = [curve.validation[curve.best] for curve in order]
    study = optuna.create_study(study_name=str(seed), pruner=make())
    spent, budget, best, epochs, ended = 0, _SEARCH * tasks.EPOCHS, math.inf, 0, set()
    for index, curve in enumerate(order):
        trained = _train(study, curve)
        if trained < len(curve.validation):
            ended.add(index)
        elif spent + trained <= budget:
            best = min(best, values[index])
        spent += trained
        epochs += len(curve.validation)
    leading = sorted(range(len(order)), key=values.__getitem__)[: max(1, len(order) // 10)]
    lowest, usual = min(values), statistics.median(values)
    return _Replayed(
        ended=statistics.mean(index in ended for index in leading),
        saved=1 - spent / epochs,
        regret=min(1.0, (best - lowest) / (usual - lowest)),
    )


def _train(study: optuna.Study, curve: Curve) -> int:
    """Add a trial to the study as if it were trained now, and return after how many epochs it ended."""
    trial = study.ask()
    for step, loss in enumerate(curve.validation):
        trial.report(loss, step)
        if step + 1 < len(curve.validation) and trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return step + 1
    study.tell(trial, curve.validation[curve.best])
    return len(curve.validation)
