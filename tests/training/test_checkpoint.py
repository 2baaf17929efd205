"""A killed trial goes on from its last epoch, as if it had not been killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import optuna
import pytest

from search.study import space
from search.studyfile.schema import Definition
from search.training import checkpoint, trial
from search.training.fit import BATCHES, WHOLE_EPOCHS
from search.training.result import Epoch, TrialResult
from tests.training.test_trial import study_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

WATCHES = """
import keras
class PerBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass
"""
DROPS = {"width": 4, "dropout": 0.4, "optimizer": "adam"}


class Study:
    """A study of one trial, which may be run several times."""

    def __init__(self, definition: Definition, pruner: optuna.pruners.BasePruner | None = None) -> None:
        from search.data.loading import load

        self.definition, self.data = definition, load(definition)
        sampler = optuna.samplers.RandomSampler(seed=0)
        self.study = optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner())
        self.trial = self.study.ask(space.distributions(definition))

    def run(self, checkpoints: Path, stopped_after: int = 0) -> TrialResult:
        def on_epochs(epochs: list[Epoch]) -> None:
            if len(epochs) == stopped_after:
                raise trial.TrialStopped("killed")

        again = optuna.trial.Trial(self.study, self.trial._trial_id)  # as another worker opens it
        return trial.run(
            self.definition,
            self.data,
            again,
            seed=7,
            is_kept=lambda values: True,
            on_epochs=on_epochs,
            checkpoints=checkpoints,
        )


def killed_and_whole(folder: Path, **tables: Any) -> tuple[Study, TrialResult, TrialResult]:
    """Run a trial that is killed in its fifth epoch and goes on, and one that is not killed."""
    fit = {"epochs": 8, "checkpoint": True, **tables.pop("fit", {})}
    study = Study(study_of(folder, WATCHES, model=DROPS, fit=fit, **tables))
    assert study.run(folder / "checkpoints", stopped_after=5).fate == "died"
    assert list(study.study.trials[0].intermediate_values) == [0, 1, 2, 3]
    went_on = study.run(folder / "checkpoints")
    whole = Study(study.definition).run(folder / "others")
    return study, went_on, whole


@pytest.mark.parametrize("path", [WHOLE_EPOCHS, BATCHES])
def test_a_killed_trial_goes_on_bit_by_bit(tmp_path: Path, path: str) -> None:
    """A long trial would begin anew after a kill, or end as another model."""
    fit = {"callbacks": ["user.py:PerBatch"]} if path == BATCHES else {}
    study, went_on, whole = killed_and_whole(tmp_path, fit=fit)
    assert went_on.fate == "complete", went_on.traceback
    assert went_on.path.startswith(path)
    assert [epoch.step for epoch in went_on.epochs] == list(range(8))  # no gap, and no point twice
    assert [epoch.logs for epoch in went_on.epochs] == [epoch.logs for epoch in whole.epochs]
    assert went_on.values == whole.values
    assert {k: v for k, v in went_on.metrics.items() if k.startswith("test")} == {
        k: v for k, v in whole.metrics.items() if k.startswith("test")
    }
    assert list(study.study.trials[0].intermediate_values) == list(range(8))


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_early_stopping_and_schedules_go_on_too(tmp_path: Path, schedule: str) -> None:
    """The restored epoch would be another, or the learning rate begin anew."""
    fit = {
        "learning_rate_schedule": {"type": schedule, "patience": 1},
        "early_stopping": {"patience": 2, "min_delta": 0.02},
    }
    _, went_on, whole = killed_and_whole(tmp_path, fit=fit)
    assert [epoch.logs for epoch in went_on.epochs] == [epoch.logs for epoch in whole.epochs]
    assert went_on.metrics["best_epoch"] == whole.metrics["best_epoch"]
    assert went_on.values == whole.values


def test_a_state_half_written_is_not_used(tmp_path: Path) -> None:
    """A kill while saving would end the trial for good."""
    study = Study(study_of(tmp_path, WATCHES, model=DROPS, fit={"epochs": 8, "checkpoint": True}))
    half = tmp_path / "checkpoints" / "only" / ".000000003-abc" / "000000003"
    half.mkdir(parents=True)
    (half / "latest.weights.h5").write_bytes(b"half")
    assert study.run(tmp_path / "checkpoints").fate == "complete"


def test_a_damaged_state_costs_the_epochs_and_a_full_disk_nothing(tmp_path: Path) -> None:
    """A power failure, or a disk that is full, would fail a configuration that is good."""
    study = Study(study_of(tmp_path, WATCHES, model=DROPS, fit={"epochs": 4, "checkpoint": True}))
    folder = tmp_path / "checkpoints"
    assert study.run(folder, stopped_after=3).fate == "died"
    (state,) = (folder / "only").glob("*/state.pickle")
    state.write_bytes(b"")
    damaged = study.run(folder)
    assert (damaged.fate, damaged.reason[:28]) == ("died", "its checkpoint is damaged (E")
    assert not (folder / "only").exists()
    folder.rmdir()
    folder.touch()  # nothing can be written in it
    assert study.run(folder).fate == "complete"


@pytest.mark.parametrize(("wanted", "saved"), [("auto", False), (False, False), (True, True)])
def test_short_epochs_are_not_saved(tmp_path: Path, wanted: Any, saved: bool) -> None:
    """Every epoch of a hundredth of a second would write a model."""
    study = Study(study_of(tmp_path, WATCHES, model=DROPS, fit={"epochs": 3, "checkpoint": wanted}))
    study.run(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints").exists() == saved


NOISE = """
import keras
class Noise(keras.layers.Layer):
    def call(self, x, training=None):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x
def build(trial, data):
    model = keras.Sequential([keras.Input((2,)), Noise(), keras.layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    return model
"""


def test_what_is_drawn_without_a_seed_goes_on_too(tmp_path: Path) -> None:
    """The noise of the first epochs would come again after a kill."""
    study = Study(study_of(tmp_path, NOISE, model={"build": "user.py:build"}, fit={"epochs": 8, "checkpoint": True}))
    assert study.run(tmp_path / "checkpoints", stopped_after=5).fate == "died"
    went_on = study.run(tmp_path / "checkpoints")
    whole = Study(study.definition).run(tmp_path / "others")
    assert went_on.fate == "complete", went_on.reason
    assert [epoch.logs for epoch in went_on.epochs] == [epoch.logs for epoch in whole.epochs]


def test_the_time_before_a_kill_counts(tmp_path: Path) -> None:
    """A trial of an hour would meet `train_seconds <= 600` because its worker died at the end."""
    code = "import time\nimport keras\nclass Slow(keras.callbacks.Callback):\n"
    code += "    def on_epoch_begin(self, epoch, logs=None):\n        time.sleep(0.1)\n"
    fit = {"epochs": 8, "checkpoint": True, "callbacks": ["user.py:Slow"]}
    study = Study(study_of(tmp_path, code, fit=fit))
    study.run(tmp_path / "checkpoints", stopped_after=7)
    assert study.run(tmp_path / "checkpoints").metrics["train_seconds"] > 0.7


def test_paths_of_the_dead_process_are_not_restored(tmp_path: Path) -> None:
    """A callback would write to a folder that nobody removes, or that another machine cannot make."""
    kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "own" / "best.keras"))
    kept.best = 0.5
    counted = checkpoint._counted(kept, str(tmp_path / "own"))
    assert counted["best"] == 0.5
    assert "filepath" not in counted
