"""The search: ask, run, tell, notify, until the budget is spent or there is a reason to stop.

One thread does it all, and this is the one place that decides. A trial that fails is recorded and the
search goes on; any other error ends it. What became of a trial is written to the study first; then
listeners are notified: the sampler, the budget, the reasons to stop, MLflow's mirror, the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.budget import GRACE_SECONDS, Budget, OnProgress, Progress
from search.context import Context
from search.errors import Interrupted, RowsChanged
from search.figures import duration
from search.resume import finish_running, search_records
from search.stopping import INTERRUPTED, Interruption, Stopping, signals
from search.study import attributes, orders, ranking, samplers, space
from search.study.comparable import comparable_trials
from search.study.files import MOST_OUTPUTS
from search.study.listener import Listener
from search.study.orders import Order
from search.study.proposals import Sampling, Suggestion
from search.studyfile.settings import Settings, resume_command
from search.training.model import has_user_code
from search.training.result import Epoch, Fate, TrialResult, live_epochs
from search.training.trial import seed_of
from search.workers import worker
from search.workers.base import Slot
from search.workers.process import reason_of
from search.workers.silence import Silence

_POLL_SECONDS = 0.5
_RUN_SECONDS = 10.0  # how long a trial whose code may log to MLflow waits for its run
_LOOK_SECONDS = 2.0  # how often the study is asked for a running trial's epochs
_STOP_SECONDS = 5.0  # how long running trials may take to reach their next epoch after Ctrl-C
_SEEDS_APART = 1_000_003  # of searches that run at once; the trials that a study has move the seed too
_ELSEWHERE = "somebody else ended it in the study's storage"


@dataclass
class _Running:
    """A trial in a slot; `retries` is how often its configuration may be tried again."""

    slot: Slot
    trial: optuna.Trial
    trial_id: int
    retries: int
    future: Future[TrialResult]
    began: float
    looked: float  # when the study was last asked for its epochs
    order: Order | None = None  # what somebody asks of it

    @property
    def number(self) -> int:
        return self.trial.number


class Search:
    """One search of a study.

    Args:
        context: The search, begun.
        first: What to train before all else: what an interrupted search had begun and not ended.
        enqueued: Configurations to try before the sampler's own.
    """

    def __init__(
        self, context: Context, first: Iterable[Suggestion] = (), enqueued: Iterable[dict[str, Any]] = ()
    ) -> None:
        settings, study, definition = context.settings, context.study, context.definition
        self._context, self._settings, self._definition = context, settings, definition
        self._study, self._storage, self._mirror = study, context.storage, context.mirror
        self._free: list[Slot] = []
        self._running: list[_Running] = []
        command = resume_command(settings)
        self._interruption = Interruption(f"interrupted; everything finished so far is kept; go on with: {command}")
        self._order: Order | None = None
        self._obeyed = context.claim.obeyed
        self._looked = 0.0  # when orders were last looked for
        self._sampled = space.first_distributions(study.get_trials(deepcopy=False))
        trials = comparable_trials(study)
        self._budget = Budget(settings.n_trials, settings.timeout)
        self._stopping = Stopping(definition, study, trials)
        self._sampling = _sampling(settings, study, context.search_id)
        self._sampling.enqueue(enqueued)
        for suggestion in first:
            self._sampling.put_first(suggestion)
        told = _Told(settings, self._budget, self._stopping, context.on_progress)
        self._listeners: list[Listener] = [self._sampling, self._budget, self._stopping, self._mirror, told]

    @property
    def stopped(self) -> str:
        """Why the search ended before its budget was spent; empty when it did not."""
        return self._stopping.reason

    @property
    def paused(self) -> bool:
        """Whether the search is to be resumed: a signal or an order interrupted it."""
        return bool(self._interruption.signal) or (self._order is not None and self._order.kind == "pause")

    def optimize(self, slots: Sequence[Slot]) -> None:
        """Run trials in these slots until the budget is spent or a reason to stop is met.

        Raises:
            Interrupted: Ctrl-C or a termination signal came; running trials are recorded as stopped.
            SearchError: The storage failed, or no worker lives long enough to train a trial.
        """
        self._free = list(slots)
        try:
            with signals(self._interruption.note):
                while self._fill():
                    self._tell_ended(_POLL_SECONDS)
                if self._interruption.signal:
                    self._interrupt()
                self._fail_unbegun()
        except BaseException as error:
            self._abandon(error)
            raise
        if self._interruption.signal:
            raise self._interruption.error()

    def _fill(self) -> bool:
        """Begin a trial in each free slot, while there is one to begin; return whether trials run on."""
        for slot in list(self._free):
            while slot in self._free and (slot.ready() or not self._running):
                suggestion = self._ask()
                if suggestion is None:
                    return bool(self._running) and not self._interruption.signal
                self._run(slot, suggestion)
        return bool(self._running) and not self._interruption.signal

    def _ask(self) -> Suggestion | None:
        """Return what to train next; None when there is nothing, or a reason to begin no more."""
        if self.paused:
            return None
        new = not self.stopped and self._budget.left(len(self._running)) > 0
        if new and self._budget.time_is_up():
            self._stopping.stop(f"the time of {self._settings.timeout:g} s is up")
            new = False
        suggestion = self._sampling.ask(lambda: comparable_trials(self._study), new=new)
        if suggestion is None and new and not self._running:  # a running one may fail, and what it tries be free again
            self._stopping.stop("every configuration of the space has been tried")
        return suggestion

    def _run(self, slot: Slot, suggestion: Suggestion) -> None:
        """Give a suggestion to a worker, as a running trial of the study."""
        trial_id = self._store(suggestion)
        if trial_id is None:
            return
        trial, now = optuna.trial.Trial(self._study, trial_id), time.monotonic()
        if suggestion.copied is not None:
            self._sampling.began(suggestion, trial.number)
        running = _Running(slot, trial, trial_id, suggestion.retries, Future(), now, now)
        self._free.remove(slot)
        self._running.append(running)  # from here on an error tells the study that the trial failed
        if suggestion.refused:
            running.future.set_result(self._without_result(running, "failed", suggestion.refused))
            return
        for each in self._listeners:
            each.on_begin(trial.number)
        # Only a trial whose code may log to its MLflow run waits for it.
        run_id = self._mirror.await_run(trial.number, _RUN_SECONDS) if has_user_code(self._definition) else ""
        running.future = slot.submit(worker.train, self._context.job, trial.number, run_id)
        running.began = time.monotonic()  # a cluster's worker may have been waited for

    def _store(self, suggestion: Suggestion) -> int | None:
        """Write a suggestion to the storage as a running trial; None where another search has just taken it."""
        attributes_of = {
            **suggestion.attributes,
            **({attributes.FIXED: suggestion.fixed} if suggestion.fixed else {}),
            attributes.SEARCH_RUN: self._context.search_id,
            attributes.RETRIES: suggestion.retries,
        }
        if suggestion.number is None:
            return self._create(suggestion, attributes_of)
        trial_id = attributes.id_of(self._storage, self._study, suggestion.number)
        with suppress(UpdateFinishedTrialError):  # somebody else ended it in between, which its end will show
            if suggestion.copied is None and not suggestion.refused:  # it goes on
                self._storage.set_trial_system_attr(trial_id, attributes.BEGUN, "")
            elif not self._take(trial_id, suggestion, attributes_of):
                return None
        return trial_id

    def _create(self, suggestion: Suggestion, attributes_of: dict[str, Any]) -> int:
        """Write a new trial, whole."""
        known = space.distributions(self._definition)
        distributions = {name: space.storable(known[name], self._sampled.get(name)) for name in suggestion.params}
        template = create_trial(
            state=TrialState.RUNNING,
            params=suggestion.params,
            distributions=distributions,
            system_attrs=attributes_of,
        )
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.create_new_trial(study_id, template_trial=template)

    def _take(self, trial_id: int, suggestion: Suggestion, attributes_of: dict[str, Any]) -> bool:
        """Take a trial that waits, unless another search was faster; after a crash in between it counts as ours."""
        if self._storage.get_trial(trial_id).state != TrialState.WAITING:
            return False
        self._storage.set_trial_system_attr(trial_id, attributes.SEARCH_RUN, self._context.search_id)
        if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return False
        for name, value in attributes_of.items():
            self._storage.set_trial_system_attr(trial_id, name, value)
        for name, distribution in space.distributions(self._definition).items():
            if name in suggestion.params:
                each = space.storable(distribution, self._sampled.get(name))
                self._storage.set_trial_param(trial_id, name, each.to_internal_repr(suggestion.params[name]), each)
        return True

    def _tell_ended(self, seconds: float) -> None:
        """Wait for trials to end, tell the study of those that did, and look after the others."""
        wait([each.future for each in self._running], timeout=seconds, return_when="FIRST_COMPLETED")
        self._look_for_order()
        for running in list(self._running):
            if running.future.done():
                self._tell(running, self._result(running))
            elif why := self._look_after(running):
                running.slot.stop()
                self._tell(running, self._without_result(running, *why))

    def _look_for_order(self) -> None:
        """Take note of what somebody asks of the search; the reason to stop tells who and why."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked, order = now, orders.of_search(self._study, self._context.search_id)
        if order is not None and order != self._obeyed:
            self._order = self._obeyed = order
            self._stopping.stop(str(order))

    def _result(self, running: _Running) -> TrialResult:
        try:
            return running.future.result()
        except (Exception, CancelledError) as error:
            if isinstance(error, RowsChanged):
                self._stopping.stop(str(error))
            return self._without_result(running, "died", reason_of(error))

    def _without_result(self, running: _Running, fate: Fate, reason: str) -> TrialResult:
        """Return what is known of a trial whose worker returned nothing: its fate, and the epochs it passed on."""
        number, epochs = running.number, live_epochs(self._storage.get_trial(running.trial_id))
        return TrialResult(number, fate, seed_of(self._settings.seed, number), reason=reason, epochs=tuple(epochs))

    def _look_after(self, running: _Running) -> tuple[Fate, str] | None:
        """Tell of a running trial's epochs; return how and why to end it, if it must end."""
        now = time.monotonic()
        if now - running.looked >= max(_LOOK_SECONDS, 0.05 * len(self._running)):
            running.looked = now
            trial = self._storage.get_trial(running.trial_id)
            running.order = orders.of_trial(trial)
            if trial.state.is_finished():
                return "failed", _ELSEWHERE
            epochs = live_epochs(trial)
            for each in self._listeners:
                each.on_epochs(trial, epochs)
        return self._reason_to_end(running)

    def _reason_to_end(self, running: _Running) -> tuple[Fate, str] | None:
        limit = self._settings.trial_timeout
        for order in (self._order, running.order):
            if order is not None and order.now:
                return ("died", worker.STOPPED) if order.kind == "pause" else ("pruned", str(order))
        if (lost := running.slot.lost()) is not None:
            return "died", f"its worker died: {lost}"
        if limit is not None and time.monotonic() - running.began > limit:
            return "failed", f"it took longer than trial_timeout = {limit:g} s"
        if self._budget.time_is_up(min(GRACE_SECONDS, self._settings.timeout or 0.0)):
            return "pruned", "the time was up"
        return None

    def _tell(self, running: _Running, result: TrialResult) -> None:
        """Write what became of a trial to the study, then notify; one that can go on from a checkpoint is put first."""
        goes_on = result.fate == "died" and self._goes_on(running)
        if not goes_on:
            trial, result = self._record(running, result)
        self._running.remove(running)
        self._free.append(running.slot)
        if goes_on:
            with suppress(UpdateFinishedTrialError):  # somebody else ended it in between
                self._storage.set_trial_system_attr(running.trial_id, attributes.BEGUN, "")  # who trains it on stops
            self._sampling.put_first(Suggestion(dict(running.trial.params), running.retries - 1, running.number))
            return
        for each in self._listeners:
            each.on_end(trial, result)
        if result.memory:
            running.slot.trained(result.memory)
        self._budget.check_workers(len(self._free) + len(self._running))

    def _goes_on(self, running: _Running) -> bool:
        """Return whether a trial whose worker died goes on from its checkpoint; of a paused search by --resume."""
        return (running.retries > 0 or self.paused) and self._context.files.goes_on(running.number)

    def _record(self, running: _Running, result: TrialResult) -> tuple[FrozenTrial, TrialResult]:
        """Write what became of a trial; return it as the study has it, with what became of it after all."""
        number, files = running.number, self._context.files
        if result.model is not None and ranking.worth_keeping(
            self._definition, self._study, result.values, number, self._settings.models_kept
        ):
            files.put_model(number, result.model, result.predictions, result.data, result.answers)
        if result.values and ranking.worth_keeping(self._definition, self._study, result.values, number, MOST_OUTPUTS):
            files.put_outputs(number, result.validated)
        with suppress(UpdateFinishedTrialError):
            record(self._storage, self._study, running.trial, running.trial_id, result)
        files.forget_checkpoint(number)
        trial = self._storage.get_trial(running.trial_id)
        if trial.state == result.state and attributes.outcome_of(trial) is not None:
            return trial, result
        files.forget_model(number)
        ended: dict[TrialState, Fate] = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
        fate, values = ended.get(trial.state, "failed"), tuple(trial.values or ())
        return trial, replace(result, fate=fate, values=values, reason=_ELSEWHERE)

    def _interrupt(self) -> None:
        """Ask running trials to stop at their next epoch, and stop those that do not."""
        self._stopping.reason = INTERRUPTED
        stop_file = self._context.files.stop_file(self._context.search_id)
        with suppress(OSError):
            stop_file.parent.mkdir(parents=True, exist_ok=True)
            stop_file.touch()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            while self._running and time.monotonic() < deadline:
                self._tell_ended(0.1)
            for running in list(self._running):
                running.slot.stop()
                self._tell(running, self._without_result(running, "died", worker.STOPPED))
        finally:  # a second signal comes
            stop_file.unlink(missing_ok=True)

    def _abandon(self, error: BaseException) -> None:
        """Tell the study, if it can be told, that running trials failed; their configurations may be tried again."""
        self._stopping.stop(INTERRUPTED if isinstance(error, Interrupted) else type(error).__name__)
        for running in self._running:
            with suppress(Exception):
                running.slot.stop()
        with suppress(Exception):
            self._fail_unbegun()

    def _fail_unbegun(self) -> None:
        """Fail trials that were stored but never handed to a worker, or whose worker's result could not be stored."""
        for trial in self._context.trials():
            if trial.state == TrialState.RUNNING and not self._context.files.goes_on(trial.number):
                finish_running(self._study, self._storage, trial)
                self._mirror.update(trial.number)


