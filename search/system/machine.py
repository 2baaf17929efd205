"""The machine: its processes, memory and processors, and what differs between systems, by psutil."""

from __future__ import annotations

import ctypes
import getpass
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_CGROUPS = Path("/sys/fs/cgroup")
_PR_SET_PDEATHSIG = 1
_SAME_START = 1.0  # seconds within which two readings of one process's start may lie
# Of a control group, by its version: its limit of memory, its use, and what of its use the system can take back.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True)
class Process:
    """A process, told from any other on this or another machine.

    Attributes:
        host: The machine's name.
        boot_id: The boot of the machine; empty where the system does not tell.
        namespace: The process namespace, which containers of one machine do not share; empty where there are none.
        pid: The process number, unique in its namespace.
        started: Seconds from the boot to the start of the process: no clock that is set later changes it.
    """

    host: str
    boot_id: str
    namespace: str
    pid: int
    started: float

    def lives(self) -> bool | None:
        """Return whether the process still runs; None where this process cannot see it."""
        if (self.host, self.boot_id, self.namespace) != _place() or not self.started:
            return None
        started = _started(self.pid)
        return started is not None and abs(started - self.started) < _SAME_START


def this_process() -> Process:
    """Return the process that calls."""
    return Process(*_place(), os.getpid(), _started(os.getpid()) or 0.0)


def _place() -> tuple[str, str, str]:
    return socket.gethostname(), boot_id(), _namespace()


def boot_id() -> str:
    """Return what names this boot of the machine; empty where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> float | None:
    """Return when a process started; None where there is none, or it waits to be reaped."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return float(process.create_time() - psutil.boot_time())
    return None


def ending_signals() -> list[signal.Signals]:
    """Return the signals beside Ctrl-C's that end a program here, but for those that it was told to ignore: `nohup`."""
    there = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [each for each in there if signal.getsignal(each) is not signal.SIG_IGN]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the person what libraries write to standard error inside this block: TensorFlow's lines about CUDA."""
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="ascii") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def end_with_parent(number: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> None:
    """Have the system send this process a signal when its parent ends, where it can; 0 for none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def user() -> str:
    """Return what tells the users of one machine apart in the name of a file."""
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, or the folder itself where it is not there."""
    there = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # where that can be told
    return os.access(there, os.W_OK | os.X_OK)


def resident_memory() -> int:
    """Return this process's resident size in bytes."""
    return int(psutil.Process().memory_info().rss)


def available_memory() -> float:
    """Return the bytes that new processes can take: of the machine, and of this process's control groups."""
    with suppress(OSError):
        return min([float(psutil.virtual_memory().available), *_left_in_groups(Path("/proc/self/cgroup").read_text())])
    return float(psutil.virtual_memory().available)


def _left_in_groups(groups: str, root: Path = _CGROUPS) -> Iterator[float]:
    """Yield what memory is left in the control groups of `/proc/self/cgroup`, and in those around them."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names, top = (_V1, root / "memory") if controllers else (_V2, root)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                with suppress(OSError, ValueError):  # no such file, as in a container, or no limit: "max"
                    yield _left(folder, *names)


def _left(folder: Path, limit: str, use: str, reclaimable: str) -> float:
    most, used = (int((folder / name).read_text()) for name in (limit, use))
    lines = (folder / "memory.stat").read_text().splitlines()
    return most - used + next((float(line.split()[1]) for line in lines if line.startswith(f"{reclaimable} ")), 0.0)


def processors() -> int:
    """Return how many processors this process may use, by its affinity and its control groups."""
    import joblib  # type: ignore[import-untyped]  # it takes 0.2 s

    return int(joblib.cpu_count())
