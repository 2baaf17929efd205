"""Where trials run on this machine: processes forked from a server that has imported the framework.

A slot trains one trial at a time in a process of its own. When that process dies its trial alone
is lost, and the slot starts another. `search.cluster` offers the same slots on a dask cluster.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from search.errors import ModelError, UsageError, one_line
from search.study.files import SharedFolder
from search.system import machine
from search.workers.backend import check_backend
from search.workers.base import Slot

if TYPE_CHECKING:
    from search.training.dry_run import DryRun
    from search.workers import worker

T = TypeVar("T")
_PRELOAD = "search.workers.preload"
_LONGEST_FOLDER = 70  # bytes of a path; that of a socket in it has 107 at most
_WORKER_BYTES = 1.5e9  # what a worker with TensorFlow and a small study takes, generously
_GROWTH = 1.25  # a worker that takes more, and this multiple of its size after its first trial, is replaced
_SIGKILL = -9
_naming = threading.Lock()  # of the main module, which is one for all threads


@dataclass(frozen=True)
class Allotment:
    """What one local worker may use.

    Attributes:
        threads: Threads of TensorFlow's and of the numeric libraries' own pools.
        gpus: The GPUs it sees, as in `CUDA_VISIBLE_DEVICES`; None where there are none.
        gpu_share: The share of their memory it may take.
    """

    threads: int
    gpus: str | None = None
    gpu_share: float = 1.0

    def environment(self) -> dict[str, str]:
        """Return the variables that make the frameworks keep to the allotment."""
        threads = str(self.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        variables = {name: threads for name in names if name not in os.environ}
        if self.gpus is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpus
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * self.gpu_share:.3f}"
        return variables


@dataclass
class _Begun:
    """Why this process cannot train; empty where it can."""

    fault: str = ""


_begun = _Begun()


def begin_worker(allotment: Allotment) -> None:
    """Make the process a worker: called once in each, before anything of the framework runs."""
    from search.workers import worker

    _end_with_the_search()
    os.dup2(2, 1)  # what the user's code prints belongs on standard error: standard output is the command's
    os.environ.update(allotment.environment())
    try:
        worker.warm(allotment.threads)
    except Exception as error:  # told by the first call, which a process that ends here would never get
        _begun.fault = f"a worker cannot start: {one_line(error)}{_place_of(error)}"


def _place_of(error: BaseException) -> str:
    """Return the file and line that raised, where it is a file of the person's own: it may hide a package."""
    *_, last = traceback.extract_tb(error.__traceback__)
    if "site-packages" in last.filename or not Path(last.filename).is_relative_to(Path.cwd()):
        return ""
    return f" ({last.filename}, line {last.lineno}); rename that file if it has the name of a package"


def _call(function: Callable[..., T], /, *args: Any) -> T:
    """Call a function in a worker, which says first why it cannot.

    Raises:
        UsageError: The framework cannot be imported.
    """
    if _begun.fault:
        raise UsageError(_begun.fault)
    return function(*args)


def _end_with_the_search() -> None:
    """Exit with the search or its forkserver, whichever ends first."""
    machine.end_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None:  # the server outlives the search as long as a worker does
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    """Wait for the end of the process that holds the other end of this one's pipe, and end at once."""
    parent.join()
    os._exit(1)


class LocalSlot:
    """A process of this machine."""

    def __init__(self, allotment: Allotment) -> None:
        self._allotment = allotment
        self._first_memory = 0
        self._pool = self._start()

    def _start(self) -> ProcessPool:
        return ProcessPool(max_workers=1, initializer=begin_worker, initargs=(self._allotment,), context=fork_context())

    def ready(self) -> bool:
        """Return true: the process is this slot's own."""
        return True

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `function` in the slot's process; a new one is started when the last has died."""
        if not self._pool.active:
            self._pool = self._start()
        future: Future[T] = self._pool.schedule(_call, args=(function, *args))
        return future

    def lost(self) -> None:
        """Return None: the future of a process that died says so itself."""

    def trained(self, memory: int) -> None:
        """Replace the process when it has grown too large; the next one is ready in 0.1 s, without traced graphs."""
        self._first_memory = self._first_memory or memory
        if memory > max(_WORKER_BYTES, _GROWTH * self._first_memory):
            self.stop()
            self._first_memory = 0

    def stop(self) -> None:
        """End the process at once."""
        self._pool.stop()
        self._pool.join()


