"""Samplers beside each other, trial by trial: `python -m tests.benchmarks.quality --samplers`.

Each proposes 30 configurations of a task's space, one after the other, and learns the validation loss of each
training. Random ones are drawn from those of the reference. What a sampler takes to propose is not counted, nor is
anything pruned.
"""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna

from search.study.samplers import make_sampler
from search.study.space import distributions
from search.studyfile.load import parse_definition
from tests.benchmarks.quality import parts
from tests.benchmarks.quality.parts import Curve, Params, Plan
from tests.benchmarks.quality.study import content
from tests.benchmarks.timing import note, table

_TRIALS, _MOMENTS = 30, (10, 20, 30)
_RANDOM, _ORDERS = "random", 50
_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # what it is, its name in a study file and its options
    "tpe (the default)": ("tpe", {}),
    "tpe, univariate": ("tpe", {"multivariate": False}),
    "gp": ("gp", {}),
}
Train = Callable[[Params, int], Curve]


def compare(plan: Plan, names: Sequence[str]) -> None:
    """Search with each sampler and seed, and print the table."""
    samplers = [name for name in _SAMPLERS if name != "gp" or importlib.util.find_spec("torch") is not None]
    regrets: dict[str, list[list[float]]] = {name: [] for name in (*samplers, _RANDOM)}
    for task in names:
        known = parts.random_curves(plan, task)
        values = [curve.validation[-1] for curve in known]
        lowest, usual = min(values), statistics.median(values)
        for name in samplers:
            searches = [_searched(plan, task, name, seed) for seed in plan.seeds]
            regrets[name].append(_regret(searches, lowest, usual))
        drawn = [random.Random(order).sample(known, min(_TRIALS, len(known))) for order in range(_ORDERS)]
        regrets[_RANDOM].append(_regret(drawn, lowest, usual))
    rows = [
        [
            name,
            *(f"{statistics.mean(column):.3f}" for column in zip(*each, strict=True)),
            "  ".join(f"{task[-1]:.3f}" for task in each),
        ]
        for name, each in regrets.items()
    ]
    table(
        f"samplers: regret of the validation loss, {len(names)} tasks, {len(plan.seeds)} seed(s)",
        ["", *(f"after {count} trials" for count in _MOMENTS), f"after {_TRIALS}: {', '.join(names)}"],
        rows,
        f"0: the lowest of {plan.random} random configurations, 1: their median; below 0: better than all of them.",
    )


def _regret(searches: Sequence[Sequence[Curve]], lowest: float, usual: float) -> list[float]:
    """Return the mean regret after so many trials, of searches of one task."""
    best = [[min(curve.validation[-1] for curve in search[:count]) for search in searches] for count in _MOMENTS]
    return [(statistics.mean(values) - lowest) / (usual - lowest) for values in best]


def _searched(plan: Plan, task: str, name: str, seed: int) -> list[Curve]:
    """Return a sampler's trials of one search; those of the file are not trained again."""
    kept = plan.folder / f"{task}-sampler-{name.replace(' ', '')}-{seed}.jsonl"
    if not kept.is_file():
        note(f"  {task}: {name}, seed {seed}")
        parts.write(kept, [vars(each) for each in _search(plan, task, name, seed)])
    return [Curve(**each) for each in parts.read(kept)]


def _search(plan: Plan, task: str, name: str, seed: int) -> list[Curve]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler, options = _SAMPLERS[name]
    file = parts.arrays(plan, task)
    tables = content(file, search={"sampler": sampler, "sampler_options": options})
    definition = parse_definition(tables, file)
    study = optuna.create_study(sampler=make_sampler(definition, sampler, parts.seed_of(task, seed)))
    found = []
    with _trainer(plan, task) as train:
        for number in range(_TRIALS):
            trial = study.ask(distributions(definition))
            found.append(train(dict(trial.params), number))
            study.tell(trial, found[-1].validation[-1])
    return found


@contextmanager
def _trainer(plan: Plan, task: str) -> Iterator[Train]:
    """Give what trains a configuration under a seed, in one process for all."""
    command, environment = parts.trainer(plan, task)
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def train(params: Params, seed: int) -> Curve:
            asked.write(json.dumps({"params": params, "seed": seed}) + "\n")
            asked.flush()
            return Curve(**json.loads(answered.readline()))

        yield train
        asked.close()
