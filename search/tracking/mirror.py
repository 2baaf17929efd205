"""Makes MLflow show what the study says, in the background: training never waits for it.

The study is the truth. An outbox sends trials, and tries again while MLflow is away; what is not written
when the search ends can be sent later. Each step starts from what is there, so it may be repeated:
nothing appears twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import mlflow
import optuna
from mlflow.exceptions import MlflowException
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.data.summary import Interface
from search.errors import SearchError
from search.study import attributes
from search.study.files import StudyFiles
from search.study.listener import Listener
from search.studyfile.schema import Definition
from search.system.outbox import SILENT, NotSent, Outbox
from search.tracking import entries, logged_model, store
from search.tracking.runs import SearchRun, model_of_run
from search.tracking.user_code import model_code
from search.training.result import Epoch, TrialResult, live_epochs, result_of

_DESCRIBED_SECONDS = 30.0  # how often a running search's description is brought up to date
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "PERMISSION_DENIED")


@dataclass
class _Shown:
    """What is known to be in MLflow of a trial."""

    trial_id: int = -1  # what the study's storage calls it
    run_id: str = ""
    epochs: int = 0
    done: bool = False
    certain: bool = True  # false after a failure or a kill: a request may have been carried out all the same
    model_id: str = ""


class Mirror(Listener):
    """Shows a study's trials in MLflow.

    Args:
        study: The study.
        storage: Its storage.
        definition: Its study file.
        searches: The run of each search by its id; trials of other searches are not shown.
        files: The study's files, where models wait.
        on_message: Told once when MLflow is away, and when it is back.
        fresh: The search that begins now: its trials cannot have runs yet.

    Attributes:
        outbox: The trials that wait to be shown.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        definition: Definition,
        searches: Mapping[str, SearchRun],
        files: StudyFiles,
        on_message: Callable[[str], None] = lambda _: None,
        fresh: str = "",
    ) -> None:
        self._study, self._storage, self._definition = study, storage, definition
        self._searches, self._files, self._fresh = searches, files, fresh
        self._shown: dict[int, _Shown] = {}
        self._describing, self._described = threading.Lock(), time.monotonic()
        writers = 1 if _on_sqlite() else 4  # SQLite has one writer at a time
        self.outbox = Outbox("MLflow", "trial", self._send, writers, on_message)

    def update(self, number: int) -> None:
        """Show what the study says of a trial now."""
        self.outbox.add(number)

    def on_epochs(self, trial: FrozenTrial, epochs: Sequence[Epoch]) -> None:
        """Show that a trial runs, and its epochs; one that ends before is shown once, whole."""
        shown = self._shown.setdefault(trial.number, _Shown())
        if not shown.run_id or len(epochs) > shown.epochs:
            self.update(trial.number)

    def on_end(self, trial: FrozenTrial, result: TrialResult) -> None:  # noqa: ARG002 - as `Listener`
        """Show what became of a trial."""
        self.update(trial.number)

    def await_run(self, number: int, seconds: float) -> str:
        """Return a trial's run if it is there within so many seconds, else an empty text."""
        self.outbox.add(number, urgent=True)
        self.outbox.wait_for(lambda: bool(self.run_id(number)), seconds)
        return self.run_id(number)

    @property
    def fault(self) -> str:
        """What is wrong with MLflow's store: the last request failed, or a server has not answered it; else empty."""
        fault = self.outbox.fault
        return "" if fault == SILENT and _on_sqlite() else fault  # a file that is busy answers later

    def close(self) -> None:
        """End the threads; what they are writing now is finished first, for two seconds at most."""
        self.outbox.close()

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
        self._log_model(run, trial, shown, result_of(trial))
        self._files.forget_model(number)

    def _send(self, number: int) -> bool:
        """Show a trial; returns whether MLflow was asked for anything, and so answered.

        Raises:
            NotSent: Whatever MLflow's store raised, which must not end the search.
        """
        try:
            return self._show(number)
        except Exception as error:
            self._shown.setdefault(number, _Shown()).certain = False
            raise _not_sent(error) from error

    def _show(self, number: int) -> bool:
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
        if trial.state == TrialState.RUNNING:
            return self._show_epochs(run, trial, shown, new=new)
        self._show_end(run, trial, shown)
        self._describe(run)
        return True

    def _describe(self, run: SearchRun) -> None:
        """Bring a long search's description up to date; it is written again at the end, so an error may pass."""
        with self._describing:
            if time.monotonic() - self._described < _DESCRIBED_SECONDS:
                return
            self._described = time.monotonic()
        with suppress(Exception):
            run.describe(self._study, "**Running**.")

    def _find_or_create(self, run: SearchRun, trial: FrozenTrial, shown: _Shown) -> None:
        new = shown.certain and trial.system_attrs.get(attributes.SEARCH_RUN) == self._fresh
        shown.run_id = "" if new else run.find_trial(trial.number) or run.restore_trial(trial)
        if shown.run_id:
            shown.certain = False  # another process began to show it, and may have logged its model
        else:
            shown.run_id = run.create_trial(trial)
        if trial.state == TrialState.RUNNING:
            with suppress(UpdateFinishedTrialError):  # it ended in this moment
                self._storage.set_trial_system_attr(shown.trial_id, attributes.RUN_ID, shown.run_id)

    def _show_epochs(self, run: SearchRun, trial: FrozenTrial, shown: _Shown, *, new: bool) -> bool:
        """Show a running trial's epochs, and with the first ones its parameters; return whether there was anything."""
        epochs = live_epochs(trial)
        if not new and len(epochs) <= shown.epochs:
            return False
        run.log_epochs(shown.run_id, epochs[shown.epochs :], trial.params if new else {})
        shown.epochs = len(epochs)
        return True

    def _show_end(self, run: SearchRun, trial: FrozenTrial, shown: _Shown) -> None:
        result = result_of(trial)
        logged = shown.epochs if shown.certain else 0
        self._log_model(run, trial, shown, result)
        run.finish_trial(shown.run_id, self._study, trial, result, logged, shown.model_id, again=not shown.certain)
        self._files.forget_model(trial.number)
        shown.done = True

    def _log_model(self, run: SearchRun, trial: FrozenTrial, shown: _Shown, result: TrialResult | None) -> None:
        """Log the model that waits for this trial, once; MLflow copies to it what the run has of its epoch already."""
        waiting = self._files.model(trial.number)
        if not waiting.exists():
            return
        own = self._files.data_of_trial(trial.number)
        data = own or self._files.data(trial.system_attrs.get(attributes.SEARCH_RUN, ""))
        if isinstance(own, Interface):
            searched = self._files.data(trial.system_attrs.get(attributes.SEARCH_RUN, ""))
            data = None if searched is None else own.instead(searched)
        if data is None:
            return
        known = "" if shown.certain else model_of_run(shown.run_id)
        predictions, answers = self._files.predictions(trial.number), self._files.answers(trial.number)
        shown.model_id = known or logged_model.log(
            waiting.read_bytes(),
            data,
            predictions=predictions.read_bytes() if predictions.exists() else None,
            answers=answers.read_bytes() if answers.exists() else None,
            name=f"trial-{trial.number:05d}",
            experiment_id=run.experiment_id,
            run_id=shown.run_id,
            step=result.step if result is not None else 0,
            code=model_code(run.definition),
            backend=data.backend,
            params=entries.renamed(trial.params),
            tags={"study": self._study.study_name, "trial": str(trial.number), **run.source},
        )


def _on_sqlite() -> bool:
    return mlflow.get_tracking_uri().startswith("sqlite")


def _not_sent(error: Exception) -> NotSent:
    """Return what an error of MLflow's store says of the trial that could not be shown."""
    reason = store.reason_of(error)
    refused = isinstance(error, MlflowException) and error.error_code in _REFUSALS
    # Stores of artifacts raise errors of their own libraries while they are away; Python's own tell of a defect.
    defect = isinstance(error, SearchError) or (type(error).__module__ == "builtins" and not isinstance(error, OSError))
    names_file = isinstance(error, OSError) and error.filename is not None
    fault = f"{'cannot be written' if names_file else 'does not answer'} ({reason})"
    for_good = isinstance(error, SearchError)  # as a record of a newer version
    return NotSent(fault, reason, refused=refused or defect, for_good=for_good)
