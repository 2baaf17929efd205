"""A study's experiment in MLflow: found or created, its description brought up to date."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from optuna.trial import FrozenTrial

from search.errors import TrackingError, redact
from search.studyfile.schema import Definition
from search.system.retry import retried
from search.tracking import by_hand, store
from search.tracking.pages import descriptions

# By the scheme of a store of artifacts: what MLflow's client imports, and the package that brings it.
_PACKAGES = {
    "s3": ("boto3", "boto3"),
    "gs": ("google.cloud.storage", "google-cloud-storage"),
    "wasbs": ("azure.storage.blob", "azure-storage-blob"),
    "abfss": ("azure.storage.filedatalake", "azure-storage-file-datalake"),
    "hdfs": ("pyarrow", "pyarrow"),
}
# A description, and the last one written here, which MLflow's list hides; 0.1 had it under a name that is shown.
_NOTE, _WRITTEN, _SHOWN = "mlflow.note.content", "mlflow.search.described", "search.described"


def find_or_create(client: MlflowClient, definition: Definition, name: str) -> str:
    """Return the experiment of a study.

    Args:
        name: The study's name.

    Raises:
        TrackingError: The experiment is deleted, or its artifacts cannot be written from here.
    """

    def found() -> str:
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise TrackingError(by_hand.deleted(experiment))
            return str(experiment.experiment_id)
        note = descriptions.of_experiment(definition, name)
        tags = {_NOTE: note, _WRITTEN: note, "mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, store.artifact_location(name), tags=tags))

    # Another search may create it in this moment.
    identity = retried(found, lambda error: isinstance(error, MlflowException), 1.0)
    _check_artifacts(name, str(client.get_experiment(identity).artifact_location))
    return identity


def _check_artifacts(name: str, location: str) -> None:
    """Refuse a store of artifacts that this process writes to itself and lacks the package for."""
    scheme = location.partition("://")[0]
    module, package = _PACKAGES.get(scheme, ("", ""))
    try:
        there = not module or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module lies in
        there = False
    if not there:
        raise TrackingError(f"the artifacts of MLflow experiment '{name}' lie in {scheme}://; pip install {package}")


def try_artifacts(client: MlflowClient, experiment_id: str) -> None:
    """Write a small file where an experiment's artifacts go, and remove it.

    Raises:
        TrackingError: It cannot be written.
    """
    experiment = client.get_experiment(experiment_id)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "try.txt")
        file.write_text("Whether artifacts can be written here.")
        try:
            place = get_artifact_repository(experiment.artifact_location, store.uri())
            place.log_artifact(str(file))  # type: ignore[no-untyped-call]
        except Exception as error:  # of the library of whatever store it is
            raise TrackingError(
                f"the artifacts of MLflow experiment '{experiment.name}' cannot be written to "
                f"{redact(experiment.artifact_location)} ({store.reason_of(error)})"
            ) from error
        with suppress(Exception):  # some stores keep what they have
            place.delete_artifacts(file.name)  # type: ignore[no-untyped-call]


def describe(
    client: MlflowClient,
    experiment_id: str,
    definition: Definition,
    name: str,
    trials: Sequence[FrozenTrial],
    search: str,
) -> None:
    """Bring an experiment's description up to date, unless a person has changed it since.

    Args:
        name: The study's name.
        trials: Its trials.
        search: The search that describes it, as Markdown that opens its run.
    """
    tags = client.get_experiment(experiment_id).tags
    text = descriptions.of_experiment(definition, name, trials, search)
    written = tags.get(_WRITTEN, tags.get(_SHOWN, descriptions.of_experiment(definition, name)))
    if tags.get(_NOTE) == written != text:
        client.set_experiment_tag(experiment_id, _NOTE, text)
        client.set_experiment_tag(experiment_id, _WRITTEN, text)
    if _SHOWN in tags:
        client.delete_experiment_tag(experiment_id, _SHOWN)
