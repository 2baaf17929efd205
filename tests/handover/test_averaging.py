"""Several trainings become one registered model, where that is surely better than the best trial alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from search import steering
from search.session import search
from search.study import create
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.tracking import agreement, registry, versions
from search.workers.reproduction import reproduce
from tests.conftest import Searcher

STUDY = """
name = "mean"
metric = "val_loss"
direction = "minimize"
[data]
source = "sklearn:make_friedman1"
options = { n_samples = 900, noise = 3.0, random_state = 0 }
test_size = 0.2
validation_size = 0.6
seed = 0
[model]
build = "mlp"
width = 128
optimizer = "adam"
learning_rate = 0.01
[fit]
epochs = 60
[space]
batch_size = { type = "categorical", choices = [20, 21, 22, 23, 24, 25] }
[search]
n_trials = 6
pruner = "none"
ensemble = 4
"""


@pytest.fixture
def study(folder: Path) -> Definition:
    """Return a study whose trials are equally good and err differently: their mean is surely better."""
    return _study(folder)


def _study(folder: Path, changes: dict[str, str] | None = None) -> Definition:
    text = STUDY
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    file = folder / "studies" / "mean.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return load_definition(file)


def test_the_mean_of_the_best_trials_is_registered(study: Definition, run_search: Searcher) -> None:
    """Good trials would be paid for and thrown away; or a mean be registered that nobody can trace."""
    outcome = run_search(study, n_trials=6)
    ensemble = outcome.best.ensemble
    assert ensemble is not None
    assert outcome.model is not None
    told: dict[str, Any] = json.loads(json.dumps(outcome.as_json()))["best"]["ensemble"]
    assert told.keys() == {"members", "weights", "value", "test", "slower"}
    assert len(told["members"]) == 4
    assert sum(told["weights"]) == pytest.approx(1, abs=1e-5)
    assert told["value"] < outcome.best.value
    assert outcome.best.number in told["members"]

    version = registry.find("mean")
    said = f"4 trials averaged: `val_loss` {told['value']:.4g}"[:-2]
    assert said in version.description
    assert "times slower a row" in version.description
    assert ensemble.gain is not None
    assert ensemble.gain > 0
    assert f"; its loss is {ensemble.gain:.3g}"[:-1] in version.description
    assert "lower on rows that chose neither" in version.description
    assert version.tags["trial"] == str(outcome.best.number)
    run = MlflowClient().get_run(version.run_id)
    assert run.data.tags["kind"] == "ensemble"
    assert run.data.tags["mlflow.parentRunId"] == outcome.search_run_id
    assert run.data.metrics["test_loss"] == pytest.approx(told["test"]["test_loss"])
    assert all(each.run_id in run.data.tags["mlflow.note.content"] for each in ensemble.members)

    kept = registry.predictions_of(version)
    assert kept is not None
    assert kept.loss is not None
    assert kept.loss.mean() == pytest.approx(told["test"]["test_loss"], rel=1e-5)
    members = [layer for layer in versions.load_keras(version.uri).layers if isinstance(layer, keras.Model)]
    assert {member.name for member in members} == {f"trial_{each.number}" for each in ensemble.members}
    rows = np.random.default_rng(0).random((5, 10)).astype("float32")
    mean = np.mean([member.predict(rows, verbose=0) for member in members], axis=0)
    served = mlflow.pyfunc.load_model(version.uri).predict(rows)
    np.testing.assert_allclose(np.asarray(served).reshape(-1), mean.reshape(-1), rtol=1e-4)

    found = reproduce(version.run_id)
    assert found.same, found.differs
    assert found.metrics.keys() == told["test"].keys()

    for each in ({}, {"ensemble": 0}):  # every configuration was tried
        again = run_search(study, n_trials=1, **each)
        assert again.best.number == outcome.best.number
        assert not again.newly_registered
        assert again.best.ensemble == ensemble, "a search without a better trial registers nothing new"

    _exclude_a_member(study, next(each for each in told["members"] if each != outcome.best.number))
    assert not registry.find("mean", "1").aliases, "it is nobody's challenger any more"
    assert run_search(study, n_trials=1, ensemble=0).newly_registered


def _exclude_a_member(study: Definition, number: int) -> None:
    settings = resolve(study)
    assert "models:/mean/1 says so" in steering.exclude(settings, number, "leaked")
    assert registry.find("mean", "1").tags[registry.EXCLUDED].endswith(": leaked")
    loaded = create.load("mean", settings.storage)
    assert agreement.differences(study, loaded) == []


def test_a_mean_that_is_not_surely_better_is_not_registered(folder: Path, run_search: Searcher) -> None:
    """The best trial would give way to a mean with ones that learned nothing."""
    far = '[space]\nepochs = { type = "categorical", choices = [1, 60] }'
    definition = _study(folder, {"[space]": far, "[fit]\nepochs = 60\n": "", "n_trials = 6": "n_trials = 3"})
    outcome = run_search(definition, n_trials=3)
    assert outcome.best.ensemble is None
    assert "ensemble" not in outcome.as_json()["best"]


@pytest.mark.heavy
def test_means_of_repeats_are_trained_again(folder: Path, run_search: Searcher) -> None:
    """A version whose members are means of repeats themselves could not be reproduced."""
    outcome = run_search(_study(folder, {"ensemble = 4": "ensemble = 4\nrepeats = 2"}), n_trials=3)
    assert outcome.best.ensemble is not None
    found = reproduce(registry.find("mean").run_id)
    assert found.same, found.differs


def test_what_cannot_be_averaged_is_told_in_a_line(folder: Path, run_search: Searcher) -> None:
    """A person would wait for an average that several metrics, an export or --offline rule out."""
    few = {"n_samples = 900": "n_samples = 60", "epochs = 60": "epochs = 1"}
    said: list[str] = []
    request = {"workers": 1, "n_trials": 2, "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    search(resolve(_study(folder, few), **request, offline=True), lambda _: None, said.append)
    assert any(each.startswith("--offline averages nothing; search.sync registers trial ") for each in said)
    two = 'metric = ["val_loss", "parameters"]\ndirection = ["minimize", "minimize"]'
    several = {'metric = "val_loss"\ndirection = "minimize"': two, 'name = "mean"': 'name = "two"', **few}
    search(resolve(_study(folder, several), **request), lambda _: None, said.append)
    line = next(each for each in said if each.startswith("models of several metrics, or with model.export, are not"))
    assert line.endswith(" alone is registered")
