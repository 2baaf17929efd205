"""Keras on another backend than TensorFlow: the whole search, by Keras's own `fit`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from search.study.attributes import outcome_of
from search.study.create import load
from search.training.fit import PLAIN
from search.training.result import TrialResult
from tests.conftest import command

# Loads a model where TensorFlow cannot be imported, and says by what it is served, and whether it would be installed.
SERVED = """
import importlib.machinery
import sys

find = importlib.machinery.PathFinder.find_spec


def without_tensorflow(name, path=None, target=None):
    return None if name.partition(".")[0] == "tensorflow" else find(name, path, target)


importlib.machinery.PathFinder.find_spec = without_tensorflow
import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
given = model.predict([[-2.5, 9.0], [4.5, 2.0]])
import keras

requirements = open(mlflow.artifacts.download_artifacts(sys.argv[1] + "/requirements.txt")).read()
print(keras.backend.backend(), *given.shape, "tensorflow" in requirements)
"""

pytestmark = pytest.mark.timeout(400)


@pytest.mark.heavy
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_search_on_another_backend(backend: str, tmp_path: Path) -> None:
    """A person who sets `KERAS_BACKEND` would get no trials, or a model that MLflow cannot load."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {"KERAS_BACKEND": backend}
    done = command("search.run", "--n-trials", "4", "--json", "--quiet", cwd=tmp_path, env=environment, cold=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_trials"] == {"complete": 4, "pruned": 0, "failed": 0}
    assert found["best"]["metrics"]["test_binary_accuracy"] > 0.9
    assert found["model"]["version"] == "1"
    served = subprocess.run(
        [sys.executable, "-c", SERVED, found["model"]["uri"]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert served.returncode == 0, served.stderr
    assert served.stdout.split() == [backend, "2", "1", "False"]
    trials = load("blobs", str(tmp_path / "studies" / "blobs.journal")).get_trials()
    assert {TrialResult.from_text(outcome_of(each) or "").path for each in trials} == {PLAIN}


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("jaxx", "KERAS_BACKEND: 'jaxx' is not a backend that trains; use one of tensorflow, jax, torch; did you mean"),
        ("numpy", "KERAS_BACKEND: 'numpy' is not a backend that trains"),
        ("torch", "KERAS_BACKEND: 'torch' is not installed; pip install torch"),
    ],
)
def test_a_backend_that_cannot_be_used_is_told_at_once(backend: str, said: str, tmp_path: Path) -> None:
    """The person would see the traceback of every worker's import."""
    if said.endswith("pip install torch") and importlib.util.find_spec(backend) is not None:
        pytest.skip(f"{backend} is installed")
    done = command("search.run", "--quiet", cwd=tmp_path, env={"KERAS_BACKEND": backend}, cold=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_keras_own_file_may_name_the_backend(tmp_path: Path) -> None:
    """A person whose `keras.json` names a backend that is gone would see a traceback."""
    (tmp_path / "keras.json").write_text('{"backend": "theano"}', encoding="utf-8")
    named = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    done = command("search.run", "--quiet", cwd=tmp_path, env=named, cold=True)
    assert done.returncode == 2
    assert "keras.json: 'theano' is not a backend that trains" in done.stderr
    assert len(done.stderr.splitlines()) == 1
