"""A disk that is full while a search runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.trial import TrialState

from search.budget import Progress
from search.errors import StorageError
from search.handover import finish
from search.handover.syncing import sync
from search.session import search
from search.study.storage import open_storage
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from tests.faults.night import fill, small_disk

Tiny = Callable[..., Definition]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    with small_disk(tmp_path / "disk", 2) as mounted:
        if not mounted:
            pytest.skip("no file system can be mounted here")
        yield tmp_path / "disk"


def test_a_full_disk_stops_a_search_that_can_be_resumed(tiny: Tiny, folder: Path, disk: Path) -> None:
    """If this fails, a full disk makes a night's journal unreadable, or counts as the trials' own failure."""
    definition, journal = tiny("full", more='\n[search]\npruner = "none"\n'), disk / "full.journal"
    settings = resolve(definition, n_trials=5, workers=1, storage=str(journal), offline=True)

    def overflow(progress: Progress) -> None:
        if progress.state == "complete" and progress.done == 2:
            fill(disk)

    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\).*continue with --resume"):
        search(settings, overflow)
    (disk / "filler").unlink()
    outcome = search(settings.model_copy(update={"resume": True}), lambda _: None)
    assert outcome.n_trials["complete"] == 5
    study = optuna.load_study(study_name="full", storage=open_storage(str(journal)))
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states.count(TrialState.COMPLETE) == 5, "the budget of the search that was stopped, no more"
    assert TrialState.RUNNING not in states
    assert folder.exists()


def test_a_full_disk_of_artifacts_delays_only_mlflow(tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a full disk of MLflow's ends a search, or its name is not told."""
    definition = tiny("full", more='\n[search]\npruner = "none"\n')
    monkeypatch.setattr(finish, "_PATIENCE", 1.0)
    said: list[str] = []
    settings = resolve(definition, n_trials=4, workers=1, tracking_uri=f"sqlite:///{folder}/mlflow.db")
    with small_disk(folder / "mlruns", 2) as mounted:
        if not mounted:
            pytest.skip("no file system can be mounted here")

        def overflow(progress: Progress) -> None:
            if progress.state == "complete" and progress.done == 1:
                fill(folder / "mlruns")

        outcome = search(settings, overflow, said.append)
        assert outcome.n_trials["complete"] == 4
        assert outcome.not_mirrored.numbers
        assert outcome.model is None
        assert any("MLflow cannot be written (OSError: [Errno 28] No space left" in line for line in said), said
        assert "No space left" in outcome.unregistered
        (folder / "mlruns" / "filler").unlink()
        assert sync(settings, said.append).differs == ()
        assert mlflow.MlflowClient().get_model_version_by_alias("full", "challenger").version == 1
