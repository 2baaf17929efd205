"""Long trials that are killed: hours of training would be lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from search.study.storage import open_storage
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from tests.conftest import Searcher, command
from tests.faults.test_scheduler import scheduler
from tests.test_interrupt import begin

Tiny = Callable[..., Definition]

KILLED = """
import os
import signal
from pathlib import Path

import keras


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        mark = Path("{mark}")
        if epoch == 3 and {kills} and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_s_trial_goes_on_from_its_last_epoch(tiny: Tiny, run_search: Searcher, folder: Path) -> None:
    """The trial would begin anew, as another trial, and its curve stop in the middle."""
    curves = []
    for name, kills in (("whole", False), ("killed", True)):
        definition = tiny(name)
        mark = folder / f"{name}.mark"
        (definition.folder / f"{name}.py").write_text(KILLED.format(mark=mark, kills=kills))
        text = definition.path.read_text()
        callbacks = f'epochs = 6\ncheckpoint = true\ncallbacks = ["{name}.py:Kill"]'
        definition.path.write_text(text.replace("epochs = 2", callbacks))
        outcome = run_search(load_definition(definition.path), n_trials=1)
        assert outcome.n_trials == {"complete": 1, "pruned": 0, "failed": 0}
        assert mark.exists() == kills
        history = MlflowClient().get_metric_history(outcome.best.run_id, "val_loss")
        assert [metric.step for metric in history] == list(range(6))
        curves.append([metric.value for metric in history])
        study = optuna.load_study(study_name=name, storage=open_storage(f"studies/{name}.journal"))
        assert len(study.trials) == 1
        assert not list(folder.glob("studies/*.files"))
    assert curves[0] == curves[1]


def killed_once(tiny: Tiny, name: str, mark: Path, epochs: int = 6) -> Definition:
    """Return a study whose first trial kills its worker in epoch 3, once."""
    definition = tiny(name)
    (definition.folder / f"{name}.py").write_text(KILLED.format(mark=mark, kills=True))
    callbacks = f'epochs = {epochs}\ncheckpoint = true\ncallbacks = ["{name}.py:Kill"]'
    definition.path.write_text(definition.path.read_text().replace("epochs = 2", callbacks))
    return load_definition(definition.path)


WAITS = """
import time
from pathlib import Path

import keras


class Waits(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        with Path("{folder}/seen").open("a") as file:
            file.write(f"{{epoch}} ")
        while epoch == 3 and not Path("{folder}/go").exists():
            time.sleep(0.1)
"""


@pytest.mark.parametrize("then", ["resume", "anew"])
def test_ctrl_c_twice_leaves_a_checkpoint_to_its_own_study_alone(tiny: Tiny, folder: Path, then: str) -> None:
    """`--resume` could never train again; a study begun anew, on other data, went on from the old one's epochs."""
    definition = tiny("twice")
    (definition.folder / "twice.py").write_text(WAITS.format(folder=folder))
    callbacks = 'epochs = 6\ncheckpoint = true\ncallbacks = ["twice.py:Waits"]'
    definition.path.write_text(definition.path.read_text().replace("epochs = 2", callbacks))
    process = begin(folder, "twice", "--n-trials", "1", "--offline", terminal=False)
    seen = folder / "seen"
    while not seen.exists() or "3" not in seen.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    assert "Traceback" not in process.communicate(timeout=60)[0]
    assert process.returncode == 130
    (folder / "go").touch()
    seen.unlink()
    if then == "anew":
        Path("studies/twice.journal").unlink()
        definition.path.write_text(definition.path.read_text().replace("random_state = 0", "random_state = 1"))
    again = ("--resume",) if then == "resume" else ("--n-trials", "1")
    done = command("search.run", "twice", *again, "--offline", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert seen.read_text().split() == (["3", "4", "5"] if then == "resume" else ["0", "1", "2", "3", "4", "5"])
    assert ("belongs to another study named 'twice'" in done.stderr) == (then == "anew")
    trials = optuna.load_study(study_name="twice", storage=open_storage("studies/twice.journal")).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"]


def test_a_trial_ended_by_its_time_limit_leaves_no_checkpoint(tiny: Tiny, run_search: Searcher, folder: Path) -> None:
    """Gigabytes would stay beside the journal for ever."""
    definition = tiny("limited")
    sleeps = KILLED.format(mark=folder / "mark", kills=True).replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "import time; time.sleep(600)"
    )
    (definition.folder / "limited.py").write_text(sleeps)
    callbacks = 'epochs = 6\ncheckpoint = true\ncallbacks = ["limited.py:Kill"]'
    definition.path.write_text(definition.path.read_text().replace("epochs = 2", callbacks))
    outcome = run_search(load_definition(definition.path), n_trials=2, trial_timeout=8.0)
    assert outcome.n_trials == {"complete": 1, "pruned": 0, "failed": 1}
    assert (folder / "mark").exists()
    assert not list(folder.glob("studies/*.files"))


@pytest.mark.heavy
def test_on_a_cluster_a_trial_goes_on_when_its_worker_dies(
    tiny: Tiny, run_search: Searcher, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Hours of a trial would be lost to each preemption, on workers that see the study's folder."""
    definition = killed_once(tiny, "preempted", folder / "mark")
    with scheduler(tmp_path_factory.mktemp("dask")) as (address, _):
        outcome = run_search(definition, n_trials=1, cluster=address)
    assert outcome.n_trials == {"complete": 1, "pruned": 0, "failed": 0}
    assert (folder / "mark").exists()
    history = MlflowClient().get_metric_history(outcome.best.run_id, "val_loss")
    assert [metric.step for metric in history] == list(range(6))
    assert len(optuna.load_study(study_name="preempted", storage=open_storage("studies/preempted.journal")).trials) == 1
    assert not list(folder.glob("studies/*.files"))
