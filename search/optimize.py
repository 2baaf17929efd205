"""The search: ask, run, record, tell, until the budget is spent. The one place that decides.

A trial that fails is recorded and the search goes on; any other error ends it. Each slot has a
thread that holds the trial's MLflow run while a worker process trains: workers never talk to
MLflow, so one process writes to its store, and a worker costs nothing but its training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.data.summary import DataSummary
from search.errors import Interrupted, SearchError, TrialFailed, one_line
from search.resume import beat
from search.study import attributes, ranking, samplers, space, storage
from search.study.proposals import Proposal, Sampling
from search.study.ranking import beats_all
from search.studyfile.settings import Settings
from search.training.result import TrialResult
from search.workers import worker
from search.workers.local import Slot, reason_of

if TYPE_CHECKING:
    from search.tracking.runs import SearchRun, TrialRun

_INTERRUPTED = "interrupted"
_POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0  # what running trials are given when the time is up


@dataclass(frozen=True)
class Progress:
    """Where the search stands, told after each trial begins or ends.

    Attributes:
        number: The trial that began or ended.
        state: `began`, `complete`, `pruned` or `failed`.
        value: Its value, when complete and of one metric.
        best_number: The best trial so far.
        best_value: Its (first) value.
        done: Trials that came to their own end.
        total: The budget.
        seconds_left: Estimate of the time until the budget is spent.
        reason: Why a trial was pruned or failed.
    """

    number: int
    state: str
    value: float | None
    best_number: int | None
    best_value: float | None
    done: int
    total: int
    seconds_left: float | None
    reason: str = ""


Hook = Callable[[Progress], None]


@dataclass
class _Counts:
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    died: int = 0

    @property
    def own_ends(self) -> int:
        """Trials that came to their own end; those that died with a worker stand beside them."""
        return self.complete + self.pruned + self.failed - self.died


@dataclass
class _Retry:
    params: dict[str, Any]
    left: int


@dataclass
class _State:
    """What the slots' threads share, under one lock."""

    remaining: int
    retries: list[_Retry] = field(default_factory=list)
    counts: _Counts = field(default_factory=_Counts)
    best: FrozenTrial | None = None
    kept: list[tuple[float, ...]] = field(default_factory=list)  # values whose model was kept
    since_best: int = 0
    deaths_in_a_row: int = 0
    stop: str = ""


