"""A night with one long training: watched as it goes, stopped by hand, killed with its container, short of time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from search.study.storage import open_storage
from search.studyfile.schema import Definition
from tests.conftest import begin, run_json

Tiny = Callable[..., Definition]
EPOCHS = 14
SLOW = """
import time

import keras


class Slow(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        time.sleep(1.2)
"""


def epochs_shown(name: str) -> list[int]:
    """Return the epochs of trial 0 that MLflow shows now."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    first = client.search_runs([experiment.experiment_id], "tags.trial = '0'") if experiment else []
    return [each.step for each in client.get_metric_history(first[0].info.run_id, "val_loss")] if first else []


def begun(folder: Path, count: int, *arguments: str) -> Any:
    """Start the search, and return its process once MLflow shows so many epochs of its trial."""
    process = begin("search.run", "night", "--n-trials", "2", "--workers", "1", *arguments, cwd=folder)
    deadline = time.monotonic() + 200
    while len(epochs_shown("night")) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline, "MLflow does not show a running trial's epochs"
        time.sleep(0.5)
    return process


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_a_training_of_a_night_survives_it(tiny: Tiny, folder: Path) -> None:
    """Hours on a GPU would be lost to a person's Ctrl-C, a container's restart, or a limit of time."""
    definition = tiny("night", more='\n[search]\npruner = "none"\n')
    (definition.folder / "slow.py").write_text(SLOW)
    slow = f'epochs = {EPOCHS}\ncheckpoint = true\ncallbacks = ["slow.py:Slow"]'
    definition.path.write_text(definition.path.read_text().replace("epochs = 2", slow))
    stopped = begun(folder, 2)
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    before = len(epochs_shown("night"))
    process = begin("search.run", "night", "--resume", "--workers", "1", cwd=folder)
    while len(epochs_shown("night")) < before + 2:
        assert process.poll() is None
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    ended = run_json("night", "--resume", "--workers", "1", "--timeout", "15", cwd=folder)
    assert ended["model"]["version"] == "1", "what the time allowed is handed over"
    assert epochs_shown("night") == list(range(EPOCHS)), "each epoch is shown once"
    study = optuna.load_study(study_name="night", storage=open_storage("studies/night.journal"))
    assert study.trials[0].state.name == "COMPLETE"
    assert not list(Path("studies").glob("night.*.files"))
