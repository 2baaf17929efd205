"""Makes MLflow show what the study says, in the background: training never waits for it.

The study is the truth. A few threads write to MLflow, one trial at a time each; when MLflow is away
or slow they wait and try again, and what is not written when the search ends can be sent later. Each
step starts from what is there, so it may be repeated: nothing appears twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass

import mlflow
import optuna
from mlflow.exceptions import MlflowException
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.study import attributes
from search.study.spool import Spool
from search.studyfile.schema import Definition
from search.tracking import logged_model, store
from search.tracking.runs import SearchRun, model_of_run
from search.tracking.user_code import model_code
from search.training.result import Epoch, TrialResult, live_epochs

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds between two tries while MLflow is away
_DESCRIBED_SECONDS = 30.0  # how often a running search's description is brought up to date
_LONGEST_YIELD = 5.0  # seconds for which nothing is written while the search has trials to begin or to record
_TRIES = 4  # of a trial that MLflow refuses while it takes others
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "PERMISSION_DENIED")


@dataclass
class _Shown:
    """What is known to be in MLflow of a trial."""

    trial_id: int = -1  # what the study's storage calls it
    run_id: str = ""
    epochs: int = 0
    done: bool = False
    certain: bool = True  # false after a failure or a kill: a request may have been carried out all the same
    tries: int = 0  # while MLflow took other trials
    seen: int = 0  # how many writes had succeeded at the last of them
    model_id: str = ""


class Mirror:
    """Shows a study's trials in MLflow.

    Args:
        study: The study.
        storage: Its storage.
        definition: Its study file.
        searches: The run of each search by its id; trials of other searches are not shown.
        spool: Where models wait.
        on_message: Told once when MLflow is away, and when it is back.
        fresh: The search that begins now: its trials cannot have runs yet.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        definition: Definition,
        searches: Mapping[str, SearchRun],
        spool: Spool,
        on_message: Callable[[str], None] = lambda _: None,
        fresh: str = "",
    ) -> None:
        self._study, self._storage, self._definition = study, storage, definition
        self._searches, self._spool, self._on_message, self._fresh = searches, spool, on_message, fresh
        self._shown: dict[int, _Shown] = {}
        self._due: dict[int, None] = {}  # numbers in the order in which they were asked for
        self._busy: set[int] = set()
        self._waiting: dict[int, Future[str]] = {}
        self._changed = threading.Condition()
        self._pause, self._paused_until, self._progress = 0.0, 0.0, time.monotonic()
        self._fault = ""  # what the last request that failed met
        self._refused: dict[int, str] = {}
        self._written, self._draining, self._yields = 0, False, False
        self._closed, self._described = False, time.monotonic()
        writers = 1 if mlflow.get_tracking_uri().startswith("sqlite") else 4  # SQLite has one writer at a time
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(writers)]
        for thread in self._threads:
            thread.start()

    def begin(self, number: int, *, wait: float = 0.0) -> str:
        """Show that a trial runs; returns its run if that is there within `wait` seconds, else an empty text."""
        future: Future[str] = Future()
        with self._changed:
            self._waiting[number] = future
            away = self._pause > 0
        self.update(number)
        with suppress(FutureTimeout):
            return future.result(0.0 if away else wait)
        return ""

    def update(self, number: int) -> None:
        """Show what the study says of a trial now."""
        with self._changed:
            self._due[number] = None
            self._changed.notify()

    def let_pass(self, busy: bool) -> None:
        """Begin no writing while the search itself is `busy`: both need Python's one interpreter lock."""
        with self._changed:
            self._yields = busy
            if not busy and self._due:
                self._changed.notify_all()

    def drain(self, patience: float) -> list[int]:
        """Wait until every trial is shown, or nothing moves for `patience` seconds; return the others' numbers."""
        with self._changed:
            self._progress, self._draining = time.monotonic(), True
            self._paused_until = 0.0  # try once more at once
            self._changed.notify_all()
            while self._due or self._busy:
                if time.monotonic() - self._progress >= patience:
                    break
                self._changed.wait(0.2)
            return sorted({*self._due, *self._busy, *self._refused})

    @property
    def fault(self) -> str:
        """What is wrong with MLflow's store: the last request failed, or a server has not answered it; else empty."""
        with self._changed:
            waits = bool(self._due or self._busy) and not mlflow.get_tracking_uri().startswith("sqlite")
            return (self._fault or "does not answer") if self._pause > 0 or waits else ""

    def close(self) -> None:
        """End the threads; what they are writing now is finished first, for two seconds at most."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + 2.0
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def run_id(self, number: int) -> str:
        """Return a trial's run; empty when it is not shown yet."""
        return self._shown[number].run_id if number in self._shown else ""

    def model_id(self, number: int) -> str:
        """Return a trial's logged model; empty when there is none yet."""
        return self._shown[number].model_id if number in self._shown else ""

    def log_model(self, number: int) -> None:
        """Log the model of a shown trial that waits since then.

        Raises:
            MlflowException: MLflow is away.
        """
        shown = self._shown.setdefault(number, _Shown(certain=False))
        trial = self._storage.get_trial(attributes.id_of(self._storage, self._study, number))
        run = self._searches.get(trial.system_attrs.get(attributes.SEARCH_RUN, ""))
        if run is None:  # a search beside this one logs it
            return
        run.open()
        shown.run_id = shown.run_id or run.find_trial(number)
        text = attributes.outcome_of(trial)
        self._log_model(trial, shown, None if text is None else TrialResult.from_text(text))
        self._spool.forget_model(number)

    @property
    def refused(self) -> Mapping[int, str]:
        """Trials that MLflow refuses, and why."""
        return dict(self._refused)

    def _work(self) -> None:
        while (number := self._take()) is not None:
            try:
                if self._show(number):
                    self._succeeded()
            except Exception as error:  # whatever MLflow's store raises must not end the search
                self._failed(number, error)
            finally:
                with self._changed:
                    self._busy.discard(number)
                    self._changed.notify_all()

    def _take(self) -> int | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                pause = self._paused_until - now
                if self._yields and not self._draining and self._due:
                    pause = max(pause, self._progress + _LONGEST_YIELD - now)
                number = next((each for each in self._due if each not in self._busy), None) if pause <= 0 else None
                if number is not None:
                    del self._due[number]
                    self._busy.add(number)
                    return number
                self._changed.wait(pause if pause > 0 else None)
        return None

    def _succeeded(self) -> None:
        with self._changed:
            self._progress = time.monotonic()
            self._written += 1
            was_away, self._pause, self._fault = self._pause > 0, 0.0, ""
            self._paused_until = 0.0
        if was_away:
            self._on_message("MLflow answers again")

    def _failed(self, number: int, error: Exception) -> None:
        shown = self._shown.setdefault(number, _Shown())
        shown.certain = False
        reason = store.reason_of(error)
        refused = isinstance(error, MlflowException) and error.error_code in _REFUSALS
        if refused or not isinstance(error, MlflowException | OSError | ConnectionError):
            shown.tries += self._draining or not shown.tries or self._written > shown.seen
            shown.seen = self._written
            if shown.tries >= _TRIES:
                self._refused[number] = reason
                with self._changed:  # it answered
                    self._pause = self._paused_until = 0.0
                self._on_message(f"trial {number} cannot be written to MLflow: {reason}")
                return
        names_file = isinstance(error, OSError) and error.filename is not None
        fault = f"{'cannot be written' if names_file else 'does not answer'} ({reason})"
        with self._changed:
            self._fault = fault
            first = self._pause == 0
            self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
            self._paused_until = time.monotonic() + self._pause
            self._due.setdefault(number, None)
        if first:
            self._on_message(f"MLflow {fault}; training goes on, trials are sent later")

    def _show(self, number: int) -> bool:
        """Show a trial; returns whether MLflow was asked for anything, and so answered."""
        shown = self._shown.setdefault(number, _Shown())
        if shown.trial_id < 0:
            shown.trial_id = attributes.id_of(self._storage, self._study, number)
        trial = self._storage.get_trial(shown.trial_id)
        run = self._searches.get(trial.system_attrs.get(attributes.SEARCH_RUN, ""))
        if run is None or shown.done:
            return False
        run.open()
        new = not shown.run_id
        if new:
            self._find_or_create(run, trial, shown)
        future = self._waiting.pop(number, None)
        if future is not None:
            future.set_result(shown.run_id)
        if trial.state == TrialState.RUNNING:
            return self._show_epochs(run, shown, live_epochs(trial)) or new
        self._show_end(run, trial, shown)
        self._describe(run)
        return True

    def _describe(self, run: SearchRun) -> None:
        """Bring a long search's description up to date; it is written again at the end, so an error may pass."""
        with self._changed:
            if time.monotonic() - self._described < _DESCRIBED_SECONDS:
                return
            self._described = time.monotonic()
        with suppress(Exception):
            run.describe(self._study, "**Running**.")

    def _find_or_create(self, run: SearchRun, trial: FrozenTrial, shown: _Shown) -> None:
        new = shown.certain and trial.system_attrs.get(attributes.SEARCH_RUN) == self._fresh
        shown.run_id = "" if new else run.find_trial(trial.number)
        if shown.run_id:
            shown.certain = False  # another process began to show it, and may have logged its model
        else:
            shown.run_id = run.create_trial(trial)
        if trial.state == TrialState.RUNNING:
            with suppress(UpdateFinishedTrialError):  # it ended in this moment
                self._storage.set_trial_system_attr(shown.trial_id, attributes.RUN_ID, shown.run_id)

    def _show_epochs(self, run: SearchRun, shown: _Shown, epochs: list[Epoch]) -> bool:
        if len(epochs) <= shown.epochs:
            return False
        run.log_epochs(shown.run_id, epochs[shown.epochs :])
        shown.epochs = len(epochs)
        return True

    def _show_end(self, run: SearchRun, trial: FrozenTrial, shown: _Shown) -> None:
        text = attributes.outcome_of(trial)
        result = None if text is None else TrialResult.from_text(text)
        kept = self._spool.model(trial.number).exists()
        logged = shown.epochs if shown.certain else 0
        if result is not None and kept:
            run.log_result(shown.run_id, result, logged)
        self._log_model(trial, shown, result)  # after the epochs: a logged model copies the metrics of its step
        if result is not None and kept:
            run.log_kept(shown.run_id, result, shown.model_id, again=not shown.certain)
        run.finish_trial(shown.run_id, self._study, trial, None if kept else result, logged)
        self._spool.forget_model(trial.number)
        shown.done = True

    def _log_model(self, trial: FrozenTrial, shown: _Shown, result: TrialResult | None) -> None:
        """Log the model that waits for this trial, once."""
        waiting = self._spool.model(trial.number)
        if not waiting.exists():
            return
        data = self._spool.data_of_trial(trial.number)
        data = data or self._spool.data(trial.system_attrs.get(attributes.SEARCH_RUN, ""))
        if data is None:
            return
        known = "" if shown.certain else model_of_run(shown.run_id)
        predictions, answers = self._spool.predictions(trial.number), self._spool.answers(trial.number)
        shown.model_id = known or logged_model.log(
            waiting.read_bytes(),
            data,
            predictions=predictions.read_bytes() if predictions.exists() else None,
            answers=answers.read_bytes() if answers.exists() else None,
            name=f"trial-{trial.number:05d}",
            run_id=shown.run_id,
            step=result.step if result is not None else 0,
            code=model_code(self._definition),
            backend=data.backend,
            tags={"study": self._study.study_name, "trial": str(trial.number)},
        )
