"""What people do by hand: runs and experiments deleted or renamed in MLflow, trials of plain Optuna in the study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow.cli
import optuna
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from search.errors import SearchError, TrackingError
from search.handover.syncing import Synced, sync
from search.session import search
from search.study.storage import open_storage
from search.studyfile.schema import Definition
from search.studyfile.settings import Settings, resolve
from search.tracking import registry
from tests.conftest import Command

Tiny = Callable[..., Definition]


@pytest.fixture
def settings(tiny: Tiny, folder: Path) -> Settings:
    """Return what a search of two trials is asked for."""
    return resolve(tiny(), n_trials=2, workers=1, tracking_uri=f"sqlite:///{folder}/mlflow.db")


def synced(settings: Settings, *, check: bool = False) -> Synced:
    """Return what `search.sync` finds."""
    return sync(settings, lambda _: None, only_check=check)


def shown(experiment: str) -> list[tuple[str, str, str]]:
    """Return the trials that MLflow shows: number, run and the run of their search."""
    runs = mlflow.search_runs([experiment], output_format="list")
    tags = {run.info.run_id: run.data.tags for run in runs if "trial" in run.data.tags}
    return sorted((known["trial"], run_id, known["mlflow.parentRunId"]) for run_id, known in tags.items())


@pytest.mark.parametrize("what", ["the search", "the search, for good", "the search and its trials", "a trial"])
def test_deleted_runs_are_shown_again_and_once(settings: Settings, folder: Path, what: str) -> None:
    """Every trial would be written a second time, beside its run of before, and without its model."""
    outcome = search(settings, lambda _: None)
    before, client = shown(outcome.experiment_id), MlflowClient()
    if what != "a trial":
        client.delete_run(outcome.search_run_id)
    if what.endswith("for good"):
        uri = f"sqlite:///{folder}/mlflow.db"
        done = CliRunner().invoke(mlflow.cli.gc, ["--backend-store-uri", uri, "--run-ids", outcome.search_run_id])
        assert not done.exception, done.output
    for _, run_id, _ in before if what.endswith("its trials") else before[-1:] if what == "a trial" else ():
        client.delete_run(run_id)
    differs = synced(settings, check=True).differs
    assert len(differs) == 1
    assert ("trial 1 has no run" if what == "a trial" else "the search of ") in differs[0]
    assert synced(settings).differs == ()
    after = shown(outcome.experiment_id)
    assert [each[:2] for each in after] == [each[:2] for each in before], "each trial's run is the one it had"
    assert len({each[2] for each in after}) == 1
    assert registry.find("tiny").run_id in {run_id for _, run_id, _ in after}
    assert synced(settings, check=True).differs == ()


def test_a_deleted_or_renamed_experiment_is_told_with_what_mends_it(settings: Settings, folder: Path) -> None:
    """The check would name every trial and propose nothing; a sync or search would write all to a second experiment."""
    outcome = search(settings, lambda _: None)
    client, identity = MlflowClient(), outcome.experiment_id
    client.rename_experiment(identity, "archive 'x'")
    (line,) = synced(settings, check=True).differs
    assert "'tiny' was renamed to 'archive 'x''" in line
    assert line.endswith(f"mlflow experiments rename -x {identity} --new-name 'tiny'")
    with pytest.raises(TrackingError, match="renamed"):
        synced(settings)
    with pytest.raises(TrackingError, match="renamed"):
        search(settings, lambda _: None)
    assert client.get_experiment_by_name("tiny") is None
    client.rename_experiment(identity, "tiny")
    assert synced(settings, check=True).differs == ()

    client.delete_experiment(identity)
    (line,) = synced(settings, check=True).differs
    assert f"is deleted; restore it (mlflow experiments restore -x {identity})" in line
    with pytest.raises(TrackingError, match="is deleted"):
        synced(settings)
    client.restore_experiment(identity)
    assert synced(settings, check=True).differs == ()


def test_trials_of_plain_optuna_are_named_as_having_no_run(
    settings: Settings, folder: Path, in_process: Command
) -> None:
    """The check would say that trials agree which MLflow has never seen, and the model's page be a run of none."""
    path = folder / "studies" / "tiny.journal"
    sampler = optuna.samplers.BruteForceSampler(seed=0)  # it tries no value twice, which the check would tell
    plain = optuna.create_study(study_name="tiny", storage=open_storage(str(path)), sampler=sampler)
    plain.optimize(lambda trial: trial.suggest_int("width", 2, 200) / 1e6, n_trials=5)
    outcome = search(settings, lambda _: None)
    assert outcome.model is None
    assert outcome.best.number < 5
    assert outcome.unregistered.endswith("but its model was not kept; another program than search trained it")
    done = in_process("search.sync", "tiny", "--check", cwd=folder)
    assert done.returncode == 0
    assert "7 trials checked, 0 written" in done.stdout
    assert "5 trials of other programs (0 to 4) have no run in MLflow" in done.stdout
    assert synced(settings).no_run == (0, 1, 2, 3, 4)
    (folder / "x.csv").write_text("a,b\n1,2\n")
    for module, *more in (("search.promote",), ("search.predict", "--input", "x.csv", "--output", "y.csv")):
        done = in_process(module, "tiny", *more, cwd=folder)
        assert done.returncode == 2
        assert "no registered model 'tiny'" in done.stderr
    with pytest.raises(SearchError, match="no registered model 'tiny'"):
        registry.find("tiny")
