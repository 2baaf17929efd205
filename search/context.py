"""A search that has begun: one record of what it works on and what it writes to, from training to registration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from search import resume
from search.budget import OnProgress
from search.data.summary import DataSummary
from search.study import attributes
from search.study.files import StudyFiles
from search.study.listener import Listener
from search.studyfile.schema import Definition
from search.studyfile.settings import Settings
from search.system.outbox import Outbox
from search.workers import worker
from search.workers.base import Pool

if TYPE_CHECKING:
    from search.tracking.mirror import Mirror
    from search.tracking.runs import SearchRun

OnMessage = Callable[[str], None]


class NoMirror(Listener):
    """Stands for `search.tracking.mirror.Mirror` where MLflow is left alone: it shows no trial."""

    fault = ""

    def __init__(self) -> None:
        self.outbox = Outbox("MLflow", "trial", lambda _: False, 0, lambda _: None)  # stays empty

    def update(self, number: int) -> None:
        """Do nothing."""

    def await_run(self, number: int, seconds: float) -> str:  # noqa: ARG002 - as `Mirror`
        """Return no run."""
        return ""

    def run_id(self, number: int) -> str:  # noqa: ARG002 - as `Mirror`
        """Return no run."""
        return ""

    def model_id(self, number: int) -> str:  # noqa: ARG002 - as `Mirror`
        """Return no logged model."""
        return ""

    def log_model(self, number: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Context:
    """A search that has begun.

    Attributes:
        started: When, in seconds of `time.monotonic`.
        claim: The record in the study that says that it runs.
        files: The study's files, where its models wait for MLflow.
        pool: Where its trials run.
        job: What workers are told.
        data: What is known of its data.
        on_progress: Called at each trial's beginning and end, and while a long one trains; it must not raise.
        on_message: Called with a line for the person.
        mirror: Shows its trials in MLflow.
        run: Its run in MLflow; None when it is offline.
        url: The address of its page; empty likewise.
        serve: The command that serves the page; empty when a server is up.
    """

    settings: Settings
    started: float
    study: optuna.Study
    storage: BaseStorage
    claim: resume.Claim
    files: StudyFiles
    pool: Pool
    job: worker.Job
    data: DataSummary
    on_progress: OnProgress
    on_message: OnMessage
    mirror: Mirror | NoMirror = field(default_factory=NoMirror)
    run: SearchRun | None = None
    url: str = ""
    serve: str = ""

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
        return attributes.trials_of_search(self.study, self.search_id)
