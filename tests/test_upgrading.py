"""What the last version wrote goes on under this one; what a newer version wrote is told."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from search import resume
from search.data.summary import DataSummary, Interface
from search.errors import NewerVersionError
from search.reporting.overview import overview
from search.study import attributes
from search.study.attributes import VERSION
from search.study.storage import open_storage
from search.tracking import history
from search.training.result import Epoch, TrialResult
from tests.conftest import command, run_json
from tests.upgrading import unpack


@pytest.fixture
def upgraded(tmp_path: Path) -> Path:
    """The folder that version 0.1 left, here."""
    return unpack(tmp_path)


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_a_study_of_the_last_version_goes_on(killed: bool, tmp_path: Path) -> None:
    """An upgrade would cost a night's trials, the champion, or its history."""
    upgraded = unpack(tmp_path, killed=killed)
    before = command("search.studies", "--json", cwd=upgraded)
    assert before.returncode == 0, before.stderr
    (shown,) = json.loads(before.stdout)
    assert (shown["trials"], shown["versions"], shown["champion"], shown["package"]) == (5, 1, "1", "")
    resumed = run_json("kept", "--resume", "--workers", "1", cwd=upgraded)
    assert resumed["n_trials"]["complete"] == 3
    study = optuna.load_study(study_name="kept", storage=open_storage(str(upgraded / "studies" / "kept.journal")))
    assert sum(each.state == TrialState.COMPLETE for each in study.get_trials(deepcopy=False)) == 6
    client = MlflowClient(f"sqlite:///{upgraded}/mlflow.db")
    runs = client.search_runs([resumed["experiment_id"]], "tags.state = 'COMPLETE'")
    assert len(runs) == 6
    assert not [path.name for path in upgraded.iterdir() if path.name not in {"mlflow.db", "mlruns", "studies"}]
    checked = command("search.sync", "kept", "--check", cwd=upgraded)
    assert checked.returncode == 0, checked.stdout
    told = command("search.promote", "kept", "--history", cwd=upgraded)
    assert "forced" in told.stdout, told.stderr
    (after,) = json.loads(command("search.studies", "--json", cwd=upgraded).stdout)
    assert after["package"] == VERSION


def test_a_model_of_the_last_version_predicts(upgraded: Path) -> None:
    """A service would fail after an upgrade of the machine that serves."""
    mlflow.set_tracking_uri(f"sqlite:///{upgraded}/mlflow.db")
    try:
        model = mlflow.pyfunc.load_model("models:/kept@champion")
        assert model.predict(np.zeros((2, 2))).shape == (2, 1)
    finally:
        mlflow.set_tracking_uri(None)
    predicted = command("search.predict", "kept", "--input", "rows.csv", "--output", "out.csv", cwd=upgraded)
    assert predicted.returncode == 2
    assert "rows.csv" in predicted.stderr


def test_fields_of_a_newer_version_are_ignored() -> None:
    """Two colleagues, one of whom upgraded first, could not share a study."""
    result = TrialResult(3, "complete", 1, (0.5,), epochs=(Epoch(0, 1.0, {"loss": 0.5}),))
    newer = dataclasses.make_dataclass("Newer", [("colour", str, "red")], bases=(TrialResult,), frozen=True)
    written = newer(**{field.name: getattr(result, field.name) for field in dataclasses.fields(result)}).as_text()
    assert TrialResult.from_text(written) == result
    study = optuna.create_study()
    attributes.set_search(study, "a", {"n_trials": 3, "state": "finished", "began": "2027-01-01", "colour": "red"})
    assert [each.n_trials for each in resume.search_records(study)] == [3]


def test_what_a_newer_version_wrote_is_told() -> None:
    """The person would read that MLflow does not answer, for ever."""
    unknown = dataclasses.replace(TrialResult(3, "complete", 1), fate="paused")  # type: ignore[arg-type]
    for text in (unknown.as_text(), "another format"):
        with pytest.raises(NewerVersionError, match=f"was written by a newer version of search than {VERSION}"):
            TrialResult.from_text(text)
    study = optuna.create_study()
    attributes.set_search(study, "a", {"budget": 3})
    with pytest.raises(NewerVersionError, match="search a was written by a newer version"):
        resume.search_records(study)


def test_data_that_an_earlier_release_described_are_read() -> None:
    """A search that an earlier release left would end in a traceback: its description lacks the newer fields."""
    described = DataSummary("a", "csv:a.csv", "0", "binary", (0, 1), {"train": 3}, (), (), None, (), ("loss",), "", 0.0)
    older = copy.copy(described)
    for each in dataclasses.fields(DataSummary):
        if each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING:
            del vars(older)[each.name]
    again = pickle.loads(pickle.dumps(older))
    assert again == described
    assert again.trivial == again.code == {}
    interface = Interface((), None, (), ())
    del vars(interface)["centers"], vars(interface)["meanings"]
    assert pickle.loads(pickle.dumps(interface)).instead(described) == dataclasses.replace(described, example=None)


def test_the_studies_of_a_newer_version_are_listed(tmp_path: Path) -> None:
    """One study of a newer version would hide every study of the storage."""
    url = str(tmp_path / "a.journal")
    study = optuna.create_study(study_name="a", storage=open_storage(url))
    attributes.set_search(study, "a", {"budget": 3, "began": "2027-01-01", "version": "9.0"})
    (listed,) = overview(url, f"sqlite:///{tmp_path}/none.db")
    assert (listed.study, listed.package) == ("a", "9.0")


def test_a_promotion_of_a_newer_version_is_in_the_history(folder: Path) -> None:
    """The history would drop an entry without a word."""
    client = MlflowClient()
    client.create_registered_model("m")
    client.create_model_version("m", f"{folder}")
    move = history.Move("m", "1", "champion", "", "20270101T000000.000000Z", history.PROMOTED, "better")
    for content in ({**dataclasses.asdict(move), "colour": "red"}, {"model": "m"}):
        client.set_model_version_tag("m", "1", move.key, json.dumps(content))
        if "version" in content:
            assert history.moves("m", "champion") == [move]
        else:
            with pytest.raises(NewerVersionError, match="a promotion of m was written by a newer version"):
                history.moves("m", "champion")
