"""Folds that end early: searches with five folds and the same number of trainings, each with another pruner.

    python -m tests.benchmarks.quality.folds FOLDER [TASK …] [--splits 1] [--trainings 60]

A trial that is pruned after some of its folds leaves its other trainings to later trials. What counts is the test
loss of the best trial's refit. One process, without workers and records; `FOLDER/folds.jsonl` is gone on with.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from search.data.dataset import Data
from search.data.loading import load
from search.study.samplers import make_pruner, make_sampler
from search.study.space import distributions
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.training import trial
from tests.benchmarks.quality import averages, parts, tasks
from tests.benchmarks.quality.study import content
from tests.benchmarks.timing import note

_PRUNERS = ("none", "percentile", "median", "wilcoxon")
_FOLDS = 5


def search(definition: Definition, data: Data, pruner: str, trainings: int, seed: int) -> dict[str, Any]:
    """Return what a search comes to: its trials, how many were pruned, and the best one's value and test loss."""
    study = optuna.create_study(
        sampler=make_sampler(definition, "tpe", seed), pruner=make_pruner(definition, pruner), direction="minimize"
    )
    spent, best = 0, (np.inf, np.nan)
    while spent < trainings:
        asked = study.ask(distributions(definition))
        found = trial.run(definition, data, asked, seed=seed, is_kept=lambda _: False, on_epochs=lambda _: None)
        spent += len({name.partition("/")[0] for epoch in found.epochs for name in epoch.logs})
        if found.fate == "complete":
            study.tell(asked, found.values[0])
            best = min(best, (found.values[0], found.metrics["test_loss"]))
        elif found.fate == "pruned":
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
    ended = [each.state.name for each in study.trials]
    return {"trials": len(ended), "pruned": ended.count("PRUNED"), "value": best[0], "test": best[1]}


def searched(folder: Path, task: str, split: int, trainings: int) -> None:
    """Search with each pruner that the file has not."""
    kept, file = folder / "folds.jsonl", folder / f"{task}-split{split}.npz"
    known = {(each["task"], each["split"], each["pruner"]) for each in parts.read(kept)}
    left = [name for name in _PRUNERS if (task, split, name) not in known]
    if not left:
        return
    tasks.write(file.stem, file)
    definition = parse_definition(content(file, data={"folds": _FOLDS}), file)
    data = load(definition)
    for name in left:
        found = search(definition, data, name, trainings, parts.seed_of(task, split))
        note(f"  {task}-split{split}, {name}: {found}")
        with kept.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"task": task, "split": split, "pruner": name, **found}) + "\n")


def main() -> None:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=list(tasks.TASKS), help="which tasks")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--trainings", type=int, default=60)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for split in range(asked.splits):
        for task in asked.tasks:
            searched(asked.folder, task, split, asked.trainings)
    show(asked.folder)


def show(folder: Path) -> None:
    """Print how each pruner does beside none, over all tasks that are done, as Markdown."""
    kept = parts.read(folder / "folds.jsonl")
    given: dict[tuple[str, int], averages.Given] = {}
    for each in kept:
        given.setdefault((each["task"], each["split"]), {})[each["pruner"]] = (each["test"], np.nan)
    floors = {}
    for task, split in given:
        with np.load(folder / f"{task}-split{split}.npz") as file:
            floors[task, split] = averages.floor(str(file["kind"]), file["y_test"])
    counts = {
        name: [f"{np.mean([each[key] for each in kept if each['pruner'] == name]):.1f}" for key in ("trials", "pruned")]
        for name in dict.fromkeys(each["pruner"] for each in kept)
    }
    rows = [[*row, *counts[row[0]]] for row in averages.summary(given, floors, _PRUNERS[0])]
    columns = [*averages.COLUMNS, "trials", "pruned"]
    print("\n".join(parts.as_markdown(columns, rows)))


if __name__ == "__main__":
    main()
