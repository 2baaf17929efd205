"""Systems without fork, its server, signals and links, as Windows and macOS: see `other/sitecustomize.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from search.study.storage import open_storage
from search.studyfile.schema import Definition
from tests.conftest import command

Tiny = Callable[..., Definition]
OTHER = {"PYTHONPATH": str(Path(__file__).parent / "other")}

KILLS = """
import os
import time
from pathlib import Path

from search.training.model import mlp


def build(trial, data):
    if trial.number == 1 and not Path("{folder}/killed").exists():
        Path("{folder}/killed").touch()
        os._exit(9)
    while trial.number == 2 and not Path("{folder}/go").exists():
        time.sleep(0.1)
    return mlp(trial, data)
"""


def test_nothing_is_missed_that_other_systems_lack() -> None:
    """On Windows not even `--help` would run."""
    code = (
        "import os, signal, pkgutil, importlib, search, search.workers.process as p; assert not p._FORKS\n"
        "names = [m.name for m in pkgutil.walk_packages(search.__path__, 'search.')]\n"
        "[importlib.import_module(n) for n in names if 'preload' not in n]\n"
        "print(len(names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **OTHER},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.heavy
@pytest.mark.timeout(900)  # each of some eight processes imports TensorFlow
def test_the_main_job_a_kill_and_a_resume(tiny: Tiny, folder: Path) -> None:
    """Whoever learns Keras on Windows could train nothing; or a closed laptop would lose the night."""
    tiny("elsewhere", "kills.py:build", KILLS.format(folder=folder))
    arguments = ["elsewhere", "--n-trials", "4", "--workers", "1"]
    searching = subprocess.Popen(
        [sys.executable, "-m", "search.run", *arguments],
        cwd=folder,
        env={**os.environ, **OTHER},
        stderr=subprocess.PIPE,
    )
    while _state(2) != "RUNNING":
        assert searching.poll() is None, searching.stderr and searching.stderr.read()
        time.sleep(0.2)
    searching.send_signal(signal.SIGKILL)
    searching.communicate(timeout=60)
    (folder / "go").touch()
    resumed = command("search.run", "elsewhere", "--resume", cwd=folder, env=OTHER, cold=True, limit=600)
    assert resumed.returncode == 0, resumed.stderr
    study = optuna.load_study(study_name="elsewhere", storage=open_storage("studies/elsewhere.journal"))
    assert [trial.state.name for trial in study.trials].count("COMPLETE") == 4
    assert [trial.state.name for trial in study.trials].count("FAIL") == 2, "the worker that died, the search that did"
    promoted = command("search.promote", "elsewhere", cwd=folder, env=OTHER, cold=True)
    assert promoted.returncode == 0, promoted.stderr
    assert str(MlflowClient().get_model_version_by_alias("elsewhere", "champion").version) == "1"


def _state(number: int) -> str:
    journal = Path("studies/elsewhere.journal")
    if not journal.exists():
        return ""
    try:
        trials = optuna.load_study(study_name="elsewhere", storage=open_storage(str(journal))).trials
    except KeyError:
        return ""
    return trials[number].state.name if len(trials) > number else ""
