"""A server that has imported what commands import; a test's command is forked from it in 20 ms.

A forked command has its own arguments, folder, environment, pipes, signals and exit status, and workers of its own.
Its main module runs as under `python -m`, and its process ends as any other. What it shares with the server is what
was imported: variables that are read by an import need a process that starts cold.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver, process, resource_tracker, util
from typing import Any, NoReturn, TextIO

_IMPORTED = (  # by a search, a report, a promotion
    "keras",
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.visualization",
    "pandas",
    "plotly.graph_objects",
    "sklearn.datasets",
    "sklearn.model_selection",
    "search.session",
    "search.terminal",
    "search.tracking.mirror",
    "search.register",
    "search.workers.worker",
)
_READ_BY_IMPORTS = (  # variables, by the beginnings of their names
    *("HOME", "JAX_", "KERAS_", "LANG", "LC_", "LD_", "OMP_", "PYTHON", "TF_", "XLA_"),
    *("MLFLOW_CONFIGURE_LOGGING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"),
)
_LONGEST = 1 << 20  # bytes of a request
POSSIBLE = hasattr(os, "fork") and hasattr(os, "pidfd_open")


class Forked(subprocess.Popen[str]):
    """`subprocess.Popen` of `python -m MODULE …` or `python -c CODE …`, forked from this session's server.

    Raises:
        ValueError: The environment has another value than the server's for a variable that imports read.
    """

    _status: socket.socket

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments
        environment = dict(asked["env"] or os.environ)
        server = _server()
        if names := sorted(server.differs(environment)):
            raise ValueError(f"{', '.join(names)}: read by imports; ask for a cold start")
        pipes = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        request = {
            "argv": [os.fsdecode(each) for each in asked["args"]],
            "folder": os.fsdecode(asked["cwd"] or os.getcwd()),
            "environment": environment,
            "session": asked["start_new_session"],
        }
        self._status, self.pid = server.fork(request, [own if own >= 0 else n for n, own in enumerate(pipes)])
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in _PIPES))

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        ready, _, _ = select.select([self._status], [], [], 0 if wait_flags else None)
        if not ready:
            return 0, 0
        told = self._status.recv(32)
        self._status.close()
        return self.pid, int(told or signal.SIGKILL)  # the server is gone, and cannot say

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                done, status = self._try_wait(os.WNOHANG)
                if done:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class _Server:
    """The other end of the server: asks it for processes."""

    def __init__(self) -> None:
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = dict(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def differs(self, environment: Mapping[str, str]) -> Iterator[str]:
        """Yield the variables that imports read and that this environment has otherwise."""
        for name in self._environment.keys() | environment.keys():
            if name.startswith(_READ_BY_IMPORTS) and self._environment.get(name) != environment.get(name):
                yield name

    def fork(self, request: Mapping[str, Any], streams: list[int]) -> tuple[socket.socket, int]:
        """Return a socket that gets the process's exit status, and its number."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._asks, [json.dumps(request).encode()], [*streams, theirs.fileno()])
        told = mine.recv(32)
        if not told:
            raise RuntimeError(f"the warm server ended: {self._process.communicate()[1].decode()}")
        return mine, int(told)

    def close(self) -> None:
        """End the server; commands that still run go on."""
        self._asks.close()
        self._process.communicate()


@cache
def _server() -> _Server:
    return _Server()


def close() -> None:
    """End the server where there is one."""
    if _server.cache_info().currsize:
        _server().close()
        _server.cache_clear()


def _serve(asks: socket.socket) -> dict[str, Any]:
    """Fork a process for each request until the other end closes; returns the request in such a process."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        ready, _, _ = select.select([asks, *running], [], [])
        for ended in (each for each in ready if each is not asks):
            pid, status = running.pop(ended)
            os.close(ended)
            with status, suppress(OSError):  # nobody may be waiting
                status.send(str(os.waitpid(pid, 0)[1]).encode())
        if asks not in ready:
            continue
        text, descriptors, _, _ = socket.recv_fds(asks, _LONGEST, 4)
        if not text:
            os._exit(0)
        request: dict[str, Any] = json.loads(text)
        *streams, told = descriptors
        status = socket.socket(fileno=told)
        pid = os.fork()
        if not pid:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            _close_descriptors(keep=())
            return request
        status.send(str(pid).encode())
        running[os.pidfd_open(pid)] = (pid, status)
        for stream in streams:
            os.close(stream)


def _close_descriptors(keep: tuple[int, ...]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with suppress(OSError):  # the list's own
                os.close(int(name))


def _run(request: Mapping[str, Any]) -> None:
    """Run the request's module as `python -m` does, or its code as `python -c`, in this process."""
    if request["session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, _opened(number, getattr(sys, name)))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    time.tzset()
    tempfile.tempdir = None
    importlib.import_module("numpy").random.seed()
    _, option, given, *sys.argv[1:] = request["argv"]
    if option == "-c":
        sys.argv[0] = "-c"
        sys.path.insert(0, "")
        sys.modules["__main__"] = type(sys)("__main__")
        exec(given, vars(sys.modules["__main__"]))
        return
    sys.path.insert(0, os.getcwd())
    sys.modules.pop(given, None)
    runpy.run_module(given, run_name="__main__", alter_sys=True)


def _opened(number: int, before: TextIO) -> TextIO:
    """Return a standard stream as the interpreter opens it at its start."""
    mode, lines = ("w" if number else "r"), number == 2 or os.isatty(number)
    return open(number, mode, 1 if lines else -1, encoding=before.encoding, errors=before.errors, closefd=False)


def _fork_the_server_of_workers(
    path: str, args: list[str], passfds: list[int], spawn: Callable[..., int] = util.spawnv_passfds
) -> int:
    """Start a process of multiprocessing's; the server that workers are forked from is forked itself."""
    code = args[-1]
    if "multiprocessing.forkserver" not in str(code) or threading.active_count() > 1:
        return spawn(path, args, passfds)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if not pid:
        _serve_workers(str(code), tuple(passfds))
    return pid


def _serve_workers(code: str, keep: tuple[int, ...]) -> NoReturn:
    """Be the process that `python -c CODE` would be."""
    status = 1
    try:
        _close_descriptors(keep)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        forkserver._forkserver.__init__()  # its lock is held
        resource_tracker._resource_tracker.__init__()
        process.current_process()._config.pop("tempdir", None)
        sys.modules["__main__"] = type(sys)("__main__")
        exec(code, {"__name__": "__main__"})
        status = 0
    except SystemExit:
        status = 0
    finally:
        os._exit(status)


def _prepare() -> None:
    """Import what commands import, and nothing that runs an operation or starts a thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends the server
    sys.path.pop(0)  # this file's folder
    for name in _IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    util.spawnv_passfds = _fork_the_server_of_workers
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    asks = socket.socket(fileno=int(sys.argv[1]))
    _prepare()
    _run(_serve(asks))
