"""Every attribute that `search` writes to a study or a trial: its name, its type, and how it is read back.

No other module names an attribute. Values are what Optuna's storages keep: JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import NewerVersionError

# Of a trial.
SEARCH_RUN = "search:run"  # the search that it belongs to
FAILED_ITSELF = "search:failed"  # true when it failed by its own error, not with its worker
RETRIES = "search:retries"  # how often its configuration may be tried again when its worker dies
BEGUN = "search:begun"  # host and process of the cluster's worker that began it
EPOCHS = "search:epochs"  # followed by a number: epochs that a long trial reported while it runs
RECORDED = "search:metrics"  # its metrics by name, once it ended
OUTCOME = "search:outcome"  # what became of it, written before its state
STOP = "search:stop"  # the order to stop it
RUN_ID = "mlflow_run_id"  # its run in MLflow; MLflowCallback reads it
BRACKET = "search:bracket"  # the number that chooses its bracket of Hyperband: its own in the sampler's copy
FIXED = "fixed_params"  # Optuna's own: values that a builder's suggestions must take
CONSTRAINTS = "constraints"  # how far it is beyond each constraint
# Of a study.
ID = "id"  # what tells it from any other study, also from a later one of its name
STATE = "state"  # the folder that a person chose for what its searches leave
METRIC = "metric"
DATA = "data"  # what its values were measured on
FIRST_COMPARABLE = "first_comparable"  # of searches that note no basis: the number of the first trial on these data
ENSEMBLE = "ensemble"  # the trainings that were averaged last, and what came of it
CONFIRMED = "confirmed:"  # followed by a trial's number: what its configuration reached under new seeds
ORDER = "order:"  # followed by the id of a search: the orders that it got
EXCLUDED = "excluded:"  # followed by a trial's number: the orders to leave it out and to take it back
SEARCH = "search:"  # followed by the id of a search: what is known of that search

# optuna-dashboard's own, as its `save_note` writes them: a study's note in parts, and how often it was written.
_NOTE, _NOTE_VERSION, _NOTE_PART = "dashboard:note_str:", "dashboard:note_ver", 2045

VERSION = metadata.version("search")
_LONGEST = 60_000  # characters of an attribute; MySQL keeps no longer text

T = TypeVar("T")


def read(kind: type[T], content: Mapping[str, Any], what: str) -> T:
    """Return a dataclass with the values that a record has; fields that this version does not know are ignored.

    Args:
        kind: The dataclass.
        content: The record.
        what: What the record is of, for the error.

    Raises:
        NewerVersionError: A field that this version needs is missing.
    """
    known: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    try:
        return kind(**{name: value for name, value in content.items() if name in known})
    except (AttributeError, TypeError) as error:
        raise NewerVersionError(what, VERSION) from error


@dataclass(frozen=True)
class Confirmed:
    """What a trial's configuration reached when it was trained again under new seeds.

    Attributes:
        values: The study's metric of each training.
        metrics: All metrics of each training.
        seeds: The seed of each training.
    """

    values: tuple[float, ...] = ()
    metrics: tuple[dict[str, float], ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Their standard deviation; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"mean": self.mean, "std": self.std, "seeds": len(self.values)}


def id_of(storage: BaseStorage, study: optuna.Study, number: int) -> int:
    """Return what the storage calls the study's trial of this number."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def constraints_of(trial: FrozenTrial) -> Sequence[float]:
    """Return how far a trial is beyond each constraint; at most 0 where it is met."""
    return list(trial.user_attrs.get(CONSTRAINTS, ()))


def metrics_of_trial(trial: FrozenTrial) -> dict[str, float]:
    """Return a finished trial's metrics by name."""
    return dict(trial.system_attrs.get(RECORDED, {}))


def identity_of(study: optuna.Study) -> str:
    """Return what tells a study from any other; that of version 0.1 is its first search's id, or empty."""
    kept = study.user_attrs.get(ID)
    searches = searches_of(study)
    return str(kept or min(searches, key=lambda each: str(searches[each].get("began")), default=""))


def set_identity(study: optuna.Study, identity: str) -> None:
    """Write what tells the study from any other, once."""
    if ID not in study.user_attrs:
        study.set_user_attr(ID, identity)


def state_of(study: optuna.Study) -> str:
    """Return the folder that a person chose for what the study's searches leave; empty for none."""
    return str(study.user_attrs.get(STATE, ""))


def set_state(study: optuna.Study, folder: str) -> None:
    """Write the folder that a person chose for what the study's searches leave."""
    study.set_user_attr(STATE, folder)


def metrics_of(study: optuna.Study) -> list[str]:
    """Return the metrics that a study was begun with; empty when it does not say."""
    kept: list[str] = study.user_attrs.get(METRIC, [])
    return list(kept)


