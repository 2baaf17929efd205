"""Runs trials that train nothing on one storage, and prints the seconds as JSON.

    python store.py URL search|optuna N_TRIALS

`search` opens the storage as a search does, `optuna` hands the URL to `optuna.load_study`. A trial
samples three parameters and reports 20 values, asking the pruner after each.
"""

from __future__ import annotations

import json
import sys
import time

import optuna

from search.study.storage import open_storage


def main() -> None:
    """Load the study, wait for a line on standard input, run the trials, print the seconds."""
    url, how, n_trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name="cost",
        storage=open_storage(url) if how == "search" else url,
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10**6),  # asked each time, never prunes
    )
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    for _ in range(n_trials):
        trial = study.ask()
        trial.suggest_float("a", 0, 1)
        trial.suggest_int("b", 1, 100)
        trial.suggest_categorical("c", ["x", "y"])
        for step in range(20):
            trial.report(1 / (step + 1), step)
            trial.should_prune()
        study.tell(trial, 0.5)
    print(json.dumps(time.perf_counter() - started))


if __name__ == "__main__":
    main()
