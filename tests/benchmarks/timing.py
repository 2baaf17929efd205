"""What every benchmark needs: processes with their time, cores and memory, and tables with ratios.

Processes are watched through `/proc`, so the figures on cores and memory need Linux.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PYTHON = sys.executable
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_console = Console(width=max(120, Console().width), highlight=False)


@dataclass(frozen=True)
class Size:
    """How much to measure.

    Attributes:
        quick: Small sizes, to see that a benchmark works; its figures mean little.
        repeats: How often each variant is measured, in turn.
    """

    quick: bool
    repeats: int = 3

    def of(self, full: int, quick: int) -> int:
        """Return one of two numbers."""
        return quick if self.quick else full


@dataclass(frozen=True)
class _Process:
    """A process at one moment: CPU seconds used so far, resident bytes now."""

    cpu: float
    memory: int


@dataclass
class Watch:
    """Samples of every process of a session, by time."""

    times: list[float] = field(default_factory=list)
    samples: list[dict[int, _Process]] = field(default_factory=list)

    def sample(self, session: int) -> None:
        """Look once at all processes of a session."""
        now, known = time.time(), dict(self.samples[-1]) if self.samples else {}
        self.times.append(now)
        self.samples.append({**known, **dict(_processes(session))})

    def busy(self, start: float, end: float) -> float:
        """Return how many cores were busy on average between two moments (seconds since 1970)."""
        used = [sum(each.cpu for each in self._at(moment).values()) for moment in (start, end)]
        return (used[1] - used[0]) / (end - start)

    def memory(self, pid: int, moment: float) -> int:
        """Return a process's resident bytes at a moment; 0 when it was not seen yet."""
        process = self._at(moment).get(pid)
        return process.memory if process else 0

    def _at(self, moment: float) -> dict[int, _Process]:
        index = bisect_right(self.times, moment)
        return self.samples[min(index, len(self.samples) - 1)]


def _processes(session: int) -> Iterator[tuple[int, _Process]]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_text()
            fields = stat.rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                cpu = (int(fields[11]) + int(fields[12])) / _TICKS
                yield int(entry.name), _Process(cpu, int(fields[21]) * _PAGE)
        except (OSError, IndexError):
            continue  # it ended while we looked


@dataclass(frozen=True)
class Done:
    """A process that has ended.

    Attributes:
        seconds: From its start to its exit.
        first_line: Seconds to the first line that `until` accepted.
        watch: What its processes used, if they were watched.
    """

    seconds: float
    stdout: str
    first_line: float | None
    watch: Watch

    @property
    def json(self) -> Any:
        """The JSON value on its last line."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def run(
    *command: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    until: str | None = None,
    watch: float | None = None,
    status: int = 0,
) -> Done:
    """Run a command to its end and return what it took.

    Args:
        command: The program and its arguments.
        folder: Its working directory.
        environment: Variables on top of our own.
        until: Note when the first line that begins like this appears on standard error.
        watch: Sample its processes this often, in seconds.
        status: The exit status it must have.
    """
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    seen = Watch()
    reader = _Reader(process, until, started)
    while process.poll() is None:
        if watch is None:
            process.wait()
        else:
            seen.sample(process.pid)
            time.sleep(watch)
    seconds = reader.ended(process) - started
    if process.returncode != status:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{reader.stderr[-3000:]}")
    while next(_processes(process.pid), None) is not None:  # nothing of it may slow what follows
        time.sleep(0.05)
    return Done(seconds, reader.stdout, reader.first_line, seen)


class _Reader:
    """Reads a process's outputs while it runs, and notes when it ended."""

    def __init__(self, process: subprocess.Popen[str], until: str | None, started: float) -> None:
        self.stdout, self.stderr, self.first_line = "", "", None if until is None else float("nan")
        self._ended = 0.0

        def out() -> None:
            assert process.stdout is not None
            self.stdout = process.stdout.read()

        def err() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                if until is not None and line.startswith(until) and self.first_line != self.first_line:
                    self.first_line = time.perf_counter() - started
                self.stderr += line

        def wait() -> None:
            process.wait()
            self._ended = time.perf_counter()

        self._threads = [threading.Thread(target=target, daemon=True) for target in (out, err, wait)]
        for thread in self._threads:
            thread.start()

    def ended(self, process: subprocess.Popen[str]) -> float:
        """Return when the process ended, its outputs read."""
        process.wait()
        for thread in self._threads:
            thread.join(timeout=30)
        return self._ended


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Yield an empty folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Path(folder)


def in_empty_folder(*command: str, **options: Any) -> Done:
    """Run a command in an empty folder."""
    with empty_folder() as folder:
        return run(*command, folder=folder, **options)


def alternate(rounds: int, variants: Mapping[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Call every variant in turn, A B A B, and return each one's results."""
    results: dict[str, list[Any]] = {name: [] for name in variants}
    for index in range(rounds):
        for name, variant in variants.items():
            note(f"  {name} ({index + 1} of {rounds})")
            results[name].append(variant())
    return results


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> str:
    """Return the median, and the range when there are several values."""
    if len(values) == 1:
        return seconds(values[0])
    return f"{seconds(median(values))} ({seconds(min(values))} – {seconds(max(values))})"


def seconds(value: float) -> str:
    """Return a time with a unit that suits it."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.1f} s"


def ratio(value: float, base: float) -> str:
    """Return how many times `base` a value is."""
    quotient = value / base
    return f"{quotient:.1f} ×" if quotient >= 10 else f"{quotient:.2f} ×"


def note(text: str) -> None:
    """Say on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Print a table."""
    shown = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left")
    for index, column in enumerate(columns):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    _console.print(shown)


def machine() -> str:
    """Return what the figures were taken on, and how busy it was already."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model}), load {load:.1f} before; Python {sys.version.split()[0]}"
