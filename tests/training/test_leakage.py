"""Nothing that a validation or test row holds is seen by a trial's training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from search.data.dataset import Data
from search.data.loading import load
from search.study import space
from search.training import trial
from search.training.result import TrialResult
from tests.studyfiles import definition

ROWS = 90
BASE = {
    "model.build": "mlp",
    "data.source": "csv:rows.csv",
    "data.options": None,
    "data.target": "y",
    "data.test_size": 0.3,
    "data.validation_size": 0.2,
    "space.epochs.high": 2,
    "space.dropout": None,
}
SPLITS: dict[str, dict[str, Any]] = {
    "table": {},
    "folds": {"data.folds": 3},
    "group": {"data.group": "who"},
    "group folds": {"data.group": "who", "data.folds": 3},
    "time": {"data.time": "when"},
    "time folds": {"data.time": "when", "data.folds": 3},
    "weighted": {"data.sample_weight": "weight"},
}


def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    size = random.normal(size=ROWS)
    return pd.DataFrame(
        {
            "id": np.arange(ROWS) / ROWS,  # says which row it is, wherever it ends up
            "size": np.where(random.random(ROWS) < 0.1, np.nan, size),
            "city": random.choice(["Bern", "Kiel", "Rome"], ROWS),
            "who": random.integers(0, 20, ROWS).astype(str),
            "when": random.permutation(ROWS),
            "weight": random.uniform(0.5, 2, ROWS),
            "y": size + random.normal(size=ROWS),
        }
    )


def ids(x: Any) -> set[int]:
    """Return which rows these are."""
    numeric = x["numeric"] if isinstance(x, dict) else x
    return {round(float(each) * ROWS) for each in numeric[:, 0]}


def spoilt(rows: set[int]) -> pd.DataFrame:
    """Return the table with other values in these rows: numbers, gaps, categories, targets, weights."""
    frame, at = table(), sorted(rows)
    frame.loc[at, "size"] = np.where(np.arange(len(at)) % 3 == 0, np.nan, 1e6)
    frame.loc[at, "city"] = "Nowhere"
    frame.loc[at, "y"] = -1e3
    frame.loc[at, "weight"] = 50.0
    return frame


def trained(changes: dict[str, Any], folder: Path, frame: pd.DataFrame) -> tuple[Data, TrialResult]:
    frame = frame if "data.sample_weight" in changes else frame.drop(columns="weight")
    frame = frame if "data.group" in changes else frame.drop(columns="who")
    frame = frame if "data.time" in changes else frame.drop(columns="when")
    frame.to_csv(folder / "rows.csv", index=False)
    study_file = definition(BASE | changes, folder=folder)
    data = load(study_file)
    assert isinstance(data, Data)
    study = optuna.create_study()
    study.enqueue_trial({"epochs": 2, "batch_size": 16})
    asked = study.ask(space.distributions(study_file))
    result = trial.run(study_file, data, asked, seed=0, is_kept=lambda _: False, on_epochs=lambda _: None)
    assert result.fate == "complete", result.reason
    return data, result


def losses(result: TrialResult, part: str = "") -> list[tuple[int, float]]:
    """Return the training losses of all trainings, or of one."""
    return [
        (epoch.step, value)
        for epoch in result.epochs
        for name, value in epoch.logs.items()
        if name.rpartition("/")[2] == "loss" and name.startswith(part)
    ]


@pytest.mark.parametrize(
    "split", [pytest.param(each, marks=[pytest.mark.heavy] * each.endswith(" folds")) for each in SPLITS]
)
def test_validation_and_test_rows_do_not_influence_training(split: str, tmp_path: Path) -> None:
    """A study's scores would be better than the model is, and nobody could tell."""
    changes = SPLITS[split]
    data, plain = trained(changes, tmp_path, table())
    assert data.test is not None
    test = ids(data.test.x)
    again, other = trained(changes, tmp_path, spoilt(test))
    assert again.test is not None
    assert ids(again.test.x) == test
    assert losses(other) == losses(plain), "test rows are seen by training"
    assert other.metrics["test_loss"] != plain.metrics["test_loss"], "the rows were spoilt"
    fold = data.fold(0) if data.folds else data
    assert fold.validation is not None
    _, other = trained(changes, tmp_path, spoilt(ids(fold.validation.x) | test))
    part = "fold_0/" if data.folds else ""
    assert losses(other, part) == losses(plain, part), "validation rows are seen by training"
    validated = [epoch.logs[f"{part}val_loss"] for epoch in plain.epochs if f"{part}val_loss" in epoch.logs]
    assert validated != [epoch.logs[f"{part}val_loss"] for epoch in other.epochs if f"{part}val_loss" in epoch.logs]


def test_arrays_are_not_seen_either(tmp_path: Path) -> None:
    """Scaling would be fitted on all rows, the held-out ones too."""
    random = np.random.default_rng(0)
    x = np.column_stack([np.arange(ROWS) / ROWS, random.normal(size=(ROWS, 3))])
    y = x.sum(axis=1)

    def run(x: Any, y: Any) -> tuple[Data, TrialResult]:
        np.savez(tmp_path / "rows.npz", x=x, y=y)
        changes = {**BASE, "data.source": "npz:rows.npz", "data.normalize": True}
        del changes["data.target"]
        study_file = definition(changes, folder=tmp_path)
        data = load(study_file)
        assert isinstance(data, Data)
        study = optuna.create_study()
        study.enqueue_trial({"epochs": 2, "batch_size": 16})
        asked = study.ask(space.distributions(study_file))
        return data, trial.run(study_file, data, asked, seed=0, is_kept=lambda _: False, on_epochs=lambda _: None)

    data, plain = run(x, y)
    assert data.test is not None
    assert data.validation is not None
    held_out = sorted(ids(data.test.x) | ids(data.validation.x))
    x, y = x.copy(), y.copy()
    x[held_out, 1:], y[held_out] = 1e6, -1e3
    _, other = run(x, y)
    assert losses(other) == losses(plain)
    assert other.recorded["val_loss"] != plain.recorded["val_loss"]
