"""What a person did to a study's experiment and runs in MLflow: deleted or renamed; told, found and brought back."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from optuna.trial import FrozenTrial

from search.tracking.entries import milliseconds


def deleted(experiment: Experiment) -> str:
    """Return that an experiment is deleted, and what mends it."""
    identity = experiment.experiment_id
    return (
        f"MLflow experiment '{experiment.name}' is deleted; restore it (mlflow experiments restore -x {identity}), "
        f"delete it for good (mlflow gc --experiment-ids {identity}), or use --study-name"
    )


def fault_of_experiment(client: MlflowClient, name: str, searches: Iterable[str]) -> str:
    """Return why MLflow cannot show a study, and what mends it; empty where it can.

    Args:
        client: MLflow's client.
        name: The study's name, which its experiment has.
        searches: The ids of the study's searches.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return "" if experiment.lifecycle_stage == "active" else deleted(experiment)
    names = {str(each.experiment_id): each.name for each in client.search_experiments()}
    for search_id in searches:
        for run in client.search_runs(list(names), f"tags.search_id = '{search_id}'", max_results=1) if names else ():
            identity = str(run.info.experiment_id)
            return (
                f"MLflow experiment '{name}' was renamed to '{names[identity]}'; "
                f"rename it back: mlflow experiments rename -x {identity} --new-name '{name}'"
            )
    return ""


def _restored(client: MlflowClient, experiment_id: str, query: str) -> Run | None:
    """Return a run that a query finds, restored where it was deleted; None where there is none."""
    found = client.search_runs([experiment_id], query, ViewType.ALL)
    run = next((each for each in found if each.info.lifecycle_stage == "active"), next(iter(found), None))
    if run is not None and run.info.lifecycle_stage != "active":
        client.restore_run(run.info.run_id)
    return run


def restored_search(client: MlflowClient, experiment_id: str, search_id: str) -> str:
    """Return the run of a search that somebody deleted; it is shown again. Empty for none."""
    found = _restored(client, experiment_id, f"tags.search_id = '{search_id}'")
    return str(found.info.run_id) if found is not None else ""


def restored_trial(client: MlflowClient, experiment_id: str, trial: FrozenTrial, number: str, parent: str) -> str:
    """Return the run of a trial that was deleted, or whose search's run was, under that run; empty for none.

    Number and time of beginning tell a trial from those of other studies that had the experiment.

    Args:
        client: MLflow's client.
        experiment_id: The experiment.
        trial: The trial.
        number: The tag's name that has a trial's number.
        parent: The search's run.
    """
    if trial.datetime_start is None:
        return ""
    began = milliseconds(trial.datetime_start.timestamp())
    run = _restored(client, experiment_id, f"tags.{number} = '{trial.number}' AND attributes.start_time = {began}")
    if run is None:
        return ""
    if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent:
        client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, parent)
    return str(run.info.run_id)
