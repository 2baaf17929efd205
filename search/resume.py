"""What a study remembers of its searches: noted, recovered after a crash, continued."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat  # no public name; a test fails loudly when it moves
from optuna.trial import FrozenTrial, TrialState

from search.budget import RUN_AGAIN, failed_itself
from search.errors import UsageError
from search.study import attributes, ranking, space
from search.study.proposals import Suggestion
from search.study.spool import SearchLock, Spool
from search.training.result import TrialResult

BEAT_SECONDS = 30.0  # how often a search shows that it lives
_STALE_SECONDS = 4 * BEAT_SECONDS  # a search on another machine that was silent for so long is dead
_CLAIM_SECONDS = 0.3  # until a claim written to the study counts, where no file lock decides
WITH_ITS_SEARCH = f"stopped with its search; {RUN_AGAIN}"


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


@dataclass(frozen=True)
class SearchRecord:
    """What a study remembers of one search.

    Attributes:
        search_id: Names the search.
        n_trials: Its budget.
        state: `running`; `interrupted`; `trained` when only MLflow is owed something; `finished`,
            which is written last.
        began: When it began, UTC, ISO 8601.
        host: Where it runs; for messages.
        pid: Its process; for messages.
        boot_id: The boot of the machine that it runs on.
        owner: Who claimed it last.
        beat: When it last showed that it lives, in seconds since 1970.
        described: Its settings, as MLflow shows them.
        dataset: Its data, as MLflow shows them.
        stopped: Why it ended before its budget was spent.
        registers: Whether it registers the best trial's model.
        basis: What its values are measured on; see `search.study.comparable`.
    """

    search_id: str
    n_trials: int
    state: str = "running"
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    boot_id: str = field(default_factory=_boot_id)
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    beat: float = field(default_factory=time.time)
    described: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    registers: bool = True
    basis: dict[str, Any] = field(default_factory=dict)

    def write(self, study: optuna.Study) -> None:
        """Write the record to the study."""
        attributes.set_search(study, self.search_id, {k: v for k, v in asdict(self).items() if k != "search_id"})


def search_records(study: optuna.Study) -> list[SearchRecord]:
    """Return the records of a study's searches, oldest first."""
    known = set(SearchRecord.__dataclass_fields__)
    found = [
        SearchRecord(search_id, **{name: each for name, each in value.items() if name in known})
        for search_id, value in attributes.searches_of(study).items()
    ]
    return sorted(found, key=lambda each: each.began)


def trials_of(study: optuna.Study, search_id: str) -> list[FrozenTrial]:
    """Return the trials of one search, by number."""
    return attributes.trials_of_search(study, search_id)


class Claim:
    """A search of this process: its record in the study, and the lock that shows that it lives."""

    def __init__(self, study: optuna.Study, record: SearchRecord, lock: SearchLock) -> None:
        self._study, self._lock, self.record = study, lock, record
        self._last = time.monotonic()

    def record_heartbeat(self) -> None:
        """Show, every half minute, that the search lives."""
        if time.monotonic() - self._last >= BEAT_SECONDS:
            self._last = time.monotonic()
            self.write(beat=time.time())

    def write(self, **changes: Any) -> None:
        """Write changes of the record to the study."""
        self.record = replace(self.record, **changes)
        self.record.write(self._study)

    def ended(self, state: str, stopped: str = "") -> None:
        """Write that the search is `finished` or `interrupted`, and release its lock."""
        self.write(state=state, stopped=stopped)
        self.release()

    def release(self) -> None:
        """Release the lock; a search that is still noted as running then counts as killed."""
        self._lock.release()


def begin(study: optuna.Study, spool: Spool, n_trials: int, **facts: Any) -> Claim:
    """Note a new search in the study, and hold its lock."""
    record = SearchRecord(uuid.uuid4().hex, n_trials, **facts)
    lock = spool.lock(record.search_id)
    lock.take()
    record.write(study)
    return Claim(study, record, lock)


def alive(record: SearchRecord, spool: Spool) -> bool:
    """Return whether a running search's process may still live.

    A lock file decides where there is one: the system releases the lock of a process that died,
    also of one that waits to be reaped and of one in a container that is gone. Elsewhere the
    search's own heartbeat does.
    """
    held = spool.lock(record.search_id).held_elsewhere()
    fresh = time.time() - record.beat < _STALE_SECONDS
    if held is None:
        return fresh and not (record.boot_id == _boot_id() and _gone(record.pid))
    return held or (fresh and record.boot_id != _boot_id() and record.host != socket.gethostname())


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    return False


