"""A study's experiment in MLflow: found or created, its description brought up to date."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial

from search.errors import TrackingError
from search.studyfile.schema import Definition
from search.system.retry import retried
from search.tracking import store
from search.tracking.pages import descriptions

_NOTE, _WRITTEN = "mlflow.note.content", "search.described"  # a description, and the last one written here


def find_or_create(client: MlflowClient, definition: Definition, name: str) -> str:
    """Return the experiment of a study.

    Args:
        client: MLflow's client.
        definition: The study file.
        name: The study's name.

    Raises:
        TrackingError: The experiment is deleted.
    """

    def found() -> str:
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise TrackingError(
                    f"MLflow experiment '{name}' is deleted; restore it "
                    f"(mlflow experiments restore -x {experiment.experiment_id}), delete it for good "
                    f"(mlflow gc --experiment-ids {experiment.experiment_id}), or use --study-name"
                )
            return str(experiment.experiment_id)
        note = descriptions.of_experiment(definition, name)
        tags = {_NOTE: note, _WRITTEN: note, "mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, store.artifact_location(name), tags=tags))

    # Another search may create it in this moment.
    return retried(found, lambda error: isinstance(error, MlflowException), 1.0)


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
        client: MLflow's client.
        experiment_id: The experiment.
        definition: The study file.
        name: The study's name.
        trials: Its trials.
        search: The search that describes it, as Markdown that opens its run.
    """
    tags = client.get_experiment(experiment_id).tags
    text = descriptions.of_experiment(definition, name, trials, search)
    if tags.get(_NOTE) == tags.get(_WRITTEN, descriptions.of_experiment(definition, name)) != text:
        client.set_experiment_tag(experiment_id, _NOTE, text)
        client.set_experiment_tag(experiment_id, _WRITTEN, text)
