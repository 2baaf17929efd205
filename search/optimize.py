"""The search: ask, run, tell, until the budget is spent or there is a reason to stop. The one place that decides.

One thread does it all. A trial that fails is recorded and the search goes on; any other error ends
it. What became of a trial is written to the study first; `search.tracking.mirror` makes MLflow show
it, in its own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.budget import Budget, OnProgress, Progress, Retry
from search.errors import Interrupted, SearchError
from search.figures import duration
from search.resume import finish_running, record_heartbeat, trials_of
from search.stopping import GRACE_SECONDS, INTERRUPTED, Stopping, signals
from search.study import attributes, ranking, samplers, space
from search.study.proposals import Proposal, Sampling
from search.study.spool import Spool
from search.study.storage import HEARTBEAT_SECONDS
from search.studyfile.settings import Settings, arguments_of
from search.training.model import has_user_code
from search.training.result import TrialResult, live_epochs
from search.training.trial import seed_of
from search.workers import worker
from search.workers.base import Slot
from search.workers.local import reason_of
from search.workers.silence import Silence

_POLL_SECONDS = 0.5
_QUIET_SECONDS = 0.05  # without a trial that ended, before MLflow is written to: with many slots the next one waits
_RUN_SECONDS = 10.0  # how long a trial whose code may log to MLflow waits for its run
_LIVE_SECONDS = 2.0  # how often a running trial's epochs are passed on
_STOP_SECONDS = 5.0  # how long running trials may take to reach their next epoch after Ctrl-C


class Mirror(Protocol):
    """What makes MLflow show the trials; see `search.tracking.mirror`."""

    def begin(self, number: int, *, wait: float = 0.0) -> str:
        """Show that a trial runs; returns its run if that is there within `wait` seconds, else an empty text."""

    def update(self, number: int) -> None:
        """Show what the study says of a trial now."""

    def let_pass(self, busy: bool) -> None:
        """Begin no writing while the search itself is `busy`."""


class NoMirror:
    """Shows nothing: MLflow is not asked while the search runs."""

    def begin(self, number: int, *, wait: float = 0.0) -> str:  # noqa: ARG002 - as `Mirror`
        """Return no run."""
        return ""

    def update(self, number: int) -> None:
        """Do nothing."""

    def let_pass(self, busy: bool) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _Begun:
    """A trial that is RUNNING in the study; `retries` is how often its configuration may be tried again."""

    trial: optuna.Trial
    trial_id: int
    retries: int


@dataclass
class _Running:
    """A trial in a slot."""

    slot: Slot
    trial: optuna.Trial
    trial_id: int
    retries: int
    began: float
    future: Future[TrialResult]
    last_heartbeat: float = 0.0  # when its last heartbeat was written
    passed_on: float = 0.0  # when its epochs were last passed on
    epochs: int = 0  # how many were


class Search:
    """One search of a study.

    Args:
        settings: What to do.
        study: The study, created.
        storage: Its storage.
        search_id: The search, as the study knows it.
        job: What workers are told.
        mirror: Makes MLflow show the trials.
        spool: Where models wait for MLflow.
        on_progress: Called at each trial's beginning and end; it must not raise.
        on_heartbeat: Called every few seconds, to show that the search lives.
    """

    def __init__(
        self,
        settings: Settings,
        study: optuna.Study,
        storage: BaseStorage,
        search_id: str,
        job: worker.Job,
        mirror: Mirror,
        spool: Spool,
        on_progress: OnProgress,
        on_heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._study, self._storage = settings, study, storage
        self._search_id, self._job, self._mirror, self._spool = search_id, job, mirror, spool
        self._on_progress, self._on_heartbeat = on_progress, on_heartbeat
        self._definition = settings.definition
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._started = time.monotonic()
        self._free: list[Slot] = []
        self._running: list[_Running] = []
        self._going_on: list[_Begun] = []  # trials to submit again
        self._signal = 0
        self.stopped = ""
        trials = attributes.comparable_trials(study)
        finished = [each for each in trials if each.state in ranking.FINISHED]
        sampler = None
        if settings.sampler != "grid":
            sampler = samplers.make_sampler(self._definition, settings.sampler, settings.seed, finished)
        self._sampling = Sampling(self._definition, sampler, settings.seed, study.pruner)
        self._budget = Budget(settings.n_trials, self._definition.search.retries)
        self._stopping = Stopping(self._definition, study, trials)
        self._silence = Silence()
        self._needs_run = has_user_code(self._definition)  # which may log to its MLflow run

    def enqueue(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Try these configurations first."""
        self._sampling.enqueue([dict(each) for each in configurations])

    def retry(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Try these first, as an interrupted search had begun them already."""
        self._budget.try_first([dict(each) for each in configurations])

    def go_on(self, trials: Sequence[FrozenTrial]) -> None:
        """Let RUNNING trials of an interrupted search go on from their checkpoints."""
        for each in trials:
            trial_id = attributes.id_of(self._storage, self._study, each.number)
            retries = int(each.system_attrs.get(attributes.RETRIES, 0))
            self._going_on.append(_Begun(optuna.trial.Trial(self._study, trial_id), trial_id, retries))
            self._budget.remaining -= 1

    def optimize(self, slots: Sequence[Slot]) -> None:
        """Run trials in these slots until the budget is spent or a reason to stop is met.

        Raises:
            Interrupted: Ctrl-C or a termination signal came; running trials are recorded as stopped.
            SearchError: The storage failed, or no worker lives long enough to train a trial.
        """
        self._free = list(slots)
        try:
            with signals(self._ask_to_stop):
                self._fill()
                while self._running and not self._signal:
                    self._collect(_POLL_SECONDS)
                    self._fill()
                if self._signal:
                    self._interrupt()
                self._finish_unbegun()
        except BaseException as error:
            self._abandon(error)
            raise
        finally:
            self._mirror.let_pass(busy=False)
        if self._signal:
            raise self._interrupted(self._signal)

    def _interrupted(self, number: int) -> Interrupted:
        """Return the error that ends the search, with the command that goes on."""
        command = f"python -m search.run {arguments_of(self._settings)} --resume"
        return Interrupted(f"interrupted; everything finished so far is kept; go on with: {command}", number)

    def _ask_to_stop(self, number: int) -> None:
        """Take note of a signal; the loop sees it within half a second. A second one ends everything at once."""
        if self._signal:
            raise self._interrupted(number)
        self._signal = number

    def _fill(self) -> None:
        """Begin a trial in each free slot, while there is one to begin."""
        for slot in list(self._free):
            if not slot.ready() and self._running:
                continue
            begun = self._going_on.pop(0) if self._going_on and not self._signal else self._begin()
            if begun is None:
                return
            self._free.remove(slot)
            self._submit(slot, begun)

    def _begin(self) -> _Begun | None:
        """Return a new trial; None when there is a reason to begin none."""
        if self.stopped or self._signal or self._budget.remaining <= 0:
            return None
        if self._settings.timeout is not None and self._elapsed() >= self._settings.timeout:
            self.stopped = f"the time of {self._settings.timeout:g} s is up"
            return None
        retry = self._budget.begin()
        proposal = self._propose(retry)
        if proposal is None:
            self._budget.give_back(retry)
            if not self._running:  # a running one may fail, and its configuration be free again
                self.stopped = "every configuration of the space has been tried"
            return None
        retries = retry.left if retry else self._definition.search.retries
        return self._ask(proposal, retries)

    def _propose(self, retry: Retry | None) -> Proposal | None:
        self._sampling.learn(attributes.comparable_trials(self._study))
        return self._sampling.repeat(retry.params) if retry is not None else self._sampling.propose()

    def _ask(self, proposal: Proposal, retries: int) -> _Begun:
        """Write a proposal to the storage, whole, as a running trial."""
        known = space.distributions(self._definition)
        template = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions={name: known[name] for name in proposal.params},
            system_attrs={
                **proposal.attributes,
                **({attributes.FIXED: proposal.fixed} if proposal.fixed else {}),
                attributes.SEARCH_RUN: self._search_id,
                attributes.RETRIES: retries,
            },
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        trial = optuna.trial.Trial(self._study, trial_id)
        self._sampling.began(proposal, trial.number)
        return _Begun(trial, trial_id, retries)

    def _submit(self, slot: Slot, begun: _Begun) -> None:
        number = begun.trial.number
        run_id = self._mirror.begin(number, wait=_RUN_SECONDS if self._needs_run else 0.0)
        now = time.monotonic()
        running = _Running(slot, begun.trial, begun.trial_id, begun.retries, now, Future(), passed_on=now)
        self._running.append(running)  # from here on an error tells the study that the trial failed
        self._silence.look(number, 0)
        running.future = slot.submit(worker.train, self._job, number, run_id)
        self._tell_progress(number, "began")

    def _collect(self, seconds: float) -> None:
        """Wait for trials to end, record those that did, and look after the others."""
        futures = [each.future for each in self._running]
        quiet = min(seconds, _QUIET_SECONDS)
        if not wait(futures, timeout=quiet, return_when="FIRST_COMPLETED").done:
            self._mirror.let_pass(busy=False)
            wait(futures, timeout=seconds - quiet, return_when="FIRST_COMPLETED")
        self._mirror.let_pass(busy=not self._needs_run)  # a trial that needs its run waits for the mirror
        self._on_heartbeat()
        for running in list(self._running):
            if running.future.done():
                result = self._result(running)
                if not self._submit_again(running, result):
                    self._end(running, result)
            else:
                self._look_after(running)

    def _result(self, running: _Running) -> TrialResult:
        try:
            return running.future.result()
        except (Exception, CancelledError) as error:
            return self._without_result(running, "died", reason_of(error))

    def _submit_again(self, running: _Running, result: TrialResult) -> bool:
        """Let a trial go on from its checkpoint when its worker died; returns whether it does."""
        if result.fate != "died" or not worker.goes_on(self._job, result.number):
            return False
        if not self._signal and running.retries <= 0:
            return False
        self._running.remove(running)
        self._free.append(running.slot)
        self._silence.forget(running.trial.number)
        if not self._signal:  # else it waits for --resume
            self._storage.set_trial_system_attr(running.trial_id, attributes.BEGUN, "")
            self._going_on.append(_Begun(running.trial, running.trial_id, running.retries - 1))
        return True

    def _without_result(self, running: _Running, fate: Any, reason: str) -> TrialResult:
        """Return what is known of a trial whose worker returned nothing: its fate, and the epochs it passed on."""
        number = running.trial.number
        epochs = live_epochs(self._storage.get_trial(running.trial_id))
        seed = seed_of(self._settings.seed, number)
        return TrialResult(number, fate, seed, reason=reason, epochs=tuple(epochs))

    def _look_after(self, running: _Running) -> None:
        """Keep a running trial's heartbeat, pass its epochs on, and give it up when it is lost or out of time."""
        now = time.monotonic()
        if now - running.last_heartbeat >= HEARTBEAT_SECONDS:
            running.last_heartbeat = now
            record_heartbeat(self._storage, running.trial_id)
        if now - running.passed_on >= max(_LIVE_SECONDS, 0.05 * len(self._running)):
            running.passed_on = now
            self._pass_on(running)
        limit = self._settings.trial_timeout
        if (lost := running.slot.lost()) is not None:
            self._give_up(running, "died", f"its worker died: {lost}")
        elif limit is not None and now - running.began > limit:
            self._give_up(running, "failed", f"it took longer than trial_timeout = {limit:g} s")
        elif self._out_of_time():
            self._give_up(running, "pruned", "the time was up")

    def _give_up(self, running: _Running, fate: str, reason: str) -> None:
        running.slot.stop()
        self._silence.forget(running.trial.number)
        self._end(running, self._without_result(running, fate, reason))

    def _out_of_time(self) -> bool:
        timeout = self._settings.timeout
        return timeout is not None and self._elapsed() > timeout + min(GRACE_SECONDS, timeout)

    def _end(self, running: _Running, result: TrialResult) -> None:
        """Write what became of a trial to the study, then let MLflow show it."""
        number, values = result.number, result.values
        if result.model is not None and ranking.worth_keeping(self._definition, self._study, values, number):
            self._spool.put_model(number, result.model, result.predictions, result.data, result.answers)
        died = result.fate == "died"
        frozen = record(self._storage, self._study, running.trial, running.trial_id, result)
        self._running.remove(running)
        self._free.append(running.slot)
        self._silence.ended(number)
        self._mirror.update(result.number)
        if frozen.state == TrialState.FAIL:
            self._sampling.forget(result.number)
        self._budget.ended(frozen, died=died)
        if not died:
            self.stopped = self.stopped or self._stopping.reason(frozen)
        self._tell_progress(result.number, "stopped" if died else result.fate, frozen, result.reason)
        if result.memory:
            running.slot.trained(result.memory)
        if self._budget.hopeless(len(self._free) + len(self._running)):
            raise SearchError(
                f"{self._budget.deaths_in_a_row} trials in a row died with their workers (the last: {result.reason})"
            )

    def _interrupt(self) -> None:
        """Ask running trials to stop at their next epoch, and stop those that do not."""
        self.stopped = INTERRUPTED
        stop_file = self._spool.stop_file(self._search_id)
        with suppress(OSError):
            stop_file.parent.mkdir(parents=True, exist_ok=True)
            stop_file.touch()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._running and time.monotonic() < deadline:
            self._collect(0.1)
        for running in list(self._running):
            running.slot.stop()
            result = self._without_result(running, "died", worker.STOPPED)
            if not self._submit_again(running, result):
                self._end(running, result)
        stop_file.unlink(missing_ok=True)

    def _abandon(self, error: BaseException) -> None:
        """Tell the study, if it can be told, that running trials failed; their configurations may be tried again."""
        self.stopped = self.stopped or (INTERRUPTED if isinstance(error, Interrupted) else type(error).__name__)
        for running in self._running:
            with suppress(Exception):
                running.slot.stop()
            with suppress(Exception):
                result = self._without_result(running, "died", worker.STOPPED)
                record(self._storage, self._study, running.trial, running.trial_id, result)
                self._mirror.update(running.trial.number)
        with suppress(Exception):
            self._finish_unbegun()

    def _finish_unbegun(self) -> None:
        """Tell the study that trials failed which it has and no worker was given: a database was away in between."""
        for trial in trials_of(self._study, self._search_id):
            if trial.state == TrialState.RUNNING and not worker.goes_on(self._job, trial.number):
                finish_running(self._study, self._storage, trial)
                self._mirror.update(trial.number)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _pass_on(self, running: _Running) -> None:
        """Show a running trial's new epochs in MLflow, and tell how far it is, or that it was silent for long."""
        trial = self._storage.get_trial(running.trial_id)
        epochs = live_epochs(trial)
        if len(epochs) != running.epochs:
            running.epochs = len(epochs)
            self._mirror.update(trial.number)
        if epochs:
            planned = trial.params.get("epochs", self._definition.fit.epochs)
            value = epochs[-1].logs.get(self._definition.metrics[0])
            told = self._progress(trial.number, "training")
            self._on_progress(replace(told, epoch=epochs[-1].step + 1, epochs=planned, value=value))
        if silent := self._silence.look(trial.number, len(epochs)):
            way = "" if self._settings.trial_timeout else "; --trial-timeout ends trials that hang"
            self._tell_progress(trial.number, "silent", reason=f"has reported nothing for {duration(silent)}{way}")

    def _tell_progress(self, number: int, state: str, trial: FrozenTrial | None = None, reason: str = "") -> None:
        self._on_progress(self._progress(number, state, trial, reason))

    def _progress(self, number: int, state: str, trial: FrozenTrial | None = None, reason: str = "") -> Progress:
        """Return where the search stands now that this became of a trial."""
        done, best, timeout = self._budget.counts.own_ends, self._stopping.best, self._settings.timeout
        left = self._elapsed() / done * (self._settings.n_trials - done) if done else None
        if left is not None and timeout is not None:
            left = min(left, max(0.0, timeout - self._elapsed()))
        value = trial.values[0] if trial is not None and trial.state == TrialState.COMPLETE else None
        return Progress(
            number=number,
            state=state,
            value=value,
            best_number=best.number if best else None,
            best_value=best.values[0] if best else None,
            done=done,
            total=self._settings.n_trials,
            seconds_left=left,
            reason=reason,
            counts=self._budget.counts,
        )


def record(
    storage: BaseStorage, study: optuna.Study, trial: optuna.Trial, trial_id: int, result: TrialResult
) -> FrozenTrial:
    """Write a trial's outcome to the study, then its state, and return the trial as the study has it.

    A crash between the two leaves an outcome from which `search.resume` finishes.
    """
    attributes.set_outcome(storage, trial_id, result.as_text())
    if result.recorded:
        storage.set_trial_system_attr(trial_id, attributes.RECORDED, result.recorded)
    if result.fate == "failed":
        storage.set_trial_system_attr(trial_id, attributes.FAILED_ITSELF, True)
    if result.violations:
        storage.set_trial_user_attr(trial_id, attributes.CONSTRAINTS, list(result.violations))
    study.tell(trial, result.objectives, state=result.state)
    return storage.get_trial(trial_id)
