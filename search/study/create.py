"""The Optuna study: created, continued or loaded, and where its first configurations come from."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import StorageError, UsageError, did_you_mean, one_line
from search.study import attributes, space
from search.study.ranking import best_trials
from search.study.storage import file_of, open_storage, storage_errors
from search.studyfile.schema import Definition
from search.studyfile.secret import read_url, revealed
from search.studyfile.settings import Settings, default_storage

if TYPE_CHECKING:
    from search.data.summary import DataSummary

_NO_SPLIT = {"source", "options", "task"}  # of [data]: the digest of the rows knows what they change


def create(
    definition: Definition, name: str, storage: BaseStorage, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """Create the study, or load it when it exists.

    Raises:
        StorageError: The study exists with other directions or metrics.
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
            "put metric and direction back, or begin a new study with --study-name"
        )
    attributes.set_metrics(study, definition.metrics)
    if study.metric_names is None:
        study.set_metric_names(list(definition.metrics))  # optuna-dashboard shows them instead of "Objective 0"
    return study


class ComparableStudy(optuna.Study):
    """A study whose pruner sees only the trials that were measured on its data of now."""

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Return these trials, as `optuna.Study` does."""
        return attributes.comparable(self.user_attrs, super().get_trials(deepcopy, states))


def check_data(study: optuna.Study, settings: Settings, data: DataSummary) -> None:
    """Note what a study's values are measured on, and refuse other data than those of its earlier trials.

    Raises:
        StorageError: The rows or the split changed, and nobody said that they may.
    """
    attributes.set_trivial(study, data.trivial)
    now = {"rows": data.digest, "parts": data.cut, "split": _split(settings.definition, data.task)}
    before, trials = attributes.data_of(study), len(study.get_trials(deepcopy=False))
    if before == now:
        return
    changes = _changes(before, now) if before else []
    if changes and trials and not settings.accept_new_data:
        raise StorageError(
            f"study '{settings.study_name}': {', '.join(changes)} changed since its earlier trials, "
            "whose values cannot be compared; begin a study with --study-name NEW, or use --accept-new-data"
        )
    attributes.set_data(study, now, trials if changes else 0)


def _split(definition: Definition, task: str) -> dict[str, Any]:
    """Return what of a study file decides which rows a value is measured on, and how, by its keys."""
    split = {f"data.{key}": value for key, value in definition.data.model_dump(mode="json", exclude=_NO_SPLIT).items()}
    split["data.task"] = task
    chosen = {name.removeprefix("val_") for name in definition.metrics}
    own = {key: each.model_dump(mode="json") for key, each in definition.own_metrics.items() if key in chosen}
    if definition.fit.validation_steps is not None:
        split["fit.validation_steps"] = definition.fit.validation_steps
    return split | {f"metrics.{key}": each for key, each in own.items()}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what of a study's data changed, the rows first."""
    rows = [f"the rows (digest {before['rows']}, now {now['rows']})"] if before["rows"] != now["rows"] else []
    if not rows and before.get("parts", now["parts"]) != now["parts"]:
        rows = [f"the parts that the data come in ({before['parts'] or 'one'}, now {now['parts'] or 'one'})"]
    known, wanted = before.get("split", {}), now["split"]
    if "parts" not in before:  # an earlier release wrote it, of [data] alone
        known = {f"data.{key}": value for key, value in known.items()}
        wanted = {key: value for key, value in wanted.items() if key in known}
    keys = [key for key in {**wanted, **known} if known.get(key) != wanted.get(key)]
    return rows + [f"{key} ({known.get(key)}, now {wanted.get(key)})" for key in keys]


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
    trials = [trial.params for trial in study.get_trials(deepcopy=False)]
    enqueued = [
        each
        for each in definition.enqueue
        if not any(all(params.get(name) == value for name, value in each.items()) for params in trials)
    ]
    return [*enqueued, *(warm_start(definition) if new else [])]


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
        other = load(wanted.study, read_url(given))
    except UsageError as error:
        raise StorageError(f"search.warm_start: {error}") from None
    complete = [t for t in other.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(other.directions) == len(definition.directions):
        complete = best_trials(definition, complete)
    inside = [
        {name: value for name, value in trial.params.items() if space.contains(definition, name, value)}
        for trial in complete[: wanted.n_trials]
    ]
    return [configuration for configuration in inside if configuration]
