"""How long until something happens, against importing the frameworks alone (1 minute).

The base is `python -c 'import tensorflow, mlflow'`: what any script of this kind waits for before
its first line runs.
"""

from __future__ import annotations

import time

import optuna

from search.study.storage import open_storage
from tests.benchmarks.timing import (
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

_BASE = "python -c 'import tensorflow, mlflow'"
_SEARCH = (PYTHON, "-m", "search.run")


def first_trial() -> tuple[float, float, float]:
    """Return the seconds until the first trial began, until one was done, and until the exit."""
    with empty_folder() as folder:
        started = time.time()
        done = run(*_SEARCH, "--n-trials", "2", folder=folder, until="[1/")
        study = optuna.load_study(study_name="blobs", storage=open_storage(str(folder / "studies" / "blobs.journal")))
        began = study.get_trials(deepcopy=False)[0].datetime_start
        assert began is not None
        assert done.first_line is not None
        return began.timestamp() - started, done.first_line, done.seconds


def main(size: Size) -> None:
    """Measure and print."""
    results = alternate(
        size.of(5, 1),
        {
            _BASE: lambda: in_empty_folder(PYTHON, "-c", "import tensorflow, mlflow").seconds,
            "python -m search.run --help": lambda: in_empty_folder(*_SEARCH, "--help").seconds,
            "a wrong flag": lambda: in_empty_folder(*_SEARCH, "--sampler", "tpo", status=2).seconds,
            "a study that is not there": lambda: in_empty_folder(*_SEARCH, "blob", status=2).seconds,
            "search.run": first_trial,
        },
    )
    for index, name in enumerate(("first trial begins", "first trial is done", "search of 2 trials, exit")):
        results[f"search.run: {name}"] = [times[index] for times in results["search.run"]]
    del results["search.run"]
    base = median(results[_BASE])
    rows = [[name, spread(times), ratio(median(times), base)] for name, times in results.items()]
    table("startup: from the command to …", ["", "seconds", "÷ the imports"], rows)
