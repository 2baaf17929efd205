"""Processes of this machine that run the functions of a search: started in one way, for whatever they run.

Where the system can, they are forked from a server that has imported the framework; else each imports it itself.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from search.errors import UsageError, one_line
from search.system import machine
from search.workers.backend import check_backend

T = TypeVar("T")
WORKER_BYTES = 1.5e9  # what a worker with TensorFlow and a small study takes, generously
_PRELOAD = "search.workers.preload"
_LONGEST_FOLDER = 70  # bytes of a path; that of a socket in it has 107 at most
_GROWTH = 1.25  # a worker that takes more, and this multiple of its size after its first trial, is replaced
_SIGKILL = -9
_TEMPORARY_BYTES = 50e6  # free in the temporary folder: a logged model, plots, sockets
_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_context: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
_faults: list[str] = []  # why this process cannot train
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


def begin_worker(allotment: Allotment) -> None:
    """Make the process a worker: called once in each, before anything of the framework runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which ends its workers itself
    _end_with_the_search()
    os.dup2(2, 1)  # what the user's code prints belongs on standard error: standard output is the command's
    os.environ.update(allotment.environment())
    try:
        with nullcontext() if _FORKS else machine.quiet():  # else the server has imported it
            from search.workers import worker

            worker.warm(allotment.threads)
    except Exception as error:  # told by the first call, which a process that ends here would never get
        _faults.append(f"a worker cannot start: {one_line(error)}{_place_of(error)}")


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
    if _faults:
        raise UsageError(_faults[0])
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
        return ProcessPool(max_workers=1, initializer=begin_worker, initargs=(self._allotment,), context=_prepared())

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
        if memory > max(WORKER_BYTES, _GROWTH * self._first_memory):
            self.stop()
            self._first_memory = 0

    def stop(self) -> None:
        """End the process at once."""
        self._pool.stop()
        self._pool.join()


class _Process(_context.Process):  # type: ignore[misc]
    """A process that does not import the program's main module: what it needs travels by value."""

    def start(self) -> None:
        """Start the process."""
        with _main_unnamed():
            super().start()


class _NoLock(nullcontext[None]):
    """Stands for a lock between processes: each pool here has one process."""

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:  # noqa: ARG002 - as Python's locks
        """Return true."""
        return True

    def release(self) -> None:
        """Do nothing."""


class _Context(type(_context)):  # type: ignore[misc]
    """How processes are started."""

    Process = _Process

    def RLock(self) -> Any:  # noqa: N802 - Python's name
        """Return a lock between processes; a container without /dev/shm has none."""
        try:
            return super().RLock()
        except OSError:
            return _NoLock()


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


def _prepared() -> _Context:
    context = _Context()
    if _FORKS:
        context.set_forkserver_preload([_PRELOAD])
        _shorten_sockets()
    return context


def _shorten_sockets() -> None:
    """Put multiprocessing's sockets into `/tmp` where the temporary folder's path is too long for them."""
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) <= _LONGEST_FOLDER:
        return
    tempfile.tempdir = "/tmp"  # noqa: S108 - a folder of its own is made in it, readable by its owner alone
    try:
        multiprocessing.util.get_temp_dir()  # which remembers it
    except OSError:  # there is no such folder; what needs a socket says so
        return
    finally:
        tempfile.tempdir = chosen


def start_forkserver() -> None:
    """Begin to import the framework in the server that workers are forked from, where there is one.

    Raises:
        UsageError: Keras is told to use a backend that it cannot import, or the temporary folder is full.
    """
    check_backend()
    _check_temporary()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # start-up noise; errors come as exceptions
    _prepared()
    if _FORKS:
        from multiprocessing import forkserver

        forkserver.ensure_running()


def _check_temporary() -> None:
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(f"no temporary folder can be written ({one_line(error)}); set TMPDIR to one") from None
    if free < _TEMPORARY_BYTES:
        need = f"a search needs {_TEMPORARY_BYTES / 1e6:.0f}"
        raise UsageError(
            f"the temporary folder {folder} has {free / 1e6:.0f} MB left, {need}; free some, or set TMPDIR"
        )


def reason_of(error: BaseException) -> str:
    """Return why a trial failed whose worker died or was stopped."""
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        if isinstance(code, int) and code < 0:
            return f"its worker died: signal {-code}" + (" (out of memory?)" if code == _SIGKILL else "")
        return f"its worker died: exit status {code}"
    return f"its worker was lost: {type(error).__name__} {error}".rstrip()
