"""What a study found, as values: what `search.report` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.ensemble.members import Ensemble, of_record
from search.register import Best, best_of
from search.reporting import insight
from search.study import attributes, ranking
from search.study.comparable import comparable_trials
from search.studyfile.schema import Definition
from search.tracking.pages import outcomes

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        states: How many trials are in each state: `complete`, `pruned`, `failed`, `running`.
        best: The best trials, best first.
        importances: Each parameter's share in the difference between good and bad trials.
        caveat: What to bear in mind about them.
        saved: What pruning saved.
        edges: Parameters whose best values sit at one end of their range.
        failures: Failed trials by their reason.
        front: The trials on the Pareto front, by number; none for a study of one metric.
        ensemble: The trainings whose mean was registered last; None where none was, or another trial leads now.
    """

    study: str
    states: dict[str, int]
    best: tuple[Best, ...]
    importances: dict[str, float]
    caveat: str
    saved: outcomes.Saved
    edges: tuple[insight.Edge, ...]
    failures: tuple[outcomes.Failures, ...]
    front: tuple[int, ...] = ()
    ensemble: Ensemble | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        best = [
            {"number": each.number, "values": list(each.values), "params": each.params, "metrics": each.metrics}
            for each in self.best
        ]
        return {
            "study": self.study,
            "trials": self.states,
            "best": best,
            "importances": self.importances,
            "caveat": self.caveat or None,
            "saved": {"trials": self.saved.trials, "epochs": self.saved.epochs, "seconds": self.saved.seconds},
            "edges": [vars(each) for each in self.edges],
            **({"pareto_front": list(self.front)} if self.front else {}),
            **({} if self.ensemble is None else {"ensemble": self.ensemble.as_json()}),
            "failures": [{"reason": each.reason, "trials": list(each.numbers)} for each in self.failures],
        }


def findings_of(study: optuna.Study, definition: Definition, top: int) -> Findings:
    """Return what a study found.

    Args:
        top: How many of the best trials.
    """
    trials = study.get_trials(deepcopy=False)
    ranked = ranking.leading_trials(definition, study)
    confirmed = attributes.confirmed_of(study)
    return Findings(
        study=study.study_name,
        states=ranking.states_of(trials),
        best=tuple(
            best_of(
                definition,
                trial,
                confirmed=confirmed.get(trial.number),
                trivial=attributes.trivial_of(study, trial),
            )
            for trial in ranked[:top]
        ),
        importances=insight.importances(study, definition),
        caveat=insight.caveat(len(ranked)),
        saved=outcomes.saved(trials, definition.trainings),
        edges=tuple(insight.edges(study, definition)),
        failures=outcomes.failures(trials),
        front=front_of(study, definition),
        ensemble=averaged_of(study, definition),
    )


def front_of(study: optuna.Study, definition: Definition) -> tuple[int, ...]:
    """Return the numbers of the trials on the Pareto front; none for a study of one metric."""
    if len(definition.metrics) == 1:
        return ()
    return tuple(trial.number for trial in ranking.pareto_front(definition, comparable_trials(study)))


def averaged_of(study: optuna.Study, definition: Definition) -> Ensemble | None:
    """Return the trainings whose mean was registered last; None where none was, or another trial leads now."""
    record, leading = attributes.ensemble_of(study), ranking.leading_trials(definition, study)
    found = of_record(record) if record and leading else None
    return found if found is not None and leading[0].number in {each.number for each in found.members} else None
