"""Long trials that are killed: hours of training would be lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
from mlflow import MlflowClient

from search.study.storage import open_storage
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from tests.conftest import Searcher

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
