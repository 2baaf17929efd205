"""From trained trials to a registered model: how a search ends, in order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial

from search import resume
from search.budget import Stage, count
from search.data.summary import DataSummary
from search.errors import Interrupted, NoTrialCompleted, RegistryError, SearchError, TrackingError, one_line, printable
from search.handover.confirmation import Confirmation
from search.outcome import Outcome
from search.register import best_of, check_usable, register_best
from search.reporting import plots
from search.study import attributes, ranking
from search.study.spool import Spool
from search.studyfile.schema import Definition
from search.studyfile.settings import Settings, arguments_of
from search.tracking.pages import fates
from search.workers import worker
from search.workers.base import Pool
from search.workers.fresh import FreshProcess

if TYPE_CHECKING:
    from search.tracking.mirror import Mirror
    from search.tracking.runs import SearchRun

OnMessage = Callable[[str], None]
INTERRUPTED = "interrupted"  # what a search's record says of it at its end
HURRY = 4.0  # seconds without progress after which the end of a search no longer waits for MLflow, after Ctrl-C
_PATIENCE = 30.0  # the same, else
_REASON = 300  # characters of a reason
_FINISHED, _TRAINED = "finished", "trained"


@dataclass(frozen=True)
class Begun:
    """A search that has begun: what it works on and writes to.

    Attributes:
        settings: What to do.
        study: Its study.
        claim: What says that it runs.
        spool: Where its models wait for MLflow.
        pool: Where its trials run.
        job: What workers are told.
        data: What is known of its data.
        run: Its run in MLflow; None when it is offline.
        mirror: What makes MLflow show its trials; None likewise.
        url: The address of its page; empty likewise.
        serve: The command that serves the page; empty when a server is up.
        on_message: Called with a line for the person.
    """

    settings: Settings
    study: optuna.Study
    claim: resume.Claim
    spool: Spool
    pool: Pool
    job: worker.Job
    data: DataSummary
    run: SearchRun | None
    mirror: Mirror | None
    url: str
    serve: str
    on_message: OnMessage

    @property
    def definition(self) -> Definition:
        """The study file."""
        return self.settings.definition

    @property
    def search_id(self) -> str:
        """The search, as the study knows it."""
        return self.claim.record.search_id

    def trials(self) -> list[FrozenTrial]:
        """Return the search's own trials."""
        return resume.trials_of(self.study, self.search_id)


def finish(begun: Begun, stopped: str, started: float, *, in_a_hurry: bool) -> Outcome:
    """Register the best trial's model, write the search's outcome to its run, and return it.

    Args:
        begun: The search, whose trials have ended.
        stopped: Why it ended before its budget was spent; empty when it did not.
        started: When it started, in seconds of `time.monotonic`.
        in_a_hurry: Whether Ctrl-C ended it.

    Raises:
        NoTrialCompleted: There is no best trial.
        Interrupted: Ctrl-C ended it before there was one, or came while leading trials were trained again.
        SearchError: The best trial's model cannot be used.
    """
    return _Ending(begun, stopped, started, in_a_hurry=in_a_hurry).finish()


