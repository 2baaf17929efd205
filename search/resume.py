"""What a study remembers of its searches: noted, recovered after a crash, continued."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.budget import RUN_AGAIN, failed_itself
from search.errors import UsageError
from search.study import attributes, orders, ranking, space
from search.study.attributes import VERSION, read
from search.study.comparable import Basis, Comparison, changes
from search.study.create import untried
from search.study.files import Lock, StudyFiles
from search.study.proposals import Suggestion
from search.studyfile.schema import Definition
from search.system import machine
from search.system.retry import waited
from search.training.result import TrialResult, result_of

BEAT_SECONDS = 30.0  # how often a search shows that it lives
_SILENT_SECONDS = 4 * BEAT_SECONDS  # a search whose last beat is older than that, by this machine's clock, is watched
_WATCH_SECONDS = 2 * BEAT_SECONDS  # one that does not beat once while it is watched is dead
_CLAIM_SECONDS = 0.3  # until a claim written to the study counts, where no file lock decides
UNFINISHED = ("interrupted", "trained")  # states of a search that `--resume` goes on with
WITH_ITS_SEARCH = f"stopped with its search; {RUN_AGAIN}"

OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class SearchRecord:
    """What a study remembers of one search.

    Attributes:
        search_id: Names the search.
        n_trials: Its budget.
        state: `running`; `interrupted`; `trained` when only MLflow is owed something; `finished`,
            which is written last.
        began: When it began, UTC, ISO 8601.
        host: Its process, as `machine.Process` has it.
        boot_id: Likewise.
        namespace: Likewise; empty when version 0.1 wrote the record.
        pid: Likewise.
        started: Likewise.
        owner: Who claimed it last.
        beat: When it last showed that it lives, in seconds since 1970.
        described: Its settings, as MLflow shows them.
        dataset: Its data, as MLflow shows them.
        stopped: Why it ended before its budget was spent.
        registers: Whether it registers the best trial's model.
        basis: What its values are measured on; see `search.study.comparable`.
        trivial: What the trivial answer scores on its data, by metric.
        first: Configurations that it was to train before the sampler's own.
        version: The version of this package that began or resumed it last; empty where an earlier one did.
    """

    search_id: str
    n_trials: int
    state: str = "running"
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    host: str = ""
    boot_id: str = ""
    namespace: str = ""
    pid: int = 0
    started: float = 0.0
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    beat: float = field(default_factory=time.time)
    described: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    registers: bool = True
    basis: dict[str, Any] = field(default_factory=dict)
    trivial: dict[str, float] = field(default_factory=dict)
    first: list[dict[str, Any]] = field(default_factory=list)
    version: str = ""

    @property
    def process(self) -> machine.Process:
        """The process that runs it."""
        return machine.Process(self.host, self.boot_id, self.namespace, self.pid, self.started)

    def write(self, study: optuna.Study) -> None:
        """Write the record to the study."""
        attributes.set_search(study, self.search_id, {k: v for k, v in asdict(self).items() if k != "search_id"})


def search_records(study: optuna.Study) -> list[SearchRecord]:
    """Return the records of a study's searches, oldest first."""
    found = [
        read(SearchRecord, {**value, "search_id": search_id}, f"search {search_id}")
        for search_id, value in attributes.searches_of(study).items()
    ]
    return sorted(found, key=lambda each: each.began)


class Claim:
    """A search of this process: its record in the study, and the lock and the beats that show that it lives.

    Attributes:
        record: The record.
        obeyed: The last order that the search got before: when it is resumed that is obeyed already.
    """

    def __init__(self, study: optuna.Study, record: SearchRecord, lock: Lock) -> None:
        self.obeyed = orders.of_search(study, record.search_id)
        self._study, self._lock, self.record = study, lock, record
        self._writing, self._over = threading.Lock(), threading.Event()
        self.write(state="running", beat=time.time(), version=VERSION, **asdict(machine.this_process()))
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(Exception):  # the storage is away; the search itself meets that too
                self.write(beat=time.time())

    def write(self, **changes: Any) -> None:
        """Write changes of the record to the study."""
        with self._writing:
            self.record = replace(self.record, **changes)
            self.record.write(self._study)

    def ended(self, state: str, stopped: str = "") -> None:
        """Write that the search is `finished` or `interrupted`, and release its lock."""
        self._over.set()
        self.write(state=state, stopped=stopped)
        self.release()

    def release(self) -> None:
        """Release the lock; a search that is still noted as running then counts as killed."""
        self._over.set()
        self._lock.release()


def begin(study: optuna.Study, files: StudyFiles, n_trials: int, **facts: Any) -> Claim:
    """Note a new search in the study, and hold its lock."""
    record = SearchRecord(uuid.uuid4().hex, n_trials, **facts)
    lock = files.claim(record.search_id)
    assert lock is not None  # noqa: S101 - for the type checker: nobody else knows its name
    return Claim(study, record, lock)


def alive(record: SearchRecord, files: StudyFiles) -> bool | None:
    """Return whether a running search lives; None where neither its lock nor its process is seen, and it is silent.

    The lock decides where it is seen: a process may outlive its search, as in a notebook. The system releases the lock
    of a process that died, also in a container that is gone, but tells other machines of it only where the file system
    does.
    """
    held = files.claimed(record.search_id)
    if held or (held is False and record.boot_id == machine.boot_id()):
        return held
    lives = record.process.lives()
    if lives is not None:
        return lives
    return True if 0 <= time.time() - record.beat < _SILENT_SECONDS else None


