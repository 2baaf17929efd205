"""From trained trials to a registered model: how a search ends, in order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from search.budget import Stage, count
from search.comparison.predictions import Predictions
from search.context import Context
from search.ensemble.near import near
from search.errors import (
    ClusterError,
    Interrupted,
    NoTrialCompleted,
    RegistryError,
    SearchError,
    TrackingError,
    printable,
    told,
)
from search.figures import plural
from search.handover.averaging import average
from search.handover.confirmation import confirm
from search.handover.outcome import Outcome
from search.register import best_of, check_usable, register_best
from search.reporting import plots
from search.reporting.findings import front_of
from search.resume import search_records
from search.stopping import Interruption, signals
from search.study import attributes, ranking
from search.study.files import MOST_OUTPUTS
from search.studyfile.settings import arguments_of, resume_command
from search.system.outbox import Left
from search.tracking.pages import outcomes
from search.workers import worker
from search.workers.fresh import FreshProcess

if TYPE_CHECKING:
    from search.tracking.runs import SearchRun

INTERRUPTED = "interrupted"  # what a search's record says of it at its end
HURRY = 4.0  # seconds without progress after which the end of a search no longer waits for MLflow, after Ctrl-C
_PATIENCE = 30.0  # the same, else
_REASON = 300  # characters of a reason
_FINISHED, _TRAINED = "finished", "trained"


def finish(context: Context, stopped: str, interrupted: Interrupted | None = None, *, paused: bool = False) -> Outcome:
    """Register the best trial's model, write the search's outcome to its run, and return it.

    Args:
        context: The search, whose trials have ended.
        stopped: Why it ended before its budget was spent; empty when it did not.
        interrupted: The signal that ended it, if one did.
        paused: Whether it is to be resumed.

    Raises:
        NoTrialCompleted: There is no best trial.
        Interrupted: A signal ended it before there was one, or came while leading trials were trained again.
        SearchError: The best trial's model cannot be used.
    """
    return _Ending(context, stopped, interrupted, paused=paused or interrupted is not None).finish()


class _Ending:
    def __init__(self, context: Context, stopped: str, interrupted: Interrupted | None, *, paused: bool) -> None:
        self._context, self._stopped, self._interrupted, self._paused = context, stopped, interrupted, paused
        self._definition, self._study, self._mirror = context.definition, context.study, context.mirror
        self._patience = _PATIENCE if interrupted is None else HURRY
        self._ranked: Sequence[FrozenTrial] = ()  # the best first
        self._drawn: Sequence[Future[dict[str, bytes]]] = ()

    def finish(self) -> Outcome:
        """End the search; see the function of this name."""
        context, settings, hurries = self._context, self._context.settings, self._interrupted is not None
        halted = 0 if self._paused else self._confirm()
        self._ranked = ranked = ranking.leading_trials(self._definition, self._study)
        draws, registers = bool(ranked) and not hurries, bool(ranked) and settings.registers
        self._drawn = self._draw() if draws and context.run is not None else []
        self._await_mirror()
        if context.run is not None:
            does = {"drawing the plots": draws, "registering the best model": registers}
            doing = " and ".join(what for what, done in does.items() if done)
            context.on_message(Stage(doing or "writing the outcome to MLflow"))
        outcome = self._outcome() if ranked else None
        state = INTERRUPTED if self._paused else _FINISHED
        if context.run is not None:
            with FreshProcess() if ranked and settings.registers else nullcontext() as fresh:
                outcome, state = self._publish(context.run, outcome, state, fresh)
        elif state == _FINISHED:
            state = _TRAINED
            if settings.ensemble > 1 and outcome is not None:
                context.on_message(
                    f"--offline averages nothing; search.sync registers trial {outcome.best.number} alone"
                )
        self._mirror.close()
        left = (
            self._mirror.outbox.left
            if context.run is not None
            else Left(tuple(trial.number for trial in context.trials()))
        )
        if state == _FINISHED and left.numbers:
            state = _TRAINED
        context.claim.ended(state, self._stopped)
        kept = [trial.number for trial in ranked[:MOST_OUTPUTS]] if settings.ensemble > 1 else ()
        context.files.forget_outputs(kept, self._beside())
        if state == _FINISHED:
            context.files.forget(context.search_id)
        return self._told(outcome and replace(outcome, not_mirrored=left), halted)

    def _confirm(self) -> int:
        try:
            return confirm(self._context)
        except ClusterError as error:  # its workers still train what was given up
            self._context.on_message(f"the leading trials are not trained again: {error}")
            return 0

    def _beside(self) -> list[int]:
        """Return the trials of searches that run beside this one, which has ended."""
        running = {record.search_id for record in search_records(self._study) if record.state == "running"}
        trials = self._study.get_trials(deepcopy=False)
        return [trial.number for trial in trials if trial.system_attrs.get(attributes.SEARCH_RUN) in running]

    def _await_mirror(self) -> None:
        """Wait for MLflow, first for those trials that a model is registered of; Ctrl-C ends the wait alone."""
        settings, waiting = self._context.settings, len(self._mirror.outbox.left.numbers)
        leading = [trial.number for trial in self._ranked[: settings.models_kept if settings.registers else 0]]

        interruption = Interruption("interrupted while the end was written to MLflow; all is kept")

        def tell(left: Left) -> bool:
            done = max(0, waiting - len(left.numbers))
            self._context.on_message(Stage("writing the trials to MLflow", done, waiting, left.seconds))
            return not interruption.signal

        with signals(interruption.note):
            self._mirror.outbox.drain(self._patience, settings.wait, leading, tell)

    def _told(self, outcome: Outcome | None, halted: int) -> Outcome:
        """Return the outcome, or raise what the command ends with."""
        if outcome is None:
            if self._interrupted is not None:
                command = resume_command(self._context.settings)
                told = f"interrupted before any trial completed; go on with: {command}"
                raise Interrupted(told, self._interrupted.signal)
            raise self._nothing_completed()
        outcome = replace(outcome, seconds=time.monotonic() - self._context.started)
        if halted:
            interrupted = Interrupted("interrupted while the leading trials were trained again; all is kept", halted)
            interrupted.outcome = outcome
            raise interrupted
        if self._interrupted is None:
            check_usable(outcome.model)
        return outcome

    def _draw(self) -> list[Future[dict[str, bytes]]]:
        """Draw the plots in the workers while MLflow catches up."""
        slots, job, drawn = self._context.pool.slots, self._context.job, list[Future[dict[str, bytes]]]()
        tasks: list[tuple[Any, ...]] = [*((worker.draw, name) for name in plots.DRAWINGS), (worker.draw_data,)]
        for function, *names in tasks:
            turns = (slots[(len(drawn) + turn) % len(slots)] for turn in range(len(slots)))
            slot = next((slot for slot in turns if slot.ready()), None)
            if slot is not None:  # else every worker of a cluster still trains what was given up
                drawn.append(slot.submit(function, job, *names))
        return drawn

    def _publish(
        self, run: SearchRun, outcome: Outcome | None, state: str, fresh: FreshProcess | None
    ) -> tuple[Outcome | None, str]:
        """Register the best model and end the search's run; returns the outcome and the search's state."""
        from search.tracking import agreement, store

        context = self._context
        try:
            with store.store_errors(store.uri()):
                if fault := self._mirror.fault:
                    raise TrackingError(f"MLflow tracking store {store.uri()} {fault}")
                if outcome is not None:
                    agreement.show_confirmed(self._definition, self._study)
                    leading = self._ranked[0].number
                    if context.settings.confirm > 0 and leading in context.files.waiting():
                        self._mirror.log_model(leading)  # confirming made it the leader
                    outcome = self._with_run(outcome, self._ranked[0])
                if outcome is not None and fresh is not None:
                    outcome = self._register(run, outcome, fresh)
                else:
                    self._log_plots(run)
                model = outcome.model.uri if outcome is not None and outcome.model is not None else ""
                ended = (self._definition, self._study, context.search_id, run, model, self._stopped)
                agreement.end_search(*ended, killed=self._paused)
        except (SearchError, OSError) as error:
            context.on_message(f"{error} (python -m search.sync writes it later)")
            unregistered = replace(outcome, unregistered=str(error)) if outcome else None
            return unregistered, _TRAINED if state == _FINISHED else state
        return outcome, state

    def _with_run(self, outcome: Outcome, trial: FrozenTrial) -> Outcome:
        """Return the outcome with the best trial's run, which an earlier search may have made."""
        from search.tracking import agreement

        if self._mirror.run_id(trial.number):
            return outcome
        best = replace(outcome.best, run_id=agreement.run_of(self._definition, self._study, trial))
        return replace(outcome, best=best, table=(best, *outcome.table[1:]))

    def _register(self, run: SearchRun, outcome: Outcome, fresh: FreshProcess) -> Outcome:
        """Register the best trial's model, or one that averages several; the plots are logged while it is loaded."""
        best = self._ranked[0]
        averaged = average(self._context, self._ranked, outcome.best, hurries=self._interrupted is not None)
        ensemble, model_id = averaged or (None, self._model_of(best))
        outcome = replace(outcome, best=replace(outcome.best, ensemble=ensemble))
        loaded = fresh.begin_check(model_id) if model_id else str
        self._log_plots(run)
        name, data = self._context.settings.study_name, self._context.data
        try:
            model, new = register_best(name, self._definition, best, outcome.best, data, model_id, loaded)
        except (TrackingError, RegistryError):
            raise
        except SearchError as error:  # MLflow lost the model; the search is over all the same
            return replace(outcome, unregistered=str(error))
        return replace(outcome, model=model, newly_registered=new)

    def _model_of(self, best: FrozenTrial) -> str:
        """Return the logged model of the best trial; empty when there is none."""
        from search.tracking import agreement

        context = self._context
        mine = best.system_attrs.get(attributes.SEARCH_RUN) == context.search_id
        patience = 0 if mine else self._patience  # only another search logs its model later
        return self._mirror.model_id(best.number) or agreement.awaited_model(
            self._definition, self._study, best, context.files, patience
        )

    def _log_plots(self, run: SearchRun) -> None:
        """Add the table of trials and the plots to the search's run; what fails is left out, and said."""
        if not self._drawn:
            return
        with tempfile.TemporaryDirectory() as name:
            folder, say = Path(name), self._context.on_message
            with told("the table of trials could not be written", say):
                plots.table(self._study, self._definition, folder)
            for plot in self._drawn:
                with told("a plot could not be drawn", say):
                    for file, content in plot.result().items():
                        (folder / file).write_bytes(content)
            with told("the table and the plots could not be added to the search's run", say):
                run.artifacts(folder)

    def _outcome(self) -> Outcome:
        context, run = self._context, self._context.run
        confirmed = attributes.confirmed_of(self._study)
        table = tuple(
            best_of(
                self._definition,
                trial,
                self._mirror.run_id(trial.number),
                confirmed.get(trial.number),
                attributes.trivial_of(self._study, trial),
            )
            for trial in self._ranked[:5]
        )
        trials = context.trials()
        counts = count(trials)
        return Outcome(
            study=context.settings.study_name,
            experiment_id=run.experiment_id if run is not None else "",
            search_run_id=run.run_id if run is not None else "",
            n_trials=counts.as_json(),
            died=counts.died,
            best=table[0],
            front=front_of(self._study, self._definition),
            model=None,
            newly_registered=False,
            stopped=self._stopped,
            seconds=time.monotonic() - context.started,
            workers=context.pool.description,
            data=context.data,
            table=table,
            url=context.url,
            serve=context.serve,
            arguments=arguments_of(context.settings),
            resume=resume_command(context.settings),
            failures=outcomes.failures(trials),
            saved=str(outcomes.saved(trials, self._definition.trainings)),
            near=self._near(),
        )

    def _near(self) -> str:
        """Return how many trials cannot be told from the best; empty where that is not known."""
        kept = {trial.number: self._context.files.outputs(trial.number) for trial in self._ranked}
        known = {number: Predictions.from_bytes(file.read_bytes()) for number, file in kept.items() if file.is_file()}
        folds, ensemble = self._definition.data.folds, self._context.settings.ensemble
        found = near(known, self._ranked[0].number, folds=folds, ensemble=ensemble)
        return "" if found is None else str(found)

    def _nothing_completed(self) -> NoTrialCompleted:
        trials = self._context.trials()
        counts, why = count(trials), outcomes.failures(trials)
        stopped = f"; {self._stopped}" if self._stopped else ""
        ended = f"({counts.pruned} pruned, {counts.failed} failed{stopped})"
        if counts.complete:
            study, limits = self._context.settings.study_name, ", ".join(self._definition.search.constraints)
            near = min(
                (trial for trial in trials if trial.state == TrialState.COMPLETE),
                key=lambda trial: max(attributes.constraints_of(trial), default=0.0),
            )
            return NoTrialCompleted(
                f"no trial of study '{study}' meets the constraints ({limits}): {plural(counts.complete, 'trial')} "
                f"completed, trial {near.number} is nearest"
            )
        reason = (
            f"; first failure: {printable(min(why, key=lambda failures: min(failures.numbers)).reason, _REASON)}"
            if why
            else ""
        )
        return NoTrialCompleted(f"no trial of study '{self._context.settings.study_name}' completed {ended}{reason}")
