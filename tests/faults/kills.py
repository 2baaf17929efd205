"""Searches that are killed again and again, at seeded random moments, and finished by `--resume`.

The long form, by hand: `python -m tests.faults.kills --kills 100 --seed 0`. It first times a search that nobody kills,
so that kills fall anywhere between the start and the end of one. It prints a line for each search: when it was killed,
and what `search.sync --check` says at its end. With `--warm` the searches are forked from a process that has imported
what they import, with a running server of workers, so that more of the kills fall on trials than on imports.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import NoReturn

import optuna
from optuna.trial import TrialState

from search.study.attributes import searches_of
from search.study.storage import open_storage
from tests.conftest import TINY, command

BUDGET = 12
LATEST = 10.0  # seconds after its start at which a search of the short form is killed at the latest
PER_SEARCH = 10  # kills
_HANGS_SECONDS = 300
_IMPORTED = (  # by a search, while it runs
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.visualization",
    "pandas",
    "plotly.graph_objects",
    "search.session",
    "search.terminal",
    "search.tracking.mirror",
    "search.register",
)


@dataclass(frozen=True)
class Killed:
    """One search that was killed and finished.

    Attributes:
        name: Its study.
        moments: Seconds after each start at which it was killed.
        wrong: What is not as it should be at its end; empty when all is.
        seconds: How long it took, without the look at what is wrong.
    """

    name: str
    moments: tuple[float, ...]
    wrong: tuple[str, ...]
    seconds: float = 0.0


class Process:
    """`python -m search.run …` in a folder, in a process group of its own."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._said = folder / "said.txt"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "search.run", *arguments],
                cwd=folder,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def ended(self, seconds: float) -> bool:
        """Wait so long at most; returns whether it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def kill(self, *, whole: bool) -> None:
        """Kill its main process, or all of its processes."""
        (os.killpg if whole else os.kill)(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def said(self) -> str:
        """Return what it printed."""
        return self._said.read_text(errors="replace")


class ForkedProcess(Process):
    """The same command, forked from this process, which has imported its modules and runs the server of its workers."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._said = folder / "said.txt"
        self._status: int | None = None
        self._pid = os.fork()
        if not self._pid:
            self._run(folder, arguments)

    def _run(self, folder: Path, arguments: list[str]) -> NoReturn:
        os.setsid()
        said = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        # The server is its parent's child, for which it cannot wait, as looking whether it runs does.
        forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
        sys.argv = ["search.run", *arguments]
        status = 1
        try:
            importlib.import_module("search.run").main()
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            os._exit(status)

    @staticmethod
    def prepare() -> None:
        """Import what a search imports, and start the server."""
        from search.workers.local import start_forkserver

        start_forkserver()
        for name in _IMPORTED:
            importlib.import_module(name)

    def ended(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._status is None:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if done else None
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return self._status is not None

    def kill(self, *, whole: bool) -> None:
        os.kill(self._pid, signal.SIGKILL)
        for worker in children(forkserver._forkserver._forkserver_pid) if whole else ():
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _begin(kind: type[Process], folder: Path, name: str) -> Process:
    asked = ["--resume"] if _is_unfinished(folder, name) else ["--n-trials", str(BUDGET)]
    return kind(folder, [name, "--workers", "2", "--pruner", "none", *asked])


def kill_and_resume(
    folder: Path,
    name: str,
    draw: random.Random,
    kills: int,
    latest: float = LATEST,
    kind: type[Process] = Process,
) -> Killed:
    """Begin a search, kill it at random moments, resume it each time, and finish it.

    Args:
        folder: Where it runs.
        name: Its study.
        draw: Chooses the moments, and what is killed.
        kills: How often it is killed at most; less often when it ends before.
        latest: Seconds after a start at which it is killed at the latest.
        kind: How it is started.
    """
    (folder / "studies").mkdir(exist_ok=True)
    (folder / "studies" / f"{name}.toml").write_text(TINY.format(name=name, build="mlp"))
    moments, started = list[float](), time.monotonic()
    while len(moments) < kills:
        process = _begin(kind, folder, name)
        moment = draw.uniform(0.5, latest)
        if process.ended(moment):
            break
        process.kill(whole=draw.random() < 0.5)
        moments.append(round(moment, 2))
        if _trials(folder, name) and not _is_unfinished(folder, name):
            break  # it was ending, with everything written
    deadline = time.monotonic() + 900
    while _is_unfinished(folder, name) or not _trials(folder, name):
        process = _begin(kind, folder, name)
        if not process.ended(_HANGS_SECONDS):
            process.kill(whole=True)
            return Killed(name, tuple(moments), (f"--resume has not ended after {_HANGS_SECONDS} s",))
        if time.monotonic() > deadline:
            return Killed(name, tuple(moments), (f"does not end: {process.said()[-500:]}",))
    seconds = time.monotonic() - started
    return Killed(name, tuple(moments), tuple(_wrong(folder, name)), seconds)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(each) for each in text.split()]
    return []


def _study(folder: Path, name: str) -> optuna.Study | None:
    """Return the study; None while it is not there yet."""
    journal = folder / "studies" / f"{name}.journal"
    if not journal.exists():
        return None
    with suppress(KeyError):
        return optuna.load_study(study_name=name, storage=open_storage(str(journal)))
    return None


def _trials(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    study = _study(folder, name)
    return [] if study is None else study.get_trials(deepcopy=False)


def _is_unfinished(folder: Path, name: str) -> bool:
    """Return whether `--resume` has something to do: a search was noted, and is not finished."""
    study = _study(folder, name)
    return study is not None and any(each.get("state") != "finished" for each in searches_of(study).values())


def _wrong(folder: Path, name: str) -> Iterator[str]:
    trials = _trials(folder, name)
    counted = [each.state for each in trials]
    if counted.count(TrialState.COMPLETE) != BUDGET:
        yield f"{counted.count(TrialState.COMPLETE)} complete trials, not {BUDGET}"
    if TrialState.RUNNING in counted or TrialState.WAITING in counted:
        yield "a trial is still running or waiting"
    checked = command("search.sync", name, "--check", cwd=folder)
    if checked.returncode != 0:
        yield f"search.sync --check: {checked.stdout.strip()} {checked.stderr.strip()}"


def main() -> None:
    """Kill searches as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true")
    asked = parser.parse_args()
    draw, done, searches, wrong = random.Random(asked.seed), 0, 0, 0
    kind = ForkedProcess if asked.warm else Process
    if asked.warm:
        ForkedProcess.prepare()
    with tempfile.TemporaryDirectory() as temporary:
        kill_and_resume(Path(temporary), "first", draw, 0, kind=kind)  # fills the system's and Python's caches
        undisturbed = kill_and_resume(Path(temporary), "undisturbed", draw, 0, kind=kind)
        latest = undisturbed.seconds
        print(f"undisturbed: {latest:.1f} s; {'; '.join(undisturbed.wrong) or 'all as it should be'}", flush=True)
        while done < asked.kills:
            name = f"kills-{searches}"
            most = min(PER_SEARCH, asked.kills - done)
            killed = kill_and_resume(Path(temporary), name, draw, most, latest, kind)
            done, searches, wrong = done + len(killed.moments), searches + 1, wrong + bool(killed.wrong)
            found = "; ".join(killed.wrong) or "all as it should be"
            print(f"{killed.name}: killed after {list(killed.moments)} s; {found}", flush=True)
    print(f"{done} kills in {searches} searches; {wrong} searches not as they should be")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
