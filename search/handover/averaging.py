"""Averages a study's best trainings into one model, where that is surely better than the best trial alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import optuna
from optuna.trial import FrozenTrial

from search.budget import Stage
from search.comparison.verdict import gain
from search.context import Context
from search.data.summary import Interface
from search.ensemble.members import Ensemble, Member, of_record
from search.errors import one_line
from search.figures import plural
from search.register import Best
from search.study import attributes, orders
from search.training.metrics import violations_of
from search.workers import averaging
from search.workers.averaging import Averaged, Chosen


@dataclass(frozen=True)
class _Candidate:
    """A training that may become a member: its outputs for the validation rows, and how to read its model."""

    member: Member
    outputs: bytes
    archive: Callable[[], bytes]


def average(
    context: Context, ranked: Sequence[FrozenTrial], best: Best, *, hurries: bool
) -> tuple[Ensemble, str] | None:
    """Average a study's best trainings, where that is surely better than the best trial alone.

    Whatever goes wrong is said in a line, and the best trial stands alone, or what an earlier search averaged stays.

    Args:
        context: The search, which has ended; MLflow shows its trials.
        ranked: The study's best trials, the best first.
        best: The best trial.
        hurries: Whether nothing new is averaged, after Ctrl-C.

    Returns:
        What was averaged, and the model's id in MLflow (empty where an earlier search registered it); None where the
        best trial stands alone.
    """
    standing = registered(context.study, best.number)
    stays = None if standing is None else (standing, "")
    if context.settings.ensemble < 2 or hurries:
        return stays
    context.on_message(Stage("averaging the best trainings"))
    try:
        return _Averaging(context, ranked, standing).run(best)
    except _NotAveraged as error:
        why = str(error)
    except Exception as error:  # of a worker, of the user's own layers, of MLflow
        why = f"the best trainings could not be averaged ({one_line(error)})"
    what = f"trial {best.number} alone is registered" if standing is None else "what an earlier search averaged stays"
    context.on_message(f"{why}; {what}")
    return stays


def registered(study: optuna.Study, number: int) -> Ensemble | None:
    """Return what an earlier search averaged and registered for a trial; None where none did, or a member is excluded.

    Args:
        study: The study.
        number: Its best trial.
    """
    from search.tracking import registry

    record = attributes.ensemble_of(study)
    ensemble = of_record(record) if record else None
    if ensemble is None or orders.excluded(study).keys() & {member.number for member in ensemble.members}:
        return None
    version = registry.version_of_run(study.study_name, ensemble.run_id)
    return ensemble if version is not None and version.tags.get("trial") == str(number) else None


class _NotAveraged(Exception):
    """Nothing is averaged; the message says why."""


class _Averaging:
    def __init__(self, context: Context, ranked: Sequence[FrozenTrial], standing: Ensemble | None) -> None:
        self._context, self._ranked, self._definition = context, ranked, context.definition
        self._most, self._standing = context.settings.ensemble, standing

    def run(self, best: Best) -> tuple[Ensemble, str]:
        """Return what `average` returns."""
        if len(self._definition.metrics) > 1 or self._definition.model.export:
            raise _NotAveraged("models of several metrics, or with model.export, are not averaged")
        return self._of(list(self._candidates()), best)

    def _of(self, candidates: Sequence[_Candidate], best: Best) -> tuple[Ensemble, str]:
        """Average some of the candidates."""
        if len(candidates) < 2 or candidates[0].member.number != best.number:
            raise _NotAveraged("averaging needs two models with their outputs for the validation rows")
        slot, job = self._context.pool.slots[0], self._context.job
        outputs = [candidate.outputs for candidate in candidates]
        chosen = slot.submit(averaging.choose, job, best.number, outputs, self._most).result()
        self._leave_out([candidates[at].member for at in chosen.left_out])
        several = [(candidates[at], count) for at, count in enumerate(chosen.counts) if count]
        members = tuple(replace(candidate.member, count=count) for candidate, count in several)
        if not chosen.verdict.better or len(members) < 2:
            raise _NotAveraged(f"the mean of the best trainings is not surely better {_interval(chosen)}")
        if self._standing is not None and self._standing.members == members:
            return self._standing, ""
        archives = {candidate.member.name: candidate.archive() for candidate, _ in several}
        counts = [member.count for member in members]
        made = slot.submit(averaging.make, job, best.number, archives, counts, outputs[0]).result()
        if not isinstance(made, Averaged):
            self._leave_out([member for member in members if member.name in made])
            return self._of([candidate for candidate in candidates if candidate.member.name not in made], best)
        if broken := self._broken(best, chosen, made):
            raise _NotAveraged(f"the mean of {plural(len(members), 'training')} does not meet {broken}")
        averaged = Ensemble(
            members=members,
            metric=self._definition.metrics[0],
            value=chosen.values.get(self._definition.metrics[0]),
            alone=best.value,
            metrics=made.metrics,
            slower=made.slower,
            gain=chosen.verdict.difference,
        )
        return self._logged(best.number, averaged, made)

    def _candidates(self) -> Iterator[_Candidate]:
        """Yield trainings whose model and outputs were kept: the best trial, its new seeds, then further trials."""
        from search.tracking import agreement
        from search.tracking.pages import averaged

        files, study = self._context.files, self._context.study
        models = agreement.models_of(self._definition, study)  # the best first
        for number in list(models)[: self._context.settings.models_kept]:
            run_id = averaged.run_of(models[number])
            if (outputs := files.outputs(number)).is_file():
                archive = partial(averaged.archive, models[number])
                yield _Candidate(Member(number, run_id), outputs.read_bytes(), archive)
            for seed in files.seeds(number) if number == self._ranked[0].number else ():
                outputs, model = files.outputs(number, seed), files.retrained(number, seed)
                yield _Candidate(Member(number, run_id, seed=seed), outputs.read_bytes(), model.read_bytes)

    def _leave_out(self, members: Sequence[Member]) -> None:
        """Say which trainings are not averaged."""
        if members:
            numbers = ", ".join(str(member.number) for member in members)
            self._context.on_message(
                f"trial{'s' * (len(members) > 1)} {numbers} cannot be averaged with trial {self._ranked[0].number}: "
                "other rows, inputs, or outputs"
            )

    def _broken(self, best: Best, chosen: Chosen, made: Averaged) -> str:
        """Return the constraints that the averaged model does not meet; empty when it meets all."""
        constraints = self._definition.search.constraints
        of_training = {name: value for name, value in best.metrics.items() if not name.startswith(("val_", "test_"))}
        violations = violations_of(self._definition, {**of_training, **chosen.values, **made.metrics})
        return ", ".join(text for text, beyond in zip(constraints, violations, strict=True) if beyond > 0)

    def _logged(self, number: int, ensemble: Ensemble, made: Averaged) -> tuple[Ensemble, str]:
        """Log the averaged model to a run of its own, and remember it with the study."""
        from search.tracking.pages import averaged

        context = self._context
        assert context.run is not None  # noqa: S101 - for the type checker: MLflow is in reach
        data = made.data.instead(context.data) if isinstance(made.data, Interface) else made.data
        run_id, model_id = averaged.log(context.run, self._definition, data, number, ensemble, made)
        ensemble = replace(ensemble, run_id=run_id)
        attributes.set_ensemble(context.study, ensemble.record())
        return ensemble, model_id


def _interval(chosen: Chosen) -> str:
    """Return how much better the mean is, with its interval."""
    difference, interval = chosen.verdict.difference, chosen.verdict.interval
    if difference is None or interval is None:
        return "(its loss is no number)"
    return f"({gain(difference)}, 95 % interval {interval[0]:+.3g} to {interval[1]:+.3g}; above 0 is better)"
