"""A study's experiment in MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.errors import TrackingError
from search.studyfile.schema import Definition
from search.tracking.pages import experiment

Tiny = Callable[..., Definition]


@pytest.mark.parametrize(
    ("location", "package"),
    [("s3://bucket/x", "boto3"), ("gs://bucket/x", "google-cloud-storage"), ("wasbs://a@b/x", "azure-storage-blob")],
)
def test_a_package_that_artifacts_need_is_named_before_training(
    tiny: Tiny, folder: Path, location: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team's server without a proxy of artifacts would let a night train, and then call `boto3` a defect."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    definition, client = tiny("team"), MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_experiment("team", location)
    with pytest.raises(TrackingError, match=f"'team' lie in .*://; pip install {package}$"):
        experiment.find_or_create(client, definition, "team")
