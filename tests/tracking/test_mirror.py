"""The mirror: what it began to show and could not finish is finished later, and is there once."""

from __future__ import annotations

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
    assert outcome.not_mirrored
    assert sync(settings, lambda _: None).differs == ()
    models = mlflow.search_logged_models([outcome.experiment_id], output_format="list")
    runs = [model.source_run_id for model in models]
    assert len(runs) == len(set(runs)), "each trial's model is logged once"
    best = next(model for model in models if model.tags["trial"] == str(outcome.best.number))
    measured = {metric.key for metric in best.metrics or ()}
    assert {"val_loss", "test_loss", "parameters"} <= measured