def recover_killed_searches(
    study: optuna.Study, storage: BaseStorage, spool: Spool, goes_on: Callable[[int], bool] = lambda _: False
) -> set[str]:
    """Finish what killed searches left: trials RUNNING in the study, searches noted as running.

    Args:
        study: The study.
        storage: Its storage.
        spool: Its waiting files.
        goes_on: Whether a trial of this number can go on from a checkpoint; it stays RUNNING until
            its search is resumed.

    Returns:
        The searches that were killed.
    """
    recovered: set[str] = set()
    _fail_stale(study, storage)
    for record in search_records(study):
        if record.state != "running" or alive(record, spool):
            continue
        for trial in trials_of(study, record.search_id):
            if trial.state == TrialState.RUNNING and not goes_on(trial.number):
                finish_running(study, storage, trial)
        recovered.add(record.search_id)
        replace(record, state="interrupted").write(study)
    return recovered


def finish_running(study: optuna.Study, storage: BaseStorage, trial: FrozenTrial) -> None:
    """Tell the study what became of a trial whose search died: its outcome if that was written, else that it failed."""
    trial_id = attributes.id_of(storage, study, trial.number)
    text = attributes.outcome_of(trial)
    if text is None:
        result = TrialResult(trial.number, "died", 0, reason=WITH_ITS_SEARCH)
        attributes.set_outcome(storage, trial_id, result.as_text())
    else:
        result = TrialResult.from_text(text)
    study.tell(trial.number, result.objectives, state=result.state)


def record_heartbeat(storage: BaseStorage, trial_id: int) -> None:
    """Show that a trial is alive, where the storage keeps heartbeats."""
    if isinstance(storage, BaseHeartbeat) and storage.get_heartbeat_interval() is not None:
        storage.record_heartbeat(trial_id)


def _fail_stale(study: optuna.Study, storage: BaseStorage) -> None:
    """Fail trials whose heartbeat stopped, on whatever machine they ran."""
    if isinstance(storage, BaseHeartbeat) and storage.get_heartbeat_interval() is not None:
        optuna.storages.fail_stale_trials(study)


@dataclass(frozen=True)
class Unfinished:
    """An interrupted search that this process has claimed.

    Attributes:
        left: What is left of its budget.
        first: What it had begun and not ended: trials that go on from a checkpoint, configurations to try again.
    """

    claim: Claim
    left: int
    first: list[Suggestion]


def claim_interrupted(
    study: optuna.Study, spool: Spool, retries: int, sleep: Callable[[float], None] = time.sleep
) -> Unfinished:
    """Claim the newest interrupted search, so that no other process continues it too.

    Args:
        study: The study.
        spool: Its waiting files.
        retries: How often a configuration that it had begun may be tried again.
        sleep: Waits.

    Raises:
        UsageError: There is none, or another process claimed it first.
    """
    records = search_records(study)
    interrupted = [record for record in records if record.state in ("interrupted", "trained")]
    if not interrupted:
        raise UsageError(f"study '{study.study_name}' has no interrupted search; {_what_instead(records)}")
    record = interrupted[-1]
    lock = spool.lock(record.search_id)
    owner = uuid.uuid4().hex
    if lock.take():
        claim = Claim(study, record, lock)
        claim.write(
            state="running",
            owner=owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            boot_id=_boot_id(),
            beat=time.time(),
        )
        sleep(_CLAIM_SECONDS)  # machines that share a database and no files: the last to write has it
        if attributes.searches_of(study)[record.search_id]["owner"] == owner:
            return _unfinished(study, claim, retries)
        lock.release()
    raise UsageError(f"study '{study.study_name}': another process has just resumed its interrupted search")


def _what_instead(records: list[SearchRecord]) -> str:
    running = [record for record in records if record.state == "running"]
    if running:
        return f"one is running on {running[-1].host} as process {running[-1].pid}"
    return "leave out --resume to run more"


def _unfinished(study: optuna.Study, claim: Claim, retries: int) -> Unfinished:
    trials = trials_of(study, claim.record.search_id)
    ended = [trial for trial in trials if trial.state in ranking.FINISHED or failed_itself(trial)]
    first: dict[str, Suggestion] = {}
    for trial in trials:
        if trial not in ended:
            goes_on = trial.number if trial.state == TrialState.RUNNING else None
            left = int(trial.system_attrs.get(attributes.RETRIES, 0)) if goes_on is not None else retries
            first[space.configuration(trial.params)] = Suggestion(trial.params, left, goes_on)
    tried = {space.configuration(trial.params) for trial in ended}
    owed = [each for configuration, each in first.items() if each.number is not None or configuration not in tried]
    return Unfinished(claim, max(0, claim.record.n_trials - len(ended)), owed)