class _Told(Listener):
    """Tells a person what happens to each trial, and where the search stands.

    Args:
        budget: Its budget, which was told before.
        stopping: Knows its best trial, likewise.
        on_progress: Tells it.
    """

    def __init__(self, settings: Settings, budget: Budget, stopping: Stopping, on_progress: OnProgress) -> None:
        self._settings, self._budget, self._stopping, self._on_progress = settings, budget, stopping, on_progress
        self._silence = Silence()

    def on_begin(self, number: int) -> None:
        """Tell that a trial began."""
        self._silence.forget(number)
        self._silence.look(number, 0)
        self._on_progress(self._progress(number, "began"))

    def on_epochs(self, trial: FrozenTrial, epochs: Sequence[Epoch]) -> None:
        """Tell how far a trial is, or that it was silent for long."""
        definition = self._settings.definition
        if epochs:
            planned = trial.params.get("epochs", definition.fit.epochs)
            logs, told = epochs[-1].logs, self._progress(trial.number, "training")
            metrics = {name: logs[name] for name in definition.metrics if name in logs}
            value = logs.get(definition.metrics[0])
            self._on_progress(replace(told, epoch=epochs[-1].step + 1, epochs=planned, value=value, metrics=metrics))
        if silent := self._silence.look(trial.number, len(epochs)):
            way = "" if self._settings.trial_timeout else "; --trial-timeout ends trials that hang"
            reason = f"has reported nothing for {duration(silent)}{way}"
            self._on_progress(replace(self._progress(trial.number, "silent"), reason=reason))

    def on_end(self, trial: FrozenTrial, result: TrialResult) -> None:
        """Tell what became of a trial."""
        if result.worker:
            self._silence.ended(trial.number)
        else:  # it was given up: its silence says nothing of what is usual
            self._silence.forget(trial.number)
        told = self._progress(trial.number, "stopped" if result.fate == "died" else result.fate)
        values = tuple(trial.values) if trial.state == TrialState.COMPLETE else ()
        value = values[0] if values else None
        self._on_progress(replace(told, value=value, values=values, reason=result.reason))

    def _progress(self, number: int, state: str) -> Progress:
        """Return where the search stands now that this became of a trial."""
        budget, best = self._budget, self._stopping.best
        return Progress(
            number=number,
            state=state,
            value=None,
            best_number=best.number if best else None,
            best_value=best.values[0] if best else None,
            best_values=tuple(best.values) if best else (),
            done=budget.counts.own_ends,
            total=budget.total,
            seconds_left=budget.seconds_left(),
            counts=budget.counts,
        )


