"""The studies that ship: each runs from its file by the real command, and ends with a version that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.studyfile.copy import copy_study
from search.studyfile.load import load_definition, shipped_studies
from tests.conftest import command, run_json
from tests.serving import served

# Keras 3.15 converts TensorFlow variables the way NumPy 1 liked.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def run(study: str, folder: Path) -> dict[str, Any]:
    """Run three trials of a study in a folder, and return the command's JSON."""
    return run_json(study, "--n-trials", "3", cwd=folder)


def load(outcome: dict[str, Any], folder: Path, flavour: str) -> Any:
    """Load the registered version from the folder's MLflow store."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        return getattr(mlflow, flavour).load_model(outcome["model"]["uri"])
    finally:
        mlflow.set_tracking_uri(None)


def registered(outcome: dict[str, Any], study: str) -> bool:
    counts, model = outcome["n_trials"], outcome["model"]
    return sum(counts.values()) == 3 and counts["failed"] == 0 and (model["name"], model["version"]) == (study, "1")


def test_blobs(tmp_path: Path) -> None:
    """The first command of the README would fail."""
    outcome = run("blobs", tmp_path)
    assert registered(outcome, "blobs")
    assert outcome["best"]["metrics"]["test_binary_accuracy"] > 0.95


def test_breast_cancer_takes_a_raw_row(tmp_path: Path) -> None:
    """The registered model would not take the columns of the user's own table."""
    import pandas as pd

    outcome = run("breast_cancer", tmp_path)
    assert registered(outcome, "breast_cancer")
    assert outcome["best"]["metrics"]["test_binary_accuracy"] > 0.9
    table = pd.read_csv(shipped_studies()["breast_cancer"].parent / "data" / "breast_cancer.csv")
    rows = table[table.columns[1:]].iloc[[0, 19]]  # a malignant and a benign one
    # classes in order: benign 0, malignant 1
    malignant, benign = load(outcome, tmp_path, "pyfunc").predict(rows).ravel()
    assert list(table["diagnosis"].iloc[[0, 19]]) == ["malignant", "benign"]
    assert malignant > 0.5 > benign
    rows.iloc[0, 3] = None  # as a table with a gap is exported
    with served("models:/breast_cancer@challenger", tmp_path) as ask:
        answer = ask(rows.to_csv(index=False), "text/csv")
    assert answer["predictions"][0][0] > 0.5
    assert answer["predictions"][1][0] == pytest.approx(benign, rel=1e-3)


def test_digits_samples_each_depth(tmp_path: Path) -> None:
    """A conditional space, or a convolutional net of one's own, would not reach the registry."""
    outcome = run("digits", tmp_path)
    assert registered(outcome, "digits")
    params = outcome["best"]["params"]
    filters = [name for name in params if name.startswith("filters_")]
    assert len(filters) == params["depth"]
    model = load(outcome, tmp_path, "keras")
    assert model.predict(np.zeros((2, 8, 8, 1), "float32"), verbose=0).shape == (2, 10)


def test_diabetes_is_judged_by_its_folds(tmp_path: Path) -> None:
    """The value of a cross-validated trial would be some fold's."""
    outcome = run("diabetes", tmp_path)
    assert registered(outcome, "diabetes")
    metrics = outcome["best"]["metrics"]
    folds = [metrics[f"val_loss_fold_{fold}"] for fold in range(5)]
    assert outcome["best"]["value"] == pytest.approx(np.mean(folds))
    assert metrics["test_mae"] < 80


def test_reuters_on_a_local_file(tmp_path: Path) -> None:
    """The path from word numbers to topics would be tested only where there is a network."""
    studies = tmp_path / "studies"
    copy_study("wires", shipped_studies()["reuters"], studies)
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 3, 300)
    numbers = np.where(rng.random((300, 12)) < 0.5, 3 + topics[:, None], rng.integers(0, 60, (300, 12)))
    cut = {"x_train": numbers[:240], "y_train": topics[:240], "x_test": numbers[240:], "y_test": topics[240:]}
    np.savez(studies / "wires.npz", **cut)
    text = (studies / "wires.toml").read_text().replace("{ words = 2000 }", '{ words = 50, path = "wires.npz" }')
    (studies / "wires.toml").write_text(text)
    outcome = run("wires", tmp_path)
    assert registered(outcome, "wires")
    assert outcome["best"]["metrics"]["test_accuracy"] > 0.8


@pytest.mark.parametrize("study", sorted(shipped_studies()))
def test_the_file_is_named_like_its_study(study: str) -> None:
    """The name on the command line would not be the one in MLflow."""
    definition = load_definition(shipped_studies()[study])
    assert definition.name == study
    assert definition.description


def test_reviews_are_served_as_text(tmp_path: Path) -> None:
    """A study of plain texts would end with a model that takes no text."""
    outcome = run("reviews", tmp_path)
    assert registered(outcome, "reviews")
    assert outcome["best"]["metrics"]["test_binary_accuracy"] > 0.8
    model = load(outcome, tmp_path, "pyfunc")
    rows = ["Friendly staff, a quiet room, very clean.", "Rude staff, a noisy room, not clean."]
    assert model.predict(np.array(rows), params={"output": "label"}).tolist() == ["liked", "disliked"]


@pytest.mark.heavy
def test_demand_makes_its_data_for_each_trial(tmp_path: Path) -> None:
    """A window's length could not be searched or reproduced, or the version would take another trial's window."""
    outcome = run("demand", tmp_path)
    assert registered(outcome, "demand")
    window = outcome["best"]["params"]["window"]
    model = load(outcome, tmp_path, "pyfunc")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, window, 1)
    assert model.predict(np.full((2, window, 1), 2.0, "float32")).shape == (2, 1)
    assert outcome["best"]["metrics"]["test_mae"] < 0.6
    again = command("search.reproduce", outcome["best"]["run_id"], "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["same"], found["differs"]) == (True, [])


def test_tickets_answers_both_questions_by_name(tmp_path: Path) -> None:
    """Of a model of several inputs and outputs one output would be lost, or the names of all."""
    copy_study("whole", shipped_studies()["tickets"], tmp_path / "studies")
    file = tmp_path / "studies" / "whole.toml"
    text = (
        file.read_text()
        .replace("count = 900", "count = 960")
        .replace("validation_size = 0.2", "validation_size = 0.25")
    )
    file.write_text(text)  # Keras's loss of an output is a mean over batches: here all of them are whole
    outcome = run("whole", tmp_path)
    assert registered(outcome, "whole")
    metrics = outcome["best"]["metrics"]
    assert metrics["test_department_accuracy"] > 0.7
    for part in ("", "val_", "test_"):
        both = metrics[f"{part}urgency_loss"] + metrics[f"{part}department_loss"]
        assert metrics[f"{part}loss"] == pytest.approx(both, rel=1e-5), part
    tickets = {"title": np.ones((2, 6), "int32"), "text": np.ones((2, 20), "int32"), "tags": np.zeros((2, 8))}
    answer = load(outcome, tmp_path, "pyfunc").predict(tickets)
    assert {name: np.shape(each) for name, each in answer.items()} == {"urgency": (2, 1), "department": (2, 4)}
