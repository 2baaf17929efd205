"""Where trials run: the interface that local processes and a dask cluster share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from search.data.summary import DataSummary

if TYPE_CHECKING:
    from search.workers import worker

T = TypeVar("T")


class Slot(Protocol):
    """A place where one trial at a time is trained."""

    def ready(self) -> bool:
        """Return whether `submit` begins at once."""

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `function` in the slot's process."""

    def lost(self) -> str | None:
        """Return why the worker is gone; None while it is reachable."""

    def stop(self) -> None:
        """End what runs in the slot; the slot can be used again."""

    def trained(self, memory: int) -> None:
        """Take note of the worker's resident size in bytes after a trial."""


class Pool(Protocol):
    """Slots to train in, and what to tell the person of them."""

    slots: list[Slot]
    description: str

    def check(self, job: worker.Job) -> DataSummary:
        """Check the study in one slot; creates nothing."""

    def reach(self, job: worker.Job) -> worker.Job:
        """Return the job as workers can do it, with the user's files where they lack them."""

    def close(self) -> None:
        """End every worker that was started here."""
