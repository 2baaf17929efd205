"""`[fit] gpus`: a trial on several devices, and how a machine's GPUs are shared out among workers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import keras
import pytest

from search.training.trial import RetrainedTrial, seed_of
from search.workers.local import in_groups
from search.workers.process import Allotment
from tests.conftest import Command, command

PROGRAM = """
import keras
import numpy as np
import tensorflow as tf

X = np.random.default_rng(0).normal(size=(162, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("float32")


def load():  # 129 and 33 rows: the last batch of 16 has one row, too few for two devices
    return {"train": (X[:129], Y[:129]), "validation": (X[129:], Y[129:]), "test": (X[:33], Y[:33])}


def build(trial, data):
    stack = [keras.Input((4,)), keras.layers.Dense(trial.params["width"], activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential(stack)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["binary_accuracy"])
    return model


class Devices(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        kernel = self.model.layers[0].kernel.value
        logs["devices"] = float(len(kernel.values)) if isinstance(kernel, tf.distribute.DistributedValues) else 1.0
"""
STUDY = """
name = "mirrored"
metric = "val_loss"
direction = "minimize"

[data]
source = "program.py:load"

[model]
build = "program.py:build"

[fit]
epochs = 2
batch_size = 16
gpus = 2
shuffle = false
callbacks = ["program.py:Devices"]

[space]
width = { type = "int", low = 4, high = 4 }
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mirrored.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.heavy
def test_a_trial_on_two_devices(study: Path) -> None:
    """The model would be trained on one device alone, or its loss be NaN where a device gets no row."""
    arguments = ("mirrored.toml", "--n-trials", "1", "--workers", "1", "--json")
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "CUDA_VISIBLE_DEVICES": ""}
    done = command("search.run", *arguments, cwd=study, env=devices, cold=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["best"]["metrics"]["devices"] == 2.0
    assert found["model"]["version"] == "1"
    program = runpy.run_path(str(study / "program.py"))
    keras.utils.set_random_seed(seed_of(0, 0))
    model = program["build"](RetrainedTrial({"width": 4}, 0), None)
    parts = program["load"]()
    x, y = parts["train"]
    logs = model.fit(
        x[:128], y[:128], batch_size=16, epochs=2, shuffle=False, validation_data=parts["validation"], verbose=0
    ).history
    assert found["best"]["metrics"]["val_loss"] == pytest.approx(logs["val_loss"][-1], rel=1e-3)


def test_too_few_devices_are_told_before_anything_trains(study: Path, in_process: Command) -> None:
    """The person would train on one GPU and believe it were two."""
    done = in_process("search.run", "mirrored.toml", "--quiet", "--workers", "1", cwd=study)
    assert done.returncode == 2
    assert "fit.gpus: 2, and a worker here sees no GPU; use fewer, or leave it out" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(study.glob("*.db")) == []


def test_workers_share_out_the_gpus() -> None:
    """Two workers would train on the same GPUs while others idle."""
    assert in_groups(["0", "1", "2", "3"], 1) == ["0", "1", "2", "3"]
    assert in_groups(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    assert in_groups(["0"], 2) == ["0"]  # the worker sees one, and refuses
    assert in_groups([], 2) == []
    assert Allotment(1, "0,1").environment()["CUDA_VISIBLE_DEVICES"] == "0,1"
