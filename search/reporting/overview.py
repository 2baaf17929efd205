"""Which studies are here: those of Optuna's storages, with what the model registry has of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from search.errors import SearchError, StorageError
from search.study import ranking
from search.study.attributes import searches_of
from search.study.comparable import comparable_trials
from search.study.ranking import states_of
from search.study.storage import file_of, open_storage, storage_errors

_JOURNALS = "studies/*.journal"


@dataclass(frozen=True)
class StudyOverview:
    """A study at a glance.

    Attributes:
        states: How many trials are in each state.
        values: The values of the trial that would be registered, one for each metric; empty without a complete trial.
        front: How many trials are on the Pareto front; 0 for a study of one metric.
        versions: How many versions the registered model of its name has; None where MLflow cannot be asked.
        champion: The version that is champion.
        package: The version of this package that searched last; empty before 0.2 and where none did.
    """

    study: str
    storage: str
    states: dict[str, int]
    values: tuple[float, ...]
    front: int
    versions: int | None
    champion: str | None
    package: str = ""

    @property
    def best(self) -> float | None:
        """The best value, of several metrics the first of that trial; None without a complete trial."""
        return self.values[0] if self.values else None

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "study": self.study,
            "trials": sum(self.states.values()),
            "best": list(self.values) if len(self.values) > 1 else self.best,
            **({"front": self.front} if self.front else {}),
            "versions": self.versions or 0,
            "champion": self.champion,
            "package": self.package,
        }


def overview(
    storage: str | None, tracking_uri: str | None, on_message: Callable[[str], None] = lambda _: None
) -> list[StudyOverview]:
    """Return the studies of a storage, by name; without one, those of the journals in `studies/`.

    Raises:
        StorageError: The storage does not exist or cannot be read.
    """
    registry = _Registry(tracking_uri, on_message)
    if storage is not None:
        found = list(_studies(storage))
    else:
        found = [each for path in sorted(Path().glob(_JOURNALS)) for each in _readable(str(path), on_message)]
    return sorted(map(registry.completed, found), key=lambda each: each.study)


def _readable(url: str, on_message: Callable[[str], None]) -> list[StudyOverview]:
    """Return a journal's studies; of one that cannot be read, say why."""
    try:
        return list(_studies(url))
    except StorageError as error:
        on_message(str(error))
        return []


def _studies(url: str) -> Iterator[StudyOverview]:
    file = file_of(url)
    if file is not None and not file.is_file():
        raise StorageError(f"there is no {file}; run a search first, or give its --storage")
    storage = open_storage(url, create=False)
    with storage_errors(url):
        names = optuna.get_all_study_names(storage)
    for name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        trials, goals = comparable_trials(study), ranking.goals_of(study)
        best = ranking.leading_trials(goals, study)[:1]
        front = len(ranking.pareto_front(goals, trials)) if len(goals.directions) > 1 else 0
        states = states_of(study.get_trials(deepcopy=False))
        yield StudyOverview(
            name, url, states, tuple(best[0].values) if best else (), front, None, None, _package(study)
        )


def _package(study: optuna.Study) -> str:
    """Return the version that searched last; records of a newer version, which cannot be read here, have one too."""
    searches = sorted(searches_of(study).values(), key=lambda each: str(each.get("began", "")))
    return next((str(each["version"]) for each in reversed(searches) if each.get("version")), "")


class _Registry:
    """MLflow's registry, asked only where it exists, and no more once it does not answer."""

    def __init__(self, tracking_uri: str | None, on_message: Callable[[str], None]) -> None:
        self._uri, self._on_message, self._away = tracking_uri, on_message, False

    def completed(self, study: StudyOverview) -> StudyOverview:
        """Return a study with its versions and champion."""
        from search.tracking import registry, store

        uri = store.set_uri(self._uri)
        if self._away or not store.exists(uri):
            return study
        try:
            with store.existing_store(uri):
                versions = registry.all_versions(study.study)
                champion = next((each.version for each in versions if each.champion), None)
        except SearchError as error:
            self._away = True
            self._on_message(f"{error}; versions and champions are not shown")
            return study
        return replace(study, versions=len(versions), champion=champion)
