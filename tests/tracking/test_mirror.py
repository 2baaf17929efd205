"""The mirror: what it began to show and could not finish is finished later, and is there once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.handover import finish
from search.handover.syncing import sync
from search.session import search
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.system import outbox
from search.tracking.runs import SearchRun


@pytest.mark.parametrize(
    "step", [(SearchRun, "finish_trial"), (MlflowClient, "set_terminated")], ids=lambda step: step[1]
)
def test_a_trial_that_was_half_shown_is_shown_once(
    tiny: Callable[..., Definition], folder: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
) -> None:
    """A search killed after a model was logged would log it again at each resume, and never show its trial's value."""
    settings = resolve(tiny(), n_trials=2, workers=1, tracking_uri=f"sqlite:///{folder}/mlflow.db")

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("away")

    with monkeypatch.context() as patched:
        patched.setattr(finish, "_PATIENCE", 1.0)
        patched.setattr(*step, away)
        outcome = search(settings, lambda _: None)
    assert outcome.not_mirrored.numbers
    assert sync(settings, lambda _: None).differs == ()
    models = mlflow.search_logged_models([outcome.experiment_id], output_format="list")
    runs = [model.source_run_id for model in models]
    assert len(runs) == len(set(runs)), "each trial's model is logged once"
    best = next(model for model in models if model.tags["trial"] == str(outcome.best.number))
    measured = {metric.key for metric in best.metrics or ()}
    assert {"val_loss", "test_loss", "parameters"} <= measured


def test_a_search_waits_no_longer_than_asked_and_shows_first_what_it_registers(
    tiny: Callable[..., Definition], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search of a minute would wait for a slow MLflow for many, or register nothing because its best is not there."""
    settings = resolve(tiny(), n_trials=4, workers=1, wait=0.0, tracking_uri=f"sqlite:///{folder}/mlflow.db")
    over, shown, finish_trial = threading.Event(), list[int](), SearchRun.finish_trial

    def slow(self: SearchRun, run_id: str, study: Any, trial: Any, *rest: Any, **named: Any) -> None:
        if shown:
            over.wait(200)
            raise MlflowException("too late")
        finish_trial(self, run_id, study, trial, *rest, **named)
        shown.append(trial.number)

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "_QUIET_SECONDS", 1e6)  # nothing is shown while trials run
        patched.setattr(outbox, "_LONGEST_YIELD", 1e6)
        patched.setattr(SearchRun, "finish_trial", slow)
        outcome = search(settings, lambda _: None)
        over.set()
    assert shown == [outcome.best.number]
    assert outcome.model is not None
    assert set(outcome.not_mirrored.numbers) == set(range(4)) - set(shown)
    assert outcome.not_mirrored.seconds is not None
    assert sync(settings, lambda _: None).differs == ()
