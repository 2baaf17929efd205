"""A running search is steered from elsewhere: by another process, by optuna-dashboard in a real browser."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from search.study import attributes, orders
from search.study.storage import open_storage
from search.studyfile.schema import Definition
from search.training.result import TrialResult
from tests.browser import DIRECT, opened, text, until
from tests.conftest import begin, command

Tiny = Callable[..., Definition]

SLOW = """
import time

import keras


class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(0.5)
"""


class Steered:
    """A search of forty slow trials in a process of its own, and its study as anybody sees it."""

    def __init__(self, definition: Definition, folder: Path) -> None:
        self.folder, self.name = folder, definition.name
        (definition.folder / "slow.py").write_text(SLOW)
        content = definition.path.read_text().replace("epochs = 2", 'epochs = 16\ncallbacks = ["slow.py:Slow"]')
        definition.path.write_text(content + '\n[search]\npruner = "none"\nsampler = "random"\n')
        arguments = (self.name, "--n-trials", "40", "--workers", "2", "--json")
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = begin("search.run", *arguments, cwd=folder, **streams)
        self.url = str(folder / "studies" / f"{self.name}.journal")
        self.wait(lambda: Path(self.url).exists())
        self.study = self.wait(lambda: optuna.load_study(study_name=self.name, storage=open_storage(self.url)))
        self.wait(lambda: len(self.running()) == 2)

    def wait(self, true: Callable[[], Any]) -> Any:
        """Return what a condition gives once that is true, while the search runs."""
        while self.process.poll() is None:
            with suppress(KeyError):  # the journal is there, the study not yet
                if found := true():
                    return found
            time.sleep(0.2)
        raise AssertionError(self.process.communicate())

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def running(self) -> list[int]:
        return [trial.number for trial in self.trials() if trial.state == TrialState.RUNNING]

    def reason(self, number: int) -> str:
        outcome = attributes.outcome_of(self.trials()[number])
        return TrialResult.from_text(outcome).reason if outcome is not None else ""

    def do(self, module: str, *arguments: str) -> dict[str, Any]:
        """Give an order as a person in another terminal does."""
        done = command(module, self.name, *arguments, "--json", cwd=self.folder)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def ends(self) -> dict[str, Any]:
        printed, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        found: dict[str, Any] = json.loads(printed)
        return found

    def run_of(self, search_run: str, number: int) -> Any:
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_run(search_run).info.experiment_id
        (run,) = client.search_runs([experiment], f"tags.trial = '{number}'")
        return run


def test_a_search_is_steered_by_another_process(tiny: Tiny, folder: Path) -> None:
    """A person who sees a mistake in a running search could only kill it."""
    steered = Steered(tiny("slow"), folder)
    steered.study.enqueue_trial({"width": 77})
    stopped = steered.running()[0]
    steered.do("search.stop", "--trial", str(stopped), "--reason", "diverges")
    steered.wait(lambda: any(trial.params == {"width": 77} for trial in steered.trials()))
    steered.wait(lambda: steered.trials()[stopped].state == TrialState.PRUNED)
    assert steered.reason(stopped).endswith(": diverges")
    enqueued = next(trial.number for trial in steered.trials() if trial.params == {"width": 77})
    steered.wait(lambda: steered.trials()[enqueued].state == TrialState.COMPLETE)
    failed = steered.running()[0]
    steered.study.tell(failed, state=TrialState.FAIL)
    steered.wait(lambda: len(steered.running()) == 2)
    steered.do("search.stop", "--now", "--reason", "good enough")
    outcome = steered.ends()
    assert outcome["stopped"].endswith(": good enough")
    assert sum(outcome["n_trials"].values()) == len(steered.trials()) < 40
    assert not steered.running()
    assert steered.run_of(outcome["search_run_id"], stopped).info.status == "KILLED"
    assert steered.run_of(outcome["search_run_id"], failed).info.status == "FAILED"
    assert outcome["model"]["alias"] == "challenger"
    best = outcome["best"]["number"]
    steered.do("search.exclude", str(best), "--reason", "leaked")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    version = client.get_model_version("slow", "1")
    assert version.tags["excluded"].endswith(": leaked")
    assert version.description.startswith("**Its trial is excluded: excluded by ")
    assert not version.aliases
    assert steered.run_of(outcome["search_run_id"], best).data.tags["excluded"].endswith(": leaked")
    checked = command("search.sync", "slow", "--check", cwd=folder)
    assert checked.returncode == 0, checked.stdout
    steered.do("search.exclude", str(best), "--undo")
    assert not orders.excluded(optuna.load_study(study_name="slow", storage=open_storage(steered.url)))
    refused = command("search.stop", "slow", cwd=folder)
    assert (refused.returncode, refused.stderr) == (2, "error: study 'slow': no search runs\n")


def test_a_paused_search_is_resumed(tiny: Tiny, folder: Path) -> None:
    """Whoever needs the machine for an hour would have to find the terminal of the search."""
    steered = Steered(tiny("pauses"), folder)
    steered.wait(lambda: any(trial.state == TrialState.COMPLETE for trial in steered.trials()))
    steered.do("search.stop", "--pause", "--now")
    assert steered.ends()["stopped"].startswith("paused by ")
    resumed = begin("search.run", "pauses", "--resume", "--workers", "2", cwd=folder)
    until(lambda: len(steered.running()) == 2)
    assert sum(trial.state == TrialState.COMPLETE for trial in steered.trials()) < 40
    steered.do("search.stop", "--now")
    assert resumed.wait(120) == 0
    checked = command("search.sync", "pauses", "--check", cwd=folder)
    assert checked.returncode == 0, checked.stdout


@contextmanager
def dashboard(journal: str, folder: Path) -> Iterator[str]:
    """Serve optuna-dashboard, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).parent / "optuna-dashboard"
    program = program if program.exists() else Path(shutil.which("optuna-dashboard") or program)
    with (folder / "dashboard.log").open("w") as log:
        server = subprocess.Popen([program, journal, "--port", str(port)], stdout=log, stderr=log)
        try:
            until(lambda: DIRECT.open(f"http://127.0.0.1:{port}/", timeout=5).status == 200)
            yield f"http://127.0.0.1:{port}/dashboard"
        finally:
            server.terminate()
            server.wait(30)