class LocalPool:
    """Worker processes of this machine.

    Args:
        wanted: How many, or `auto`.
        n_trials: The budget; more workers than trials would idle.
        gpu_share: The share of a GPU that one worker uses.
        gpus_each: How many GPUs one worker uses.
    """

    def __init__(self, wanted: int | str, n_trials: int, gpu_share: float = 1.0, gpus_each: int = 1) -> None:
        start_forkserver()
        gpus = in_groups(visible_gpus(), gpus_each)
        count, why = choose_workers(wanted, n_trials, gpus, gpu_share)
        threads = max(1, machine.processors() // count)
        self.slots: list[Slot] = [
            LocalSlot(Allotment(threads, gpus[index % len(gpus)] if gpus else None, gpu_share))
            for index in range(count)
        ]
        shares = f" and {gpu_share * gpus_each:g} GPU{'s' * (gpus_each > 1)}" if gpus else ""
        each = f"{threads} thread{'s' if threads > 1 else ''}{shares} each"
        self._shared = SharedFolder() if count > 1 else None
        self.description = f"{count} worker{'s' if count > 1 else ''} ({why}), {each}"

    def dry_run(self, job: worker.Job) -> DryRun:
        """Check the study in one slot; creates nothing."""
        from search.workers import worker

        try:
            return self.slots[0].submit(worker.try_out, job).result()
        except ProcessExpired as error:
            raise ModelError(
                f"loading the data or building the first model ended its process: {reason_of(error)}"
            ) from (error)

    def reach(self, job: worker.Job) -> worker.Job:
        """Return the job with the folder in which workers share data; this machine has the user's files."""
        return job if self._shared is None else replace(job, shared=self._shared.path)

    def sees(self, folder: Path) -> bool:  # noqa: ARG002 - as the protocol has it
        """Return true: this machine's workers see what it sees."""
        return True

    def close(self) -> None:
        """End every worker."""
        for slot in self.slots:
            slot.stop()
        if self._shared is not None:
            self._shared.close()


class _Worker(ForkServerProcess):
    """A process that does not import the program's main module: what workers need travels by value."""

    def start(self) -> None:
        """Start the process."""
        with _main_unnamed():
            super().start()


class _Context(ForkServerContext):
    """How processes are started."""

    Process = _Worker


@contextmanager
def _main_unnamed() -> Iterator[None]:
    """Hide where the main module comes from, which may be standard input, a notebook, or a script without a guard."""
    main = sys.modules["__main__"]
    names = ("__spec__", "__file__")
    with _naming:
        kept = {name: vars(main).pop(name) for name in names if name in vars(main)}
        main.__spec__ = None
        try:
            yield
        finally:
            vars(main).pop("__spec__")
            vars(main).update(kept)


def fork_context() -> Any:
    """Return how processes are started: forked from a server that has the framework imported."""
    context = _Context()
    context.set_forkserver_preload([_PRELOAD])
    _shorten_sockets()
    return context


def _shorten_sockets() -> None:
    """Let multiprocessing put its sockets into `/tmp` where the temporary folder's path is too long for them."""
    own = tempfile.gettempdir()
    if len(os.fsencode(own)) <= _LONGEST_FOLDER:
        return
    tempfile.tempdir = "/tmp"  # noqa: S108 - a folder of its own is made in it, readable by its owner alone
    try:
        multiprocessing.util.get_temp_dir()  # which remembers it
    except OSError:  # there is no such folder; what needs a socket says so
        return
    finally:
        tempfile.tempdir = own


def start_forkserver() -> None:
    """Begin to import the framework in the server that workers are forked from.

    Raises:
        UsageError: Keras is told to use a backend that it cannot import.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # start-up noise; errors come as exceptions
    fork_context()
    forkserver.ensure_running()


def visible_gpus() -> list[str]:
    """Return the GPUs that workers may use, as in `CUDA_VISIBLE_DEVICES`, without touching them."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name for name in stated.split(",") if name and name != "-1"]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True)
        return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    return []


def in_groups(gpus: list[str], size: int) -> list[str]:
    """Return GPUs in groups of a size, each as in `CUDA_VISIBLE_DEVICES`; all in one group where they are too few."""
    groups = [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]
    return groups or ([",".join(gpus)] if gpus else [])


def _each(n_trials: int) -> str:
    return f"one for each of {n_trials} trials" if n_trials > 1 else "one for the only trial"


def choose_workers(wanted: int | str, n_trials: int, gpus: list[str], gpu_share: float) -> tuple[int, str]:
    """Return how many local workers to use, and why.

    Small models gain nothing from several threads, so `auto` takes a worker for each core, or for
    each share of a GPU or group of GPUs; more than there are trials, or than memory holds, would idle.
    """
    if isinstance(wanted, int):
        return max(1, min(wanted, n_trials)), "as asked" if wanted <= n_trials else _each(n_trials)
    places = len(gpus) * int(1 / gpu_share) if gpus else machine.processors()
    place = f"one for each of {places} {'GPU shares' if gpus else 'cores'}"
    limits = {places: place, max(1, int(machine.available_memory() / _WORKER_BYTES)): "as many as memory holds"}
    limits.setdefault(max(1, n_trials), _each(n_trials))
    count = min(limits)
    return count, limits[count]


def reason_of(error: BaseException) -> str:
    """Return why a trial failed whose worker died or was stopped."""
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        if isinstance(code, int) and code < 0:
            return f"its worker died: signal {-code}" + (" (out of memory?)" if code == _SIGKILL else "")
        return f"its worker died: exit status {code}"
    return f"its worker was lost: {type(error).__name__} {error}".rstrip()
