"""Searches of 20 and 200 trials, whole process, against what a person would run instead (35 minutes; `--quick` 6).

Every row trains the study `blobs` from an empty folder: same space, same budget, same first
configurations. Only ours and the two that say so track; only ours registers a model. `--pruner
none` and the script with a pruner are there to compare like with like. How many epochs a search
trains depends on what its sampler proposes, so they are shown beside the seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna

from search.study.storage import open_storage
from tests.benchmarks.timing import (
    HERE,
    PYTHON,
    Size,
    alternate,
    empty_folder,
    in_empty_folder,
    median,
    ratio,
    run,
    spread,
    table,
)


@dataclass(frozen=True)
class Search:
    """One search: its seconds and the epochs it trained."""

    seconds: float
    epochs: int


def ours(n_trials: int, *options: str) -> Search:
    """Run the command."""
    with empty_folder() as folder:
        command = (PYTHON, "-m", "search.run", "--n-trials", str(n_trials), "--quiet", *options)
        done = run(*command, folder=folder)
        return Search(done.seconds, epochs_of(folder / "studies" / "blobs.journal", "blobs"))


def epochs_of(journal: Path, name: str) -> int:
    """Return how many epochs a study's trials trained."""
    study = optuna.load_study(study_name=name, storage=open_storage(str(journal)))
    return sum(len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False))


def rival(script: str, n_trials: int, *options: str) -> Search:
    """Run another's script."""
    done = in_empty_folder(PYTHON, str(HERE / "rivals" / script), str(n_trials), *options)
    return Search(done.seconds, int(done.json["epochs"]))


_OURS, _LIKE = "search.run", "search.run --pruner none"
_COLUMNS = ["", "seconds", "epochs trained", f"÷ {_OURS}", f"÷ {_LIKE}"]
_PLAIN, _PLAIN_PRUNED = "plain Optuna + fit on NumPy, untracked", "… with the median pruner"
_SLOW = {  # what it is, the packages that it needs, its script
    "KerasTuner, untracked": (["keras_tuner"], "tuner.py"),
    "Ray Tune + OptunaSearch + MLflow logger, 2 at a time": (["ray", "tensorboardX"], "tune.py"),
    "tutorial: autolog + MLflowCallback": (["tensorboard"], "tutorial.py"),
}


def main(size: Size) -> None:
    """Measure and print."""
    _against_all(size, size.of(20, 4))
    _against_plain(size, size.of(200, 10))


def _against_plain(size: Size, n_trials: int) -> None:
    found = alternate(
        size.of(min(size.repeats, 2), 1),
        {
            _OURS: partial(ours, n_trials),
            _LIKE: partial(ours, n_trials, "--pruner", "none"),
            _PLAIN: partial(rival, "plain.py", n_trials),
        },
    )
    table(f"search: {n_trials} trials of blobs, whole process", _COLUMNS, _rows(found))


def _rows(results: Mapping[str, Sequence[Search]]) -> list[list[str]]:
    base, like = (median([each.seconds for each in results[name]]) for name in (_OURS, _LIKE))
    rows = []
    for name, found in results.items():
        times = [each.seconds for each in found]
        epochs = f"{median([each.epochs for each in found]):.0f}"
        rows.append([name, spread(times), epochs, ratio(median(times), base), ratio(median(times), like)])
    return rows


def _against_all(size: Size, n_trials: int) -> None:
    fast = {
        _OURS: partial(ours, n_trials),
        _PLAIN: partial(rival, "plain.py", n_trials),
        _LIKE: partial(ours, n_trials, "--pruner", "none"),
        _PLAIN_PRUNED: partial(rival, "plain.py", n_trials, "--prune"),
        "search.run --workers 1": partial(ours, n_trials, "--workers", "1"),
    }
    results = alternate(size.of(size.repeats, 1), fast)
    installed = {name: script for name, (needs, script) in _SLOW.items() if all(map(importlib.util.find_spec, needs))}
    results |= alternate(1, {name: partial(rival, script, n_trials) for name, script in installed.items()})
    rows = _rows(results)
    missing = "not installed: pip install -e '.[benchmarks]'"
    rows += [[name, missing, "", "", ""] for name in _SLOW if name not in installed]
    table(
        f"search: {n_trials} trials of blobs, whole process",
        _COLUMNS,
        rows,
        "Medians; the range of several runs in brackets. Higher ratios: the other takes that many times longer.",
    )