def _dead(study: optuna.Study, files: StudyFiles, on_message: OnMessage) -> list[SearchRecord]:
    """Return the searches noted as running that do not live; a clock alone decides nothing: silent ones are watched."""
    running = [(record, alive(record, files)) for record in search_records(study) if record.state == "running"]
    silent = {record.search_id: record for record, lives in running if lives is None}
    if silent:
        hosts = ", ".join(sorted({record.host for record in silent.values()}))
        on_message(f"a search on {hosts} is silent; watching for up to {_WATCH_SECONDS:g} s whether it lives")

    def all_beat() -> bool:
        for record in search_records(study):
            if record.search_id in silent and record.beat != silent[record.search_id].beat:
                del silent[record.search_id]
        return not silent

    waited(all_beat, _WATCH_SECONDS, min(1.0, _WATCH_SECONDS / 10))
    return [record for record, lives in running if lives is False or record.search_id in silent]


def recover_killed_searches(
    study: optuna.Study, storage: BaseStorage, files: StudyFiles, on_message: OnMessage = lambda _: None
) -> set[str]:
    """Finish what killed searches left: trials RUNNING in the study, searches noted as running.

    A trial that left a checkpoint stays RUNNING until its search is resumed.

    Args:
        on_message: Told when a search is watched for long.

    Returns:
        The searches that were killed.
    """
    dead = _dead(study, files, on_message)
    for record in dead:
        for trial in attributes.trials_of_search(study, record.search_id):
            ended = attributes.outcome_of(trial) is not None
            if trial.state == TrialState.RUNNING and (ended or not files.goes_on(trial.number)):
                finish_running(study, storage, trial)
                files.forget_checkpoint(trial.number)
        replace(record, state="interrupted").write(study)
    return {record.search_id for record in dead}


def finish_running(study: optuna.Study, storage: BaseStorage, trial: FrozenTrial) -> None:
    """Tell the study what became of a trial whose search died: its outcome if that was written, else that it failed."""
    trial_id = attributes.id_of(storage, study, trial.number)
    result = result_of(trial)
    if result is None:
        result = TrialResult(trial.number, "died", 0, reason=WITH_ITS_SEARCH)
        attributes.set_outcome(storage, trial_id, result.as_text())
    study.tell(trial.number, result.objectives, state=result.state)


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


def check_resumable(study: optuna.Study) -> None:
    """Refuse to resume a study of which no search was interrupted, as far as that is told already.

    Raises:
        UsageError: Each of its searches ended, or there is none.
    """
    records = search_records(study)
    if not any(record.state in (*UNFINISHED, "running") for record in records):
        raise UsageError(f"study '{study.study_name}' has no interrupted search; {_what_instead(records)}")


def to_resume(study: optuna.Study) -> SearchRecord | None:
    """Return the newest interrupted search on the data of now, else the newest that is not finished; None without."""
    now, over = attributes.data_of(study), [each for each in search_records(study) if each.state in UNFINISHED]

    def goes_on(record: SearchRecord) -> bool:
        return record.state == "interrupted" and not (record.basis and now and changes(record.basis, now))

    return max(over, key=lambda record: (goes_on(record), record.began), default=None)


def left_to_try(definition: Definition, study: optuna.Study, basis: Basis) -> list[dict[str, Any]]:
    """Return what the newest search on the same basis was to train first, and no trial on it has."""
    over = [record for record in search_records(study) if record.state != "running"]
    records = [record for record in over if record.basis and not changes(record.basis, basis)]
    if not records:
        return []
    comparison = Comparison(study, basis)
    trials = [trial for trial in study.get_trials(deepcopy=False) if comparison.holds(trial)]
    return [each for each in untried(records[-1].first, trials) if not space.outside(definition, each)]


def claim_interrupted(study: optuna.Study, files: StudyFiles, retries: int) -> Unfinished:
    """Claim the newest interrupted search, so that no other process continues it too.

    Args:
        retries: How often a configuration that it had begun may be tried again.

    Raises:
        UsageError: There is none, or another process claimed it first.
    """
    record = to_resume(study)
    if record is None:
        what = _what_instead(search_records(study))
        raise UsageError(f"study '{study.study_name}' has no interrupted search; {what}")
    lock = files.claim(record.search_id)
    if lock is not None:
        owner = uuid.uuid4().hex
        claim = Claim(study, replace(record, owner=owner), lock)
        time.sleep(_CLAIM_SECONDS)  # machines that share a database and no files: the last to write has it
        if attributes.searches_of(study)[record.search_id]["owner"] == owner:
            return _unfinished(study, claim, retries)
        claim.release()
    raise UsageError(f"study '{study.study_name}': another process has just resumed its interrupted search")


def _what_instead(records: list[SearchRecord]) -> str:
    running = [record for record in records if record.state == "running"]
    if running:
        return f"one is running on {running[-1].host} as process {running[-1].pid}"
    return "leave out --resume to run more"


def _unfinished(study: optuna.Study, claim: Claim, retries: int) -> Unfinished:
    trials = attributes.trials_of_search(study, claim.record.search_id)
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
