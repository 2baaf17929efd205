"""What a study remembers of its searches, so that an interrupted one can be buried and finished."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat  # no public name; a test fails loudly when it moves
from optuna.trial import TrialState

from search.errors import UsageError
from search.study import attributes, ranking, space
from search.studyfile.schema import Definition


@dataclass(frozen=True)
class Record:
    """What a study remembers of one search, so that an interrupted one can be finished.

    Attributes:
        run_id: The search's run in MLflow.
        n_trials: Its budget.
        state: `running`, `finished` or `interrupted`.
    """

    run_id: str
    n_trials: int
    state: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def write(self, optuna_study: optuna.Study) -> None:
        """Write the record to the study."""
        attributes.set_search(optuna_study, self.run_id, {k: v for k, v in vars(self).items() if k != "run_id"})

    def ended(self, state: str, optuna_study: optuna.Study) -> None:
        """Write that the search is `finished` or `interrupted`."""
        replace(self, state=state).write(optuna_study)

    @property
    def alive(self) -> bool:
        """Whether the search's process may still run; true for one on another machine."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def records(optuna_study: optuna.Study) -> list[Record]:
    """Return the records of a study's searches, oldest first."""
    found = [Record(run_id=run_id, **value) for run_id, value in attributes.searches_of(optuna_study).items()]
    return sorted(found, key=lambda record: record.began)


def bury_the_dead(definition: Definition, optuna_study: optuna.Study, storage: BaseStorage) -> None:
    """Record trials that a killed search left RUNNING as failed, and that search as interrupted."""
    from search.tracking import runs as tracking

    lifeless = _lifeless(optuna_study, storage)
    for record in records(optuna_study):
        if record.state != "running" or (record.alive and record.run_id not in lifeless):
            continue
        for trial in optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.system_attrs.get(attributes.SEARCH_RUN) == record.run_id:
                optuna_study.tell(trial.number, state=TrialState.FAIL)
        tracking.bury(definition, optuna_study, record.run_id, "its search was killed")
        record.ended("interrupted", optuna_study)


def beat(storage: BaseStorage, trial_id: int) -> None:
    """Show that a trial is alive, where the storage keeps heartbeats."""
    if isinstance(storage, BaseHeartbeat) and storage.get_heartbeat_interval() is not None:
        storage.record_heartbeat(trial_id)


def _lifeless(optuna_study: optuna.Study, storage: BaseStorage) -> set[str]:
    """Fail trials whose heartbeat stopped, on whatever machine they ran, and return their searches' runs."""
    if not isinstance(storage, BaseHeartbeat) or storage.get_heartbeat_interval() is None:
        return set()
    before = optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    optuna.storages.fail_stale_trials(optuna_study)
    alive = {trial.number for trial in optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    return {str(trial.system_attrs.get(attributes.SEARCH_RUN)) for trial in before if trial.number not in alive}


@dataclass(frozen=True)
class Unfinished:
    """An interrupted search: what is left of its budget, and the configurations it had begun."""

    record: Record
    left: int
    begun: list[dict[str, Any]]


def newest_interrupted(optuna_study: optuna.Study) -> Unfinished:
    """Return the newest interrupted search.

    Raises:
        UsageError: There is none.
    """
    interrupted = [record for record in records(optuna_study) if record.state == "interrupted"]
    if not interrupted:
        running = [record for record in records(optuna_study) if record.state == "running"]
        if running:
            raise UsageError(
                f"study '{optuna_study.study_name}' has no interrupted search; one is running on "
                f"{running[-1].host} as process {running[-1].pid}"
            )
        raise UsageError(f"study '{optuna_study.study_name}' has no interrupted search; leave out --resume to run more")
    record = interrupted[-1]
    trials = [
        t for t in optuna_study.get_trials(deepcopy=False) if t.system_attrs.get(attributes.SEARCH_RUN) == record.run_id
    ]
    ended = [t for t in trials if t.state in ranking.FINISHED or t.system_attrs.get(attributes.FAILED_ITSELF)]
    tried = {space.configuration(t.params) for t in ended}
    begun = [t.params for t in trials if t not in ended and space.configuration(t.params) not in tried]
    return Unfinished(record, max(0, record.n_trials - len(ended)), begun)