@pytest.mark.heavy
def test_a_trial_is_failed_by_optuna_dashboards_button(tiny: Tiny, folder: Path) -> None:
    """A click on the button that a running trial has there would end the search in the night."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    pytest.importorskip("optuna_dashboard")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    steered = Steered(tiny("clicked"), folder)
    with dashboard(steered.url, folder) as address, opened(chromium, driver, folder / "profile") as browser:

        def click() -> list[int]:
            """Fail a trial that runs, while it does; a list is true, a trial's number may be 0."""
            number = steered.running()[0]
            browser.get(f"{address}/studies/0/trials?numbers={number}")
            until(lambda: f"Trial {number} (trial_id=" in text(browser))
            (button,) = [each for each in browser.find_elements("css selector", "button") if each.text == "FAIL TRIAL"]
            button.click()
            steered.wait(lambda: steered.trials()[number].state != TrialState.RUNNING)
            assert steered.trials()[number].state == TrialState.FAIL
            return [number]

        (failed,) = until(click)
    steered.wait(lambda: len(steered.running()) == 2)
    steered.wait(lambda: any(trial.state == TrialState.COMPLETE for trial in steered.trials()))
    steered.do("search.stop", "--now")
    outcome = steered.ends()
    assert outcome["n_trials"]["failed"] == 1
    assert steered.run_of(outcome["search_run_id"], failed).info.status == "FAILED"
    width = steered.trials()[failed].params
    assert [trial.number for trial in steered.trials() if trial.params == width] == [failed], "it is not tried again"