class Search:
    """One search of a study.

    Args:
        settings: What to do.
        optuna_study: The study, created.
        storage: Its storage.
        run: The search's run in MLflow.
        job: What workers are told.
        data: What they found the data to be.
        hook: Told of each trial's beginning and end; it must not raise.
    """

    def __init__(
        self,
        settings: Settings,
        optuna_study: optuna.Study,
        storage: BaseStorage,
        run: SearchRun,
        job: worker.Job,
        data: DataSummary,
        hook: Hook,
    ) -> None:
        self._settings, self._study, self._storage = settings, optuna_study, storage
        self._run, self._job, self._data, self._hook = run, job, data, hook
        self._definition = settings.definition
        self._lock = threading.RLock()
        self._state = _State(settings.n_trials)
        self._started = time.monotonic()
        self._slots: Sequence[Slot] = ()
        trials = optuna_study.get_trials(deepcopy=False)
        finished = [t for t in trials if t.state in ranking.FINISHED]
        sampler = None
        if settings.sampler != "grid":
            sampler = samplers.make_sampler(self._definition, settings.sampler, settings.seed, finished)
        self._sampling = Sampling(self._definition, sampler, settings.seed)
        self._state.best = next(iter(ranking.best_trials(self._definition, trials)), None)

    @property
    def counts(self) -> _Counts:
        """How many of this search's trials ended how."""
        return self._state.counts

    @property
    def stopped(self) -> str:
        """Why the search ended before its budget was spent; empty when it did not."""
        return self._state.stop

    def enqueue(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Try these configurations first."""
        self._sampling.enqueue([dict(each) for each in configurations])

    def retry(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Try these first, as an interrupted search had begun them already."""
        self._state.retries += [_Retry(params, self._definition.search.retries) for params in configurations]

    def optimize(self, slots: Sequence[Slot]) -> None:
        """Run trials in these slots until the budget is spent or a reason to stop is met.

        Raises:
            Interrupted: Ctrl-C or a termination signal came; running trials are recorded as failed.
            SearchError: The storage or MLflow failed.
        """
        self._slots = slots
        with ThreadPoolExecutor(len(slots)) as threads:
            working = [threads.submit(self._work, slot) for slot in slots]
            try:
                wait(working)
            except KeyboardInterrupt:
                self._stop(_INTERRUPTED)
                for slot in slots:
                    slot.stop()
                wait(working)
                raise Interrupted("interrupted; everything finished so far is kept, and --resume goes on") from None
        for done in working:
            done.result()

    def _stop(self, reason: str) -> None:
        with self._lock:
            self._state.stop = self._state.stop or reason

    def _work(self, slot: Slot) -> None:
        """Train one trial after the other in a slot."""
        try:
            while (trial := self._next()) is not None:
                self._one(slot, trial)
        except BaseException as error:
            self._stop(one_line(error))  # the other slots end with their trials
            raise

    def _next(self) -> optuna.Trial | None:
        """Return the next trial, or None when there is a reason to stop."""
        with self._lock:
            state = self._state
            if state.stop or state.remaining == 0:
                return None
            timeout = self._settings.timeout
            if timeout is not None and time.monotonic() - self._started >= timeout:
                self._stop(f"the time of {timeout:g} s is up")
                return None
            self._sampling.learn(self._study.get_trials(deepcopy=False))
            retry = state.retries.pop() if state.retries else None
            if retry is not None:
                self._sampling.enqueue([retry.params])
            proposal = self._sampling.propose()
            if proposal is None:
                self._stop("every configuration of the space has been tried")
                return None
            trial = self._begin(proposal, retry.left if retry else self._definition.search.retries)
            state.remaining -= 1
            return trial

    def _begin(self, proposal: Proposal, retries: int) -> optuna.Trial:
        """Write a proposal to the storage, whole, as a running trial."""
        known = space.distributions(self._definition)
        template = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions={name: known[name] for name in proposal.params},
            system_attrs={
                **proposal.attributes,
                **({attributes.FIXED: proposal.fixed} if proposal.fixed else {}),
                attributes.SEARCH_RUN: self._run.run_id,
                attributes.RETRIES: retries,
            },
        )
        study_id = self._storage.get_study_id_from_name(self._settings.study_name)
        trial_id = self._storage.create_new_trial(study_id, template_trial=template)
        trial = optuna.trial.Trial(self._study, trial_id)
        self._sampling.began(proposal, trial.number)
        return trial

    def _one(self, slot: Slot, trial: optuna.Trial) -> None:
        """Train one trial inside its MLflow run, and tell the study what became of it."""
        self._tell_hook(trial.number, "began")
        record = self._run.trial(trial)
        values: Sequence[float] | None = None
        state, reason, died = TrialState.COMPLETE, "", False
        try:
            values = record.inside(lambda: self._train(slot, trial, record))
        except optuna.TrialPruned as error:
            state, reason = TrialState.PRUNED, str(error)
        except TrialFailed as error:
            state, reason, died = TrialState.FAIL, error.reason, isinstance(error, _Died)
            record.failed(error)
            if not died:
                attributes.note(self._storage, self._study, trial.number, attributes.FAILED_ITSELF, True)
        frozen = self._tell(trial, values, state)
        record.finish(self._study, frozen)
        self._count(frozen, died)
        self._tell_hook(frozen.number, frozen.state.name.lower(), frozen, reason)

    def _tell(self, trial: optuna.Trial, values: Sequence[float] | None, state: TrialState) -> FrozenTrial:
        self._study.tell(trial, values, state=state)
        return self._storage.get_trial(attributes.id_of(self._storage, self._study, trial.number))

    def _train(self, slot: Slot, trial: optuna.Trial, record: TrialRun) -> Sequence[float]:
        """Return the trial's values; runs inside the trial's MLflow run.

        Raises:
            optuna.TrialPruned: The pruner, or the end of the time, stopped it.
            TrialFailed: It failed by its own error, or died with its worker.
        """
        result = self._result(slot, slot.submit(worker.train, self._job, trial.number, record.run_id), trial, record)
        if result.fate == "died":
            raise _Died(result.reason)
        record.result(result)
        slot.trained(result.memory)
        if result.fate == "pruned":
            raise optuna.TrialPruned(result.reason)
        if result.fate == "failed":
            raise TrialFailed(result.reason, result.traceback)
        if result.violations:
            trial.set_user_attr(attributes.CONSTRAINTS, list(result.violations))
        if result.model is not None and self._claim(result):
            self._keep(result.model, result, trial, record)
        return result.values

    def _result(self, slot: Slot, future: Future[TrialResult], trial: optuna.Trial, record: TrialRun) -> TrialResult:
        """Wait for a worker's result; meanwhile pass on a long trial's epochs and watch the time."""
        trial_id = attributes.id_of(self._storage, self._study, trial.number)
        next_beat = 0.0
        while True:
            if time.monotonic() >= next_beat:
                beat(self._storage, trial_id)
                next_beat = time.monotonic() + storage.HEARTBEAT_SECONDS
            try:
                return future.result(timeout=_POLL_SECONDS)
            except FutureTimeout as error:
                if future.done():  # the future's own error is of the same class
                    raise _Died(str(error)) from error
                if (lost := slot.lost()) is not None:
                    slot.stop()
                    raise _Died(f"its worker died: {lost}") from None
                if self._state.stop == _INTERRUPTED:
                    raise _Died(_INTERRUPTED) from None
                record.epochs(worker.live_epochs(self._storage.get_trial(trial_id).system_attrs))
                if self._out_of_time():
                    slot.stop()
                    raise optuna.TrialPruned("the time was up") from None
            except (Exception, CancelledError) as error:
                if self._state.stop == _INTERRUPTED:
                    raise _Died(_INTERRUPTED) from None
                raise _Died(reason_of(error)) from error

    def _out_of_time(self) -> bool:
        timeout = self._settings.timeout
        return timeout is not None and time.monotonic() - self._started > timeout + min(GRACE_SECONDS, timeout)

    def _claim(self, result: TrialResult) -> bool:
        """Return whether a model is worth keeping: no trial told, and none claimed, is better."""
        with self._lock:
            complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            told = [each.values for each in complete if ranking.feasible(each)]
            if not beats_all(self._definition, result.values, [*told, *self._state.kept]):
                return False
            self._state.kept.append(result.values)
            return True

    def _keep(self, archive: bytes, result: TrialResult, trial: optuna.Trial, record: TrialRun) -> None:
        from search.tracking import logged_model
        from search.training.model import user_files

        model_id = logged_model.log(
            archive,
            self._data,
            run_id=record.run_id,
            step=result.step,
            user_files=user_files(self._definition),
            backend=self._data.backend,
            tags={"study": self._settings.study_name, "trial": str(trial.number)},
        )
        attributes.note(self._storage, self._study, trial.number, attributes.MODEL_ID, model_id)

    def _count(self, trial: FrozenTrial, died: bool) -> None:
        """Count a trial's fate, and see whether it is a reason to stop."""
        with self._lock:
            state, search = self._state, self._definition.search
            name = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")
            setattr(state.counts, name, getattr(state.counts, name) + 1)
            if trial.state == TrialState.FAIL:
                self._sampling.forget(trial.number)
            state.deaths_in_a_row = state.deaths_in_a_row + 1 if died else 0
            if died:
                state.counts.died += 1
                state.remaining += 1
                left = int(trial.system_attrs.get(attributes.RETRIES, 0))
                if left > 0:
                    state.retries.append(_Retry(dict(trial.params), left - 1))
                if state.deaths_in_a_row > 3 + 2 * len(self._slots):
                    raise SearchError(
                        f"{state.deaths_in_a_row} trials in a row died with their workers; see their runs"
                    )
                return
            if trial.state == TrialState.COMPLETE and ranking.feasible(trial) and self._leads(trial):
                state.best, state.since_best = trial, 0
            else:
                state.since_best += 1
            if search.patience and state.since_best >= search.patience:
                self._stop(f"no better trial among the last {state.since_best}")
            best = state.best.values[0] if state.best else None
            if best is not None and search.target is not None and not self._definition.better(search.target, best):
                self._stop(f"the target of {search.target:g} is reached")
            if search.terminator and trial.state == TrialState.COMPLETE and self._hopeless():
                self._stop("Optuna's terminator expects no further progress")

    def _leads(self, trial: FrozenTrial) -> bool:
        best = self._state.best
        if best is None or len(trial.values) == 1:
            return best is None or self._definition.better(trial.values[0], best.values[0])
        leader = ranking.best_trials(self._definition, self._study.get_trials(deepcopy=False))[0]
        return leader.number == trial.number

    def _hopeless(self) -> bool:
        from optuna.terminator import Terminator

        return self._state.counts.complete >= 20 and Terminator().should_terminate(self._study)

    def _tell_hook(self, number: int, state: str, trial: FrozenTrial | None = None, reason: str = "") -> None:
        with self._lock:
            done, best = self._state.counts.own_ends, self._state.best
            elapsed = time.monotonic() - self._started
            left = elapsed / done * (self._settings.n_trials - done) if done else None
            if left is not None and self._settings.timeout is not None:
                left = min(left, max(0.0, self._settings.timeout - elapsed))
            value = trial.values[0] if trial is not None and trial.state == TrialState.COMPLETE else None
            self._hook(
                Progress(
                    number=number,
                    state="failed" if state == "fail" else state,
                    value=value,
                    best_number=best.number if best else None,
                    best_value=best.values[0] if best else None,
                    done=done,
                    total=self._settings.n_trials,
                    seconds_left=left,
                    reason=reason,
                )
            )


class _Died(TrialFailed):
    """The trial's worker died, or was stopped; the trial did not come to its own end."""
