"""Searches of one task, each on a split of its own, with their leading configurations trained again.

    python -m tests.benchmarks.quality.searches FOLDER TASK TRIALS AGAIN JUDGES SEED [SEED …]

One process for all: the package's sampler, space and training, without its workers and records. What a search tried
is kept as `FOLDER/TASK-splitSEED.json`, whole or not at all; what is there is not done again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import optuna

from search.data.dataset import Data
from search.data.loading import load
from search.study import space
from search.study.samplers import make_sampler
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from tests.benchmarks.quality import tasks
from tests.benchmarks.quality.curves import curves
from tests.benchmarks.quality.study import content

LEADING = 4  # configurations of a search that are trained again, by the last epoch's loss and by the best one's
_AGAIN = 20_000  # seeds from here on belong to the confirmation
_JUDGE = 10_000  # and from here on to the judge


def main() -> None:
    """Do what is not there yet."""
    folder, task, trials, again, judges, *seeds = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for seed in map(int, seeds):
        kept = Path(folder, f"{task}-split{seed}.json")
        if not kept.is_file():
            whole = kept.with_suffix(".part")
            whole.write_text(json.dumps(_searched(Path(folder), task, seed, int(trials), int(again), int(judges))))
            whole.replace(kept)
            print(f"  {kept.stem}", file=sys.stderr, flush=True)


def _searched(folder: Path, task: str, seed: int, trials: int, again: int, judges: int) -> dict[str, Any]:
    file = folder / f"{task}-split{seed}.npz"
    tasks.write(file.stem, file)
    definition = parse_definition(content(file, fit={"keep_epoch": "last"}), file)
    data = load(definition)
    tried = _search(definition, data, seed, trials)
    leading: list[dict[str, Any]] = []
    for value in (lambda each: each["validation"][-1], lambda each: min(each["validation"])):
        ranked = sorted(tried, key=value)[:LEADING]
        leading += [each["params"] for each in ranked if each["params"] not in leading]
    return {
        "trials": tried,
        "again": _trained(definition, data, leading, range(_AGAIN, _AGAIN + again)),
        "judged": _trained(definition, data, leading, range(_JUDGE, _JUDGE + judges)),
    }


def _search(definition: Definition, data: Data, seed: int, trials: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=make_sampler(definition, "tpe", seed))
    distributions = {name: space.distribution(each) for name, each in definition.space.items()}
    tried = []
    for index in range(trials):
        trial = study.ask(distributions)
        started = time.perf_counter()
        found = curves(definition, data, trial.params, 1000 * seed + index)
        seconds = time.perf_counter() - started
        study.tell(trial, found["validation"][-1])
        tried.append({"params": trial.params, "validation": found["validation"], "seconds": seconds})
    return tried


def _trained(
    definition: Definition, data: Data, configurations: list[dict[str, Any]], seeds: range
) -> list[dict[str, Any]]:
    return [
        {"params": params, "seed": seed, **curves(definition, data, params, seed)}
        for params in configurations
        for seed in seeds
    ]


if __name__ == "__main__":
    main()
