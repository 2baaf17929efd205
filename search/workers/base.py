"""Where trials run: the interface that local processes and a dask cluster share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from search.training.dry_run import DryRun
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

    def dry_run(self, job: worker.Job) -> DryRun:
        """Check the study in one slot; creates nothing."""

    def reach(self, job: worker.Job) -> worker.Job:
        """Return the job as workers can do it, with the user's files where they lack them."""

    def sees(self, folder: Path) -> bool:
        """Return whether every worker can write to a folder of this machine, which need not be there yet."""

    def close(self) -> None:
        """End every worker that was started here."""


def in_background(function: Callable[..., T], /, *args: Any) -> Future[T]:
    """Call a function in a thread that the process does not wait for when it ends."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future
