"""The Optuna study: created, continued or loaded, and where its first configurations come from."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from search.errors import StorageError, did_you_mean, one_line
from search.study import attributes, space
from search.study.ranking import best_trials
from search.study.storage import file_of, open_storage, storage_errors
from search.studyfile.schema import Definition
from search.studyfile.settings import default_storage


def create(
    definition: Definition, name: str, storage: BaseStorage, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """Create the study, or load it when it exists.

    Raises:
        StorageError: The study exists with other directions or a space Optuna cannot continue.
    """
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=list(definition.directions),
            load_if_exists=True,
        )
    except ValueError as error:
        raise StorageError(
            f"study '{name}': {one_line(error)}; keep metric and direction, or use --study-name"
        ) from None
    directions = tuple(each.name.lower() for each in study.directions)
    kept = attributes.metrics_of(study) or list(definition.metrics)
    if directions != definition.directions or kept != list(definition.metrics):
        raise StorageError(
            f"study '{name}' was begun with metric {', '.join(kept)} ({', '.join(directions)}); "
            "put metric and direction back, or start anew with --study-name"
        )
    attributes.set_metrics(study, definition.metrics)
    space.check_unchanged(definition, study.get_trials(deepcopy=False))
    return study


def load(name: str, storage_url: str) -> optuna.Study:
    """Return an existing study, to look at it; nothing is created.

    Raises:
        StorageError: The storage or the study does not exist.
    """
    return load_with_storage(name, storage_url)[0]


def load_with_storage(name: str, storage_url: str) -> tuple[optuna.Study, BaseStorage]:
    """Return an existing study and its storage; nothing is created.

    Raises:
        StorageError: The storage or the study does not exist.
    """
    file = file_of(storage_url)
    if file is not None and not file.is_file():
        raise StorageError(f"study '{name}': there is no {file}; run the search first, or give its --storage")
    storage = open_storage(storage_url, create=False)
    try:
        with storage_errors(storage_url):
            return optuna.load_study(study_name=name, storage=storage), storage
    except KeyError:
        known = sorted(optuna.get_all_study_names(storage))
        has = f"it has {', '.join(known[:20])}" if known else "it has none"
        raise StorageError(f"no study '{name}' in {storage_url}; {has}{did_you_mean(name, known)}") from None


def warm_start(definition: Definition) -> list[dict[str, Any]]:
    """Return the configurations of another study's best trials that lie in this study's space.

    Raises:
        StorageError: There is no such study.
    """
    wanted = definition.search.warm_start
    if wanted is None:
        return []
    try:
        other = load(wanted.study, wanted.storage or default_storage(wanted.study))
    except StorageError as error:
        raise StorageError(f"search.warm_start: {error}") from None
    complete = [t for t in other.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(other.directions) == len(definition.directions):
        complete = best_trials(definition, complete)
    inside = [
        {name: value for name, value in trial.params.items() if space.contains(definition, name, value)}
        for trial in complete[: wanted.n_trials]
    ]
    return [configuration for configuration in inside if configuration]
