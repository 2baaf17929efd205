"""MLflow's server dies, answers with errors, slowly or not at all: training goes on, and all is shown in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.budget import Progress
from search.errors import TrackingError
from search.handover import finish
from search.handover.outcome import Outcome
from search.handover.syncing import sync
from search.session import search
from search.studyfile.load import load_definition
from search.studyfile.settings import Settings, resolve
from tests.conftest import TINY
from tests.faults.mlflow_server import MlflowServer, mlflow_server

PASSES = ("500", "503", "429", "401", "html")  # what the server answers for a while
_MET_SECONDS = 120.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server for all; starting one takes seconds."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def study(tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Settings]]:
    """Makes the settings of a search of a small study that MLflow's server shows."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()

    def settings(name: str, **request: object) -> Settings:
        path = tmp_path / "studies" / f"{name}.toml"
        path.write_text(TINY.format(name=name, build="mlp") + '\n[search]\npruner = "none"\n')
        return resolve(load_definition(path), workers=1, **{"tracking_uri": server.uri, **request})

    yield settings
    server.answer, server.delay = "pass", 0.0
    mlflow.set_tracking_uri(None)


def wait_until(met: Callable[[], bool]) -> None:
    """Wait until a fault has met the search."""
    deadline = time.monotonic() + _MET_SECONDS
    while not met():
        assert time.monotonic() < deadline, "MLflow is asked no more"
        time.sleep(0.05)


def answers(server: MlflowServer) -> None:
    """Wait until another request was dealt with, well or not."""
    before = server.answered
    wait_until(lambda: server.answered > before)


@pytest.mark.heavy
def test_a_search_survives_whatever_its_server_does(study: Callable[..., Settings], server: MlflowServer) -> None:
    """If this fails, an MLflow server that restarts in the night costs the night, or leaves its runs RUNNING."""
    said: list[str] = []

    def disturb(progress: Progress) -> None:
        """Do the next thing to the server when a trial ends; training waits, so that each fault is met."""
        if progress.state != "complete":
            return
        server.answer, server.delay = "pass", 0.0
        done = progress.done - 1
        if done < len(PASSES):
            server.answer = PASSES[done]
        elif done == len(PASSES):
            server.delay = 2.0
        elif done == len(PASSES) + 1:
            server.freeze()
            wait_until(lambda: server.requests > server.answered)
            return
        elif done == len(PASSES) + 2:
            server.thaw()
            answers(server)
            server.kill()
            answers(server)
            server.begin()
        else:
            server.wait()
        answers(server)

    settings = study("disturbed", n_trials=len(PASSES) + 4)
    outcome = search(settings, disturb, said.append)
    assert outcome.n_trials == {"complete": len(PASSES) + 4, "pruned": 0, "failed": 0}
    assert "MLflow answers again" in said
    assert outcome.not_mirrored.numbers == ()
    assert outcome.model is not None, said
    assert sync(settings, said.append, only_check=True).differs == ()


def test_what_mlflow_missed_is_sent_later(
    study: Callable[..., Settings], server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a search ends by an error, or its trials never appear, because MLflow went away or never was."""
    monkeypatch.setattr(finish, "_PATIENCE", 2.0)
    server.answer = "drop"
    with pytest.raises(TrackingError, match=r"MLflow tracking store .* cannot be used"):
        search(study("away", n_trials=2), lambda _: None)
    assert not Path("studies/away.journal").exists()
    offline = search(study("away", n_trials=2, offline=True), lambda _: None)
    assert len(offline.not_mirrored.numbers) == 2
    server.answer = "pass"

    def leave(progress: Progress) -> None:
        if progress.state == "complete":
            server.answer = "drop"

    settings = study("away", n_trials=2)
    outcome: Outcome = search(settings, leave)
    assert outcome.not_mirrored.numbers
    assert outcome.unregistered
    server.answer = "pass"
    assert sync(settings, lambda _: None).differs == ()
    assert sync(settings, lambda _: None, only_check=True).differs == ()


def test_a_trial_is_written_in_as_few_requests_as_mlflow_allows(
    study: Callable[..., Settings], server: MlflowServer
) -> None:
    """Each request more costs the search a millisecond, the server ten, and a distant one a tenth of a second."""
    settings = study("few", n_trials=6, offline=True)
    search(settings, lambda _: None)
    server.seen.clear()
    sync(settings, lambda _: None)
    asked = Counter(server.seen)
    assert asked["POST runs/create"] == asked["POST runs/log-inputs"] == 7, "one for the search itself"
    assert asked["POST runs/log-batch"] <= 6 + 3, "one for each trial, three for the search's own run"
    assert asked["POST runs/update"] == 7
    assert asked["GET metrics/get-history"] == 0
