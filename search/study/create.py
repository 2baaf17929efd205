"""The Optuna study: created, continued or loaded, and where its first configurations come from."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import StorageError, UsageError, did_you_mean, one_line
from search.study import attributes, space
from search.study.comparable import SearchedStudy, comparable_trials
from search.study.ranking import best_trials
from search.study.storage import file_of, open_storage, storage_errors
from search.studyfile.schema import Definition, Direction
from search.studyfile.secret import read_url, revealed
from search.studyfile.settings import default_storage
from search.system.retry import waited

_CREATION_SECONDS = 3.0  # how long another process may take to name a study that it has just created


def create(
    definition: Definition, name: str, storage: BaseStorage, sampler: BaseSampler, pruner: BasePruner
) -> SearchedStudy:
    """Create the study, or load it when it exists.

    Raises:
        StorageError: The study exists with other directions or metrics.
    """
    try:
        _create(name, storage, list(definition.directions))
        study = SearchedStudy(name, storage, sampler, pruner)
    except ValueError as error:
        raise StorageError(
            f"study '{name}': {one_line(error)}; keep metric and direction, or use --study-name"
        ) from None
    directions = tuple(each.name.lower() for each in study.directions)
    kept = attributes.metrics_of(study) or list(definition.metrics)
    if directions != definition.directions or kept != list(definition.metrics):
        raise StorageError(
            f"study '{name}' was begun with metric {', '.join(kept)} ({', '.join(directions)}); "
            "put metric and direction back, or begin a new study with --study-name"
        )
    attributes.set_metrics(study, definition.metrics)
    if study.metric_names is None:
        study.set_metric_names(list(definition.metrics))  # optuna-dashboard shows them instead of "Objective 0"
    return study


def _create(name: str, storage: BaseStorage, directions: Sequence[Direction]) -> None:
    """Create the study where it is not there; the process that does gives it its identity."""
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        waited(lambda: attributes.identity_of(study) or study.get_trials(deepcopy=False), _CREATION_SECONDS)
    attributes.set_identity(study, attributes.identity_of(study) or uuid.uuid4().hex)


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


def first_configurations(definition: Definition, study: optuna.Study, *, new: bool) -> list[dict[str, Any]]:
    """Return what to try first: what is enqueued and was not tried yet, and a new study's warm start.

    Raises:
        StorageError: There is no study to start from.
    """
    enqueued = untried(definition.enqueue, study.get_trials(deepcopy=False))
    return [*enqueued, *(warm_start(definition) if new else [])]


def untried(configurations: Iterable[dict[str, Any]], trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Return the configurations, whole or in part, that none of these trials has."""
    return [
        each
        for each in configurations
        if not any(all(trial.params.get(name) == value for name, value in each.items()) for trial in trials)
    ]


def check_warm_start(definition: Definition, name: str, storage_url: str) -> None:
    """Refuse, before anything is created, a new study's warm start from one that is not there.

    Raises:
        StorageError: There is no such study.
    """
    if definition.search.warm_start is None:
        return
    try:
        begun = bool(load(name, storage_url).get_trials(deepcopy=False))
    except StorageError:
        begun = False
    if not begun:
        warm_start(definition)


def warm_start(definition: Definition) -> list[dict[str, Any]]:
    """Return the configurations of another study's best trials that lie in this study's space.

    Raises:
        StorageError: There is no such study.
    """
    wanted = definition.search.warm_start
    if wanted is None:
        return []
    try:
        given = revealed(wanted.storage or default_storage(wanted.study))
        journal = wanted.storage is not None and "://" not in given and not given.startswith(("@", "env:"))
        other = load(wanted.study, read_url(definition.folder / given if journal else given))
    except UsageError as error:
        raise StorageError(f"search.warm_start: {error}") from None
    complete = comparable_trials(other, (TrialState.COMPLETE,))
    if len(other.directions) == len(definition.directions):
        complete = best_trials(definition, complete)
    inside = [
        {name: value for name, value in trial.params.items() if space.contains(definition, name, value)}
        for trial in complete[: wanted.n_trials]
    ]
    return [configuration for configuration in inside if configuration]


def taken_over(
    definition: Definition, study: optuna.Study, earlier: Sequence[FrozenTrial], champion: str, most: int
) -> dict[int, dict[str, Any]]:
    """Return the configurations that are tried first on new rows, by trial: the champion's, then the best before.

    Args:
        earlier: Trials that were compared before the rows changed.
        champion: The number of the champion's trial; empty where it is not known.
        most: So many configurations at most.
    """
    first = [each for each in study.get_trials(deepcopy=False) if str(each.number) == champion]
    found: dict[int, dict[str, Any]] = {}
    for trial in (*first, *best_trials(definition, earlier)):
        params = space.translated(definition, trial.params)
        known = params is not None and not space.outside(definition, params) and params not in found.values()
        if params is not None and known and len(found) < most:
            found.setdefault(trial.number, params)
    return found
