"""Where trials run: processes of this machine, or an existing dask cluster, by one interface.

A slot trains one trial at a time in a process of its own. When that process dies, its trial alone
is lost and the slot starts another.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool

from search.errors import TrialFailed
from search.results import DataSummary

if TYPE_CHECKING:
    from search import worker

T = TypeVar("T")
_PRELOAD = "search.preload"
_GROWTH = 1.25  # a worker grown to this multiple of its size after its first trial is replaced


class Slot(Protocol):
    """A place where one trial at a time is trained."""

    name: str

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `function` in the slot's process."""

    def stop(self) -> None:
        """End what runs in the slot."""

    def trained(self, memory: int) -> None:
        """Take note of the worker's resident size in bytes after a trial."""


@dataclass(frozen=True)
class Allotment:
    """What one local worker may use.

    Attributes:
        threads: Threads of TensorFlow's and of the numeric libraries' own pools.
        gpu: The value of `CUDA_VISIBLE_DEVICES`; empty hides every GPU, None changes nothing.
        memory_share: Share of the GPU's memory, when several workers use it.
    """

    threads: int
    gpu: str | None = None
    memory_share: float = 1.0

    def environment(self) -> dict[str, str]:
        """Return the variables that make the frameworks keep to the allotment."""
        threads = str(self.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
        variables = {name: threads for name in names if name not in os.environ}
        variables.setdefault("TF_NUM_INTEROP_THREADS", "1")
        if self.gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpu
        return variables


def prepare_environment() -> None:
    """Silence the frameworks' start-up noise in this process and those it starts; Python warnings stay."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def begin_worker(allotment: Allotment) -> None:
    """Make the process a worker: called once in each, before anything of TensorFlow runs."""
    from search import worker

    os.environ.update(allotment.environment())

    worker.warm(allotment.threads)


class LocalSlot:
    """A process of this machine, forked from a server that has imported the framework already."""

    def __init__(self, index: int, allotment: Allotment) -> None:
        self.name = f"worker {index}"
        self._allotment = allotment
        self._first_memory = 0
        self._pool = self._start()

    def _start(self) -> ProcessPool:
        return ProcessPool(
            max_workers=1,
            initializer=begin_worker,
            initargs=(self._allotment,),
            context=_forkserver(),
        )

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `function` in the slot's process; a new one is started when the last has died."""
        if not self._pool.active:
            self._restart()
        future: Future[T] = self._pool.schedule(function, args=args)
        return future

    def trained(self, memory: int) -> None:
        """Replace the process when it has grown too large; the next one is ready in 0.1 s."""
        self._first_memory = self._first_memory or memory
        if memory > _GROWTH * self._first_memory:
            self._restart()

    def _restart(self) -> None:
        self.stop()
        self._first_memory = 0
        self._pool = self._start()

    def stop(self) -> None:
        """End the process at once."""
        self._pool.stop()
        self._pool.join()


def _forkserver() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    return context


def start_forkserver() -> None:
    """Begin to import the framework in the server that workers are forked from."""
    from multiprocessing import forkserver

    prepare_environment()
    _forkserver()
    forkserver.ensure_running()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(wanted: int | str, n_trials: int) -> tuple[int, str]:
    """Return how many local workers to use, and why.

    Small models gain nothing from several threads, so `auto` takes a worker for each core; more
    than there are trials, or than memory holds, would idle.
    """
    if isinstance(wanted, int):
        return max(1, min(wanted, n_trials)), "as asked"
    available = cores()
    fitting = max(1, int(_free_memory() / 1.5e9))
    count = max(1, min(available, fitting, n_trials))
    limit = {available: f"one for each of {available} cores", fitting: "as many as memory holds"}
    return count, limit.get(count, f"no more than {n_trials} trials")


def _free_memory() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return 4e9


def reason_of(error: BaseException) -> TrialFailed:
    """Return why a trial failed whose worker died or was stopped."""
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        signal = f"signal {-code}" if isinstance(code, int) and code < 0 else f"exit status {code}"
        hint = " (out of memory?)" if code == -9 else ""
        return TrialFailed(f"its worker died: {signal}{hint}")
    return TrialFailed(f"its worker died: {type(error).__name__}: {error}")


class Pool(Protocol):
    """Slots to train in, and what to tell the person of them."""

    slots: list[Slot]
    description: str

    def check(self, job: worker.Job) -> DataSummary:
        """Check the study in one slot, while the others load its data; creates nothing."""

    def close(self) -> None:
        """End every worker that was started here."""


class LocalPool:
    """Worker processes of this machine."""

    def __init__(self, count: int, why: str) -> None:
        start_forkserver()
        threads = max(1, cores() // count)
        self.slots: list[Slot] = [LocalSlot(index, Allotment(threads)) for index in range(count)]
        self.description = (
            f"{count} worker{'s' if count > 1 else ''} ({why}), {threads} thread{'s' if threads > 1 else ''} each"
        )

    def check(self, job: worker.Job) -> DataSummary:
        """Check the study in one slot, while the others load its data; creates nothing."""
        from search import worker

        first, *others = self.slots
        checked = first.submit(worker.check, job)
        for slot in others:
            slot.submit(worker.prepare, job)
        return checked.result()

    def close(self) -> None:
        """End every worker."""
        for slot in self.slots:
            slot.stop()


def open_pool(cluster: str | None, wanted: int | str, n_trials: int, gpu_share: float) -> Pool:
    """Return the workers of a cluster's scheduler, or of this machine."""
    return LocalPool(*choose_workers(wanted, n_trials))