class _Ending:
    def __init__(self, begun: Begun, stopped: str, started: float, *, in_a_hurry: bool) -> None:
        self._begun, self._stopped, self._started, self._in_a_hurry = begun, stopped, started, in_a_hurry
        self._definition, self._study = begun.definition, begun.study
        self._run, self._mirror = begun.run, begun.mirror
        self._patience = HURRY if in_a_hurry else _PATIENCE

    def finish(self) -> Outcome:
        """End the search; see the function of this name."""
        begun, settings = self._begun, self._begun.settings
        halted = 0 if self._in_a_hurry else self._confirmation().run(settings.confirm, begun.pool.slots)
        begun.on_message(Stage("drawing the plots and registering the best model"))
        ranked = ranking.leading_trials(self._definition, self._study)
        drawn = [] if self._in_a_hurry or not ranked or self._run is None else self._draw()
        waiting = self._mirror.drain(self._patience) if self._mirror is not None else None
        not_mirrored = self._not_mirrored(waiting)
        outcome = self._outcome(ranked, not_mirrored) if ranked else None
        state = INTERRUPTED if self._in_a_hurry else _FINISHED
        if self._run is not None:
            with FreshProcess() if ranked and settings.register else nullcontext() as fresh:
                outcome, state = self._publish(self._run, outcome, ranked, drawn, state, fresh)
        elif state == _FINISHED:
            state = _TRAINED
        begun.claim.ended(state, self._stopped)
        if self._mirror is not None:
            self._mirror.close()
        if state == _FINISHED and not not_mirrored:
            begun.spool.forget(begun.search_id)
        return self._told(outcome, halted)

    def _told(self, outcome: Outcome | None, halted: int) -> Outcome:
        """Return the outcome, or raise what the command ends with."""
        if outcome is None:
            if self._in_a_hurry:
                command = f"python -m search.run {arguments_of(self._begun.settings)} --resume"
                raise Interrupted(f"interrupted before any trial completed; go on with: {command}")
            raise self._nothing_completed()
        outcome = replace(outcome, seconds=time.monotonic() - self._started)
        if halted:
            interrupted = Interrupted("interrupted while the leading trials were trained again; all is kept", halted)
            interrupted.outcome = outcome
            raise interrupted
        if not self._in_a_hurry:
            check_usable(outcome.model)
        return outcome

    def _confirmation(self) -> Confirmation:
        begun = self._begun
        return Confirmation(
            self._definition, self._study, begun.job, begun.trials(), begun.spool, self._mirror, begun.on_message
        )

    def _not_mirrored(self, waiting: list[int] | None) -> tuple[int, ...]:
        return tuple(each.number for each in self._begun.trials()) if waiting is None else tuple(waiting)

    def _draw(self) -> list[Future[dict[str, bytes]]]:
        """Let workers draw, side by side and with the plotting library imported, while MLflow catches up."""
        slots, job = self._begun.pool.slots, self._begun.job
        drawn = [slots[i % len(slots)].submit(worker.draw, job, name) for i, name in enumerate(plots.DRAWINGS)]
        return [*drawn, slots[len(drawn) % len(slots)].submit(worker.draw_data, job)]

    def _publish(
        self,
        run: SearchRun,
        outcome: Outcome | None,
        ranked: Sequence[FrozenTrial],
        drawn: Sequence[Future[dict[str, bytes]]],
        state: str,
        fresh: FreshProcess | None,
    ) -> tuple[Outcome | None, str]:
        """Register the best model and end the search's run; returns the outcome and the search's state."""
        from search.tracking import agreement, store

        begun = self._begun
        try:
            with store.store_errors(store.uri()):
                if self._mirror is not None and (fault := self._mirror.fault):
                    raise TrackingError(f"MLflow tracking store {store.uri()} {fault}")
                if ranked:
                    agreement.show_confirmed(self._definition, self._study)
                    self._log_model_again(ranked[0].number)
                outcome = outcome and self._with_run(outcome, ranked[0])
                if outcome is not None and fresh is not None:
                    outcome = self._register(run, outcome, ranked[0], drawn, fresh)
                elif drawn:
                    self._log_plots(run, drawn)
                model = outcome.model.uri if outcome is not None and outcome.model is not None else ""
                agreement.end_search(
                    self._definition, self._study, begun.search_id, run, model, self._stopped, killed=self._in_a_hurry
                )
        except (SearchError, OSError) as error:
            begun.on_message(f"{error} (python -m search.sync writes it later)")
            unregistered = replace(outcome, unregistered=str(error)) if outcome else None
            return unregistered, _TRAINED if state == _FINISHED else state
        return outcome, state

    def _with_run(self, outcome: Outcome, trial: FrozenTrial) -> Outcome:
        """Return the outcome with the best trial's run, which an earlier search may have made."""
        from search.tracking import agreement

        if self._mirror is not None and self._mirror.run_id(trial.number):
            return outcome
        best = replace(outcome.best, run_id=agreement.run_of(self._definition, self._study, trial))
        return replace(outcome, best=best, table=(best, *outcome.table[1:]))

    def _register(
        self,
        run: SearchRun,
        outcome: Outcome,
        best: FrozenTrial,
        drawn: Sequence[Future[dict[str, bytes]]],
        fresh: FreshProcess,
    ) -> Outcome:
        """Register the best trial's model; the plots are logged while a fresh process loads it."""
        model_id = self._model_of(best)
        loaded = fresh.begin_check(model_id) if model_id else str
        if drawn:
            self._log_plots(run, drawn)
        name, data = self._begun.settings.study_name, self._begun.data
        try:
            model, new = register_best(name, self._definition, best, outcome.best, data, model_id, loaded)
        except (TrackingError, RegistryError):
            raise
        except SearchError as error:  # MLflow lost the model; the search is over all the same
            return replace(outcome, unregistered=str(error))
        return replace(outcome, model=model, newly_registered=new)

    def _log_model_again(self, number: int) -> None:
        """Log the model of the trial that leads since trials were confirmed, where it was not kept before."""
        begun = self._begun
        if self._mirror is not None and begun.settings.confirm > 0 and number in begun.spool.waiting():
            self._mirror.log_model(number)

    def _model_of(self, best: FrozenTrial) -> str:
        """Return the logged model of the best trial; empty when there is none."""
        from search.tracking import agreement

        begun, mirror = self._begun, self._mirror
        assert mirror is not None  # noqa: S101 - for the type checker: there is a run
        mine = best.system_attrs.get(attributes.SEARCH_RUN) == begun.search_id
        patience = 0 if mine else self._patience  # only another search logs its model later
        return mirror.model_id(best.number) or agreement.awaited_model(
            self._definition, self._study, best, begun.spool, patience
        )

    def _log_plots(self, run: SearchRun, drawn: Sequence[Future[dict[str, bytes]]]) -> None:
        """Add the table of trials and the plots to the search's run; what fails is left out, and said."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with self._decorating("the table of trials could not be written"):
                plots.table(self._study, self._definition, folder)
            for plot in drawn:
                with self._decorating("a plot could not be drawn"):
                    for file, content in plot.result().items():
                        (folder / file).write_bytes(content)
            with self._decorating("the table and the plots could not be added to the search's run"):
                run.artifacts(folder)

    @contextmanager
    def _decorating(self, failure: str) -> Iterator[None]:
        """Let nothing inside this block end the search: whatever goes wrong is said in a line."""
        try:
            yield
        except Exception as error:
            self._begun.on_message(f"{failure}: {one_line(error)}")

    def _outcome(self, ranked: Sequence[FrozenTrial], not_mirrored: tuple[int, ...]) -> Outcome:
        begun, run = self._begun, self._run
        run_of = self._mirror.run_id if self._mirror is not None else lambda _: ""
        confirmed = attributes.confirmed_of(self._study)
        table = tuple(best_of(each, run_of(each.number), confirmed.get(each.number)) for each in ranked[:5])
        trials = begun.trials()
        counts = count(trials)
        several = len(self._definition.metrics) > 1
        front = ranking.pareto_front(self._definition, attributes.comparable_trials(self._study)) if several else []
        return Outcome(
            study=begun.settings.study_name,
            experiment_id=run.experiment_id if run is not None else "",
            search_run_id=run.run_id if run is not None else "",
            n_trials=counts.as_json(),
            died=counts.died,
            best=table[0],
            front=tuple(trial.number for trial in front),
            model=None,
            newly_registered=False,
            stopped=self._stopped,
            seconds=time.monotonic() - self._started,
            workers=begun.pool.description,
            data=begun.data,
            table=table,
            not_mirrored=not_mirrored,
            url=begun.url,
            serve=begun.serve,
            arguments=arguments_of(begun.settings),
            failures=fates.failures(trials),
            saved=str(fates.saved(trials)),
        )

    def _nothing_completed(self) -> NoTrialCompleted:
        trials = self._begun.trials()
        counts, why = count(trials), fates.failures(trials)
        ended = f"({counts.pruned} pruned, {counts.failed} failed)"
        reason = f", {'most of them ' if len(why) > 1 else ''}with {printable(why[0].reason, _REASON)}" if why else ""
        return NoTrialCompleted(f"no trial of study '{self._begun.settings.study_name}' completed {ended}{reason}")
