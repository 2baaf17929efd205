"""`search.reproduce`: a trial trained again from MLflow alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from search.errors import UsageError
from search.studyfile.load import load_definition
from search.workers import reproduction
from tests.conftest import Searcher, command

STUDY = """
name = "mine"
metric = "val_loss"
direction = "minimize"
[data]
source = "rows.py:rows"
test_size = 0.25
validation_size = 0.2
[model]
build = "parts/build.py:build"
[fit]
epochs = 3
batch_size = 8
[space]
width = { type = "int", low = 2, high = 20 }
rate = { type = "float", low = 0.001, high = 0.1, log = true }
"""
ROWS = """
import numpy as np
def rows():
    random = np.random.default_rng(5)
    x = random.normal(size=(80, 3)).astype("float32")
    return x, x.sum(axis=1) + random.normal(size=80)
"""
BUILD = """
import keras
from layers.own import activation
def build(trial, data):
    inputs, x = data.inputs()
    kind = trial.suggest_categorical("kind[0]", ["relu", "tanh"])
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(trial.params["width"], activation(kind))(x))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(trial.params["rate"]), "mse", metrics=["mae"])
    return model
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str]:
    """A folder with MLflow's store alone: the study, its code and its journal are gone; and a trial's run."""
    folder = tmp_path_factory.mktemp("reproduce")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    study = folder / "study"
    (study / "parts" / "layers").mkdir(parents=True)
    (study / "mine.toml").write_text(STUDY)
    (study / "rows.py").write_text(ROWS)
    (study / "parts" / "build.py").write_text(BUILD)
    (study / "parts" / "layers" / "__init__.py").write_text("")
    (study / "parts" / "layers" / "own.py").write_text("def activation(kind):\n    return kind\n")
    done = command("search.run", "study/mine.toml", "--n-trials", "2", "--json", "--seed", "3", cwd=folder)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(study)
    shutil.rmtree(folder / "studies", ignore_errors=True)
    return folder, json.loads(done.stdout)["best"]["run_id"]


def test_a_trial_is_the_same_to_the_last_bit_without_its_study(searched: tuple[Path, str]) -> None:
    """Nobody could show that a model comes from what MLflow says of it."""
    folder, run_id = searched
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    done = command("search.reproduce", "models:/mine@challenger", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["run_id"] == run_id
    assert told["same"] is True
    assert told["differs"] == []
    assert {"loss", "val_loss", "mae", "val_mae", "test_loss", "parameters"} <= told["metrics"].keys()
    assert all(recorded == reproduced for recorded, reproduced in told["metrics"].values())
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    assert after == before, "nothing is written where the models are"


def test_what_differs_is_named(searched: tuple[Path, str]) -> None:
    """A trial that cannot be repeated would leave its owner guessing: the data, the versions, the machine?"""
    folder, run_id = searched
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        client = MlflowClient()
        above = client.get_run(run_id).data.tags["mlflow.parentRunId"]
        place = next(folder.glob(f"mlruns/*/{above}/artifacts/origin"))
        kept = (place / "files" / "rows.py").read_text()
        description = (place / "origin.json").read_text()
        (place / "files" / "rows.py").write_text(kept.replace("default_rng(5)", "default_rng(6)"))
        (place / "origin.json").write_text(description.replace('"optuna": "', '"optuna": "0.'))
        try:
            done = command("search.reproduce", run_id, cwd=folder)
        finally:
            (place / "files" / "rows.py").write_text(kept)
            (place / "origin.json").write_text(description)
    finally:
        mlflow.set_tracking_uri(None)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("Differs: trial")
    assert "data digest" in done.stdout
    assert "optuna 0." in done.stdout
    assert "val_loss: " in done.stdout
    assert "in epoch 1, now" in done.stdout


def test_what_is_no_trial_is_told_in_a_line(searched: tuple[Path, str]) -> None:
    """A mistyped run would end in MLflow's traceback."""
    folder, run_id = searched
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        with pytest.raises(UsageError, match="no run 'abc' in MLflow"):
            reproduction.reproduce("abc")
        above = MlflowClient().get_run(run_id).data.tags["mlflow.parentRunId"]
        with pytest.raises(UsageError, match=f"run '{above}' is not a trial's"):
            reproduction.reproduce(above)
    finally:
        mlflow.set_tracking_uri(None)


def test_uncommitted_changes_are_kept_without_secrets(
    folder: Path, run_search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit would be known, and not what was changed since; or a password be in everybody's MLflow."""
    import subprocess

    (folder / "rows.py").write_text(ROWS)
    (folder / "tiny.toml").write_text(STUDY.replace("parts/build.py:build", "mlp").replace("rate =", "learning_rate ="))
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for arguments in (["init", "-q"], ["add", "rows.py", "tiny.toml"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (folder / "rows.py").write_text(f"{ROWS}\n# at http://me:hunter2@example.org/\n")
    outcome = run_search(load_definition(folder / "tiny.toml"), n_trials=1)
    place = Path(mlflow.artifacts.download_artifacts(run_id=outcome.search_run_id, artifact_path="origin"))
    patch = (place / "uncommitted.patch").read_text()
    assert "example.org" in patch
    assert "hunter2" not in patch
    assert len(json.loads((place / "origin.json").read_text())["commit"]) == 40