def set_metrics(study: optuna.Study, metrics: Sequence[str]) -> None:
    """Write the study's metrics, once."""
    if METRIC not in study.user_attrs:
        study.set_user_attr(METRIC, list(metrics))


def ended_elsewhere(trial: FrozenTrial) -> bool:
    """Return whether a trial of a search was failed by somebody else: a search writes an outcome first."""
    return trial.state == TrialState.FAIL and SEARCH_RUN in trial.system_attrs and OUTCOME not in trial.system_attrs


def trials_of_search(study: optuna.Study, search_id: str) -> list[FrozenTrial]:
    """Return the trials of one search, by number."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.system_attrs.get(SEARCH_RUN) == search_id]


def data_of(study: optuna.Study) -> dict[str, Any]:
    """Return what the study's values were measured on; empty when it does not say."""
    return dict(study.user_attrs.get(DATA, {}))


def set_data(study: optuna.Study, data: dict[str, Any], first_comparable: int) -> None:
    """Write what values are measured on from the trial of this number on."""
    if first_comparable:
        study.set_user_attr(FIRST_COMPARABLE, first_comparable)
    study.set_user_attr(DATA, data)


def searches_of(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return what is known of each search, by its id."""
    return {name.removeprefix(SEARCH): value for name, value in study.user_attrs.items() if name.startswith(SEARCH)}


def set_search(study: optuna.Study, search_id: str, value: dict[str, Any]) -> None:
    """Write what is known of a search."""
    study.set_user_attr(SEARCH + search_id, value)


def set_confirmed(study: optuna.Study, found: Mapping[int, Confirmed]) -> None:
    """Write what trials reached under new seeds; those of earlier searches count no longer."""
    for number in confirmed_of(study).keys() - found.keys():
        study.set_user_attr(f"{CONFIRMED}{number}", {})
    for number, each in found.items():
        study.set_user_attr(f"{CONFIRMED}{number}", asdict(each))


def confirmed_of(study: optuna.Study) -> dict[int, Confirmed]:
    """Return what trials reached under new seeds, by their numbers."""
    kept = {name: value for name, value in study.user_attrs.items() if name.startswith(CONFIRMED) and value}
    return {
        int(name.removeprefix(CONFIRMED)): Confirmed(
            tuple(value["values"]), tuple(value["metrics"]), tuple(value["seeds"])
        )
        for name, value in kept.items()
    }


def trivial_of(study: optuna.Study, trial: FrozenTrial) -> dict[str, float]:
    """Return what the trivial answer scores on the data of a trial's search, by metric; empty where it is not known."""
    search = searches_of(study).get(str(trial.system_attrs.get(SEARCH_RUN, "")), {})
    return dict(search.get("trivial") or {})


def ensemble_of(study: optuna.Study) -> dict[str, Any]:
    """Return the record of the trainings that were averaged last; empty when none were."""
    return dict(study.user_attrs.get(ENSEMBLE, {}))


def set_ensemble(study: optuna.Study, record: dict[str, Any]) -> None:
    """Write which trainings were averaged, and what came of it."""
    study.set_user_attr(ENSEMBLE, record)


def set_outcome(storage: BaseStorage, trial_id: int, text: str) -> None:
    """Write what became of a running trial, whole: the last part says how many there are.

    Args:
        storage: The study's storage.
        trial_id: What the storage calls the trial; it must be RUNNING.
        text: The outcome, as `search.training.result` writes it.
    """
    parts = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
    for index, part in enumerate(parts[:-1]):
        storage.set_trial_system_attr(trial_id, f"{OUTCOME}:{index}", part)
    storage.set_trial_system_attr(trial_id, OUTCOME, [len(parts), parts[-1]])


def outcome_of(trial: FrozenTrial) -> str | None:
    """Return the outcome that was written for a trial; None when none was."""
    head = trial.system_attrs.get(OUTCOME)
    if head is None:
        return None
    count, last = head
    return "".join([*(trial.system_attrs[f"{OUTCOME}:{index}"] for index in range(count - 1)), last])


def set_note(storage: BaseStorage, study_name: str, text: str) -> None:
    """Give a study its note in optuna-dashboard, in Markdown, unless it has one, which a person may have written."""
    study_id = storage.get_study_id_from_name(study_name)
    if _NOTE_VERSION in storage.get_study_system_attrs(study_id):
        return
    storage.set_study_system_attr(study_id, _NOTE_VERSION, 1)
    for index, start in enumerate(range(0, len(text), _NOTE_PART)):
        storage.set_study_system_attr(study_id, f"{_NOTE}{index}", text[start : start + _NOTE_PART])
