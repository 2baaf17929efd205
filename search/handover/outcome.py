"""What a search came to: the values that the command prints and the Python API returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search.data.summary import DataSummary
from search.register import Best
from search.system.outbox import Left

if TYPE_CHECKING:
    from search.tracking.pages.outcomes import Failures
    from search.tracking.registry import Registered


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        n_trials: How many of its trials are `complete`, `pruned` and `failed`.
        died: Failed trials among them that died with their worker, beside the budget.
        best: The best trial of the whole study.
        front: The Pareto front, when there are several metrics.
        model: The registered version of the best trial; None with `--no-register`.
        newly_registered: Whether this search registered it.
        stopped: Why the search ended before its budget was spent, if it did.
        table: The best trials, for the terminal.
        not_mirrored: Trials that MLflow does not show yet, and how long showing them takes.
        unregistered: Why the best trial's model is not registered, when it should be.
        url: The address of the study's page in MLflow's UI; empty when MLflow does not show the study.
        serve: The command that serves that page; empty when a server is up.
        arguments: What names this study on a command line: `blobs --study-name mine`.
        resume: The command that goes on with the search, had it been interrupted.
        failures: Its failed trials by their reason.
        saved: What pruning saved, in words; empty when nothing was pruned.
        near: How many trials cannot be told from the best, in words; empty where there are none, or it is not known.
    """

    study: str
    experiment_id: str
    search_run_id: str
    n_trials: dict[str, int]
    died: int
    best: Best
    front: tuple[int, ...]
    model: Registered | None
    newly_registered: bool
    stopped: str
    seconds: float
    workers: str
    data: DataSummary
    table: tuple[Best, ...]
    not_mirrored: Left = field(default_factory=Left)
    unregistered: str = ""
    url: str = ""
    serve: str = ""
    arguments: str = ""
    resume: str = ""
    failures: tuple[Failures, ...] = ()
    saved: str = ""
    near: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        values = self.best.values
        model = None
        if self.model is not None:
            names = ("name", "version", "alias", "uri")
            model = {name: getattr(self.model, name) for name in names}
        several = {"pareto_front": list(self.front)} if len(values) > 1 else {}
        return {
            "study": self.study,
            "experiment_id": self.experiment_id,
            "search_run_id": self.search_run_id,
            "n_trials": self.n_trials,
            "best": {
                "number": self.best.number,
                "value": values[0] if len(values) == 1 else list(values),
                "params": self.best.params,
                "run_id": self.best.run_id,
                "metrics": self.best.metrics,
                **({"confirmed": self.best.confirmed.as_json()} if self.best.confirmed is not None else {}),
                **({"ensemble": self.best.ensemble.as_json()} if self.best.ensemble is not None else {}),
            },
            **several,
            "model": model,
            "stopped": self.stopped or None,
            "seconds": round(self.seconds, 3),
            **({"not_mirrored": len(self.not_mirrored.numbers)} if self.not_mirrored.numbers else {}),
        }
