"""Searches that are interrupted or killed: nothing finished is lost, and the rest can be finished."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from search.study.storage import open_storage
from search.studyfile.schema import Definition
from tests.conftest import begin as started
from tests.conftest import command, run_json

Tiny = Callable[..., Definition]
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def begin(folder: Path, *args: str, terminal: bool = True) -> subprocess.Popen[str]:
    return started(
        "search.run",
        *args,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "FORCE_COLOR": "1"} if terminal else None,
        start_new_session=True,
    )


def wait_for_trials(name: str, count: int, state: TrialState = TrialState.COMPLETE) -> None:
    journal = Path("studies") / f"{name}.journal"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if journal.exists():
            try:
                study = optuna.load_study(study_name=name, storage=open_storage(str(journal)))
            except KeyError:  # the journal is there, the study not yet
                time.sleep(0.1)
                continue
            if len(study.get_trials(deepcopy=False, states=(state,))) >= count:
                return
        time.sleep(0.1)
    raise AssertionError("the search did not come so far")


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.heavy)])
def test_resume_finishes_what_was_begun(tiny: Tiny, folder: Path, end: signal.Signals) -> None:
    """If this fails, a reboot in the night costs the night, or leaves trials RUNNING for ever."""
    tiny("night", more='\n[search]\npruner = "none"\n')
    process = begin(folder, "night", "--n-trials", "12", "--workers", "2")
    wait_for_trials("night", 3)
    process.send_signal(end)
    printed, _ = process.communicate(timeout=60)
    if end == signal.SIGINT:
        assert process.returncode == 130
        told = ANSI.sub("", printed).rpartition("Best of study night")[2]
        assert "Interrupted: everything finished so far is kept.\n" in told
        assert "  python -m search.run night --workers 2 --resume\n" in told
        assert "error" not in told
        assert not set("━╌") & set(told), "the bar that moves is gone before the results are printed"
        client = MlflowClient()
        experiment = client.get_experiment_by_name("night")
        assert experiment is not None
        assert not client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    resumed = run_json("night", "--resume", "--workers", "2", cwd=folder)
    study = optuna.load_study(study_name="night", storage=open_storage("studies/night.journal"))
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states.count(TrialState.COMPLETE) == 12, "the budget of the interrupted search, no more"
    assert TrialState.RUNNING not in states
    client = MlflowClient()
    runs = client.search_runs([resumed["experiment_id"]], max_results=100)
    assert {run.info.status for run in runs if "kind" in run.data.tags} == {"FINISHED"}
    assert sum(run.data.tags.get("state") == "COMPLETE" for run in runs) == 12
    checked = command("search.sync", "night", "--check", cwd=folder)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert not [run for run in runs if run.info.status == "RUNNING"]
    nothing = command("search.run", "night", "--resume", cwd=folder)
    assert nothing.returncode == 2
    assert "has no interrupted search" in nothing.stderr


WAITS = """
import time

from search.training.model import mlp


def build(trial, data):
    time.sleep(600)
    return mlp(trial, data)
"""


def test_workers_do_not_outlive_a_killed_search(tiny: Tiny, folder: Path) -> None:
    """If this fails, killed searches leave processes that eat the machine, and write to a study that goes on."""
    tiny("orphans", "waits.py:build", WAITS.replace("sleep(600)", "sleep(600 if trial.number else 0)"))
    process = begin(folder, "orphans", "--n-trials", "9", "--workers", "2")
    wait_for_trials("orphans", 1, TrialState.COMPLETE)
    wait_for_trials("orphans", 2, TrialState.RUNNING)
    assert len(_alive_in_group(process.pid)) >= 4, "the search, the server, two workers"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    deadline = time.monotonic() + 15  # far less than what its trials wait
    while time.monotonic() < deadline and _alive_in_group(process.pid):
        time.sleep(0.1)
    assert not _alive_in_group(process.pid)


def _alive_in_group(group: int) -> list[str]:
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            alive.append(stat.parent.name)
    return alive


TRAINS_LONG = """
import time

import keras


class Waits(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        time.sleep(600)
"""


def test_sigterm_before_the_first_complete_trial_is_told_by_the_exit_status(tiny: Tiny, folder: Path) -> None:
    """A cluster's scheduler that ends a job would read that somebody pressed Ctrl-C."""
    definition = tiny("early", more="\n")
    (definition.folder / "waits.py").write_text(TRAINS_LONG)
    text = definition.path.read_text().replace("epochs = 2", 'epochs = 2\ncallbacks = ["waits.py:Waits"]')
    definition.path.write_text(text)
    process = begin(folder, "early", "--n-trials", "2", "--workers", "1", terminal=False)
    wait_for_trials("early", 1, TrialState.RUNNING)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