def _sampling(settings: Settings, study: optuna.Study, search_id: str) -> Sampling:
    # Of other rows too: where they change every day, each day's first draws are others.
    finished = study.get_trials(deepcopy=False, states=ranking.FINISHED)
    earlier = takewhile(lambda record: record.search_id != search_id, search_records(study))
    # Searches that run at once draw different values.
    seed = settings.seed + _SEEDS_APART * sum(record.state == "running" for record in earlier)
    sampler = None
    if settings.sampler != "grid":
        sampler = samplers.make_sampler(settings.definition, settings.sampler, seed, finished)
    changed = space.changed(settings.definition, study.get_trials(deepcopy=False))
    return Sampling(settings.definition, sampler, seed, study.pruner, changed)


def record(storage: BaseStorage, study: optuna.Study, trial: optuna.Trial, trial_id: int, result: TrialResult) -> None:
    """Write a trial's outcome to the study, then its state.

    A crash between the two leaves an outcome from which `search.resume` finishes.

    Raises:
        UpdateFinishedTrialError: Somebody else ended it.
    """
    attributes.set_outcome(storage, trial_id, result.as_text())
    if result.recorded:
        storage.set_trial_system_attr(trial_id, attributes.RECORDED, result.recorded)
    if result.fate == "failed":
        storage.set_trial_system_attr(trial_id, attributes.FAILED_ITSELF, True)
    if result.violations:
        storage.set_trial_user_attr(trial_id, attributes.CONSTRAINTS, list(result.violations))
    study.tell(trial, result.objectives, state=result.state, skip_if_finished=True)
