"""Every attribute that `search` writes to a study or a trial: its name, its type, and how it is read back.

No other module names an attribute. Values are what Optuna's storages keep: JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

# Of a trial.
SEARCH_RUN = "search:run"  # the MLflow run of the search that it belongs to
MODEL_ID = "search:model"  # its logged model, when that was kept
FAILED_ITSELF = "search:failed"  # true when it failed by its own error, not with its worker
RETRIES = "search:retries"  # how often its configuration may be tried again when its worker dies
BEGUN = "search:begun"  # host and process of the cluster's worker that began it
EPOCHS = "search:epochs"  # followed by a number: epochs that a long trial reported while it runs
RUN_ID = "mlflow_run_id"  # its run in MLflow; written by MLflowCallback
FIXED = "fixed_params"  # Optuna's own: values that a builder's suggestions must take
CONSTRAINTS = "constraints"  # how far it is beyond each constraint
# Of a study.
METRIC = "metric"
SEARCH = "search:"  # followed by the run of a search: what is known of that search


def id_of(storage: BaseStorage, study: optuna.Study, number: int) -> int:
    """Return what the storage calls the study's trial of this number."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def note(storage: BaseStorage, study: optuna.Study, number: int, name: str, value: str | bool) -> None:
    """Write an attribute of ours to a trial, whether or not it runs in this process."""
    storage.set_trial_system_attr(id_of(storage, study, number), name, value)


def constraints_of(trial: FrozenTrial) -> Sequence[float]:
    """Return how far a trial is beyond each constraint; at most 0 where it is met."""
    return list(trial.user_attrs.get(CONSTRAINTS, ()))


def metrics_of(study: optuna.Study) -> list[str]:
    """Return the metrics that a study was begun with; empty when it does not say."""
    kept: list[str] = study.user_attrs.get(METRIC, [])
    return list(kept)


def set_metrics(study: optuna.Study, metrics: Sequence[str]) -> None:
    """Write the study's metrics, once."""
    if METRIC not in study.user_attrs:
        study.set_user_attr(METRIC, list(metrics))


def searches_of(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return what is known of each search, by its run."""
    return {name.removeprefix(SEARCH): value for name, value in study.user_attrs.items() if name.startswith(SEARCH)}


def set_search(study: optuna.Study, run_id: str, value: dict[str, Any]) -> None:
    """Write what is known of a search."""
    study.set_user_attr(SEARCH + run_id, value)
