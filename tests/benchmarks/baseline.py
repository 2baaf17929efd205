"""Shipped studies beside a scikit-learn baseline on the same split: test scores, not seconds.

Runs 20 trials of each study in a folder of their own, then fits the baseline on every row that is
not the study's test part, and scores both on that part. `python -m tests.benchmarks.baseline`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from search.data.loading import load
from search.studyfile.load import load_definition, shipped_studies
from tests.benchmarks.timing import Size

BASELINES = {
    "breast_cancer": ("test_binary_accuracy", LogisticRegression(max_iter=1000), accuracy_score),
    "digits": ("test_accuracy", SVC(), accuracy_score),
    "diabetes": ("test_mae", RidgeCV(np.logspace(-3, 3, 25)), mean_absolute_error),
}


def searched(study: str, n_trials: int) -> dict[str, Any]:
    """Return the JSON of a search in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "search.run", study, "--n-trials", str(n_trials), "--json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome


def baseline(study: str, estimator: Any, score: Any) -> tuple[float, int]:
    """Return the baseline's score on the study's test part, and how many rows that part has."""
    data = load(load_definition(shipped_studies()[study]))
    parts = [part for part in ([data.rest] if data.folds else [data.train, data.validation]) if part is not None]
    x, y = np.concatenate([_flat(part.x) for part in parts]), np.concatenate([np.asarray(part.y) for part in parts])
    model = make_pipeline(StandardScaler(), estimator).fit(x, y)
    assert data.test is not None
    return float(score(data.test.y, model.predict(_flat(data.test.x)))), len(data.test)


def _flat(x: Any) -> Any:
    return np.asarray(x).reshape(len(x), -1)


def main(size: Size) -> None:
    """Print the table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    n_trials = 3 if size.quick else 20
    print(f"{'study':<14} {'metric':<22} {'search':>8} {'baseline':>9}  {'rows':>5} {'seconds':>8}  estimator")
    for study, (metric, estimator, score) in BASELINES.items():
        expected, rows = baseline(study, estimator, score)
        outcome = searched(study, n_trials)
        found, seconds = outcome["best"]["metrics"][metric], outcome["seconds"]
        name = type(estimator).__name__
        print(f"{study:<14} {metric:<22} {found:>8.4f} {expected:>9.4f}  {rows:>5} {seconds:>8.1f}  {name}", flush=True)


if __name__ == "__main__":
    main(Size(quick="--quick" in sys.argv))
