"""One search through a night of faults, finished by one `--resume`: nothing is lost, nothing is there twice.

    python -m tests.faults.night [--n-trials 40]

Needs Linux and, for the full disk, the right to mount a file system in memory; without it that fault is left out, and
said. The study is in a real PostgreSQL, MLflow on a real server. Prints a table of what was done and what the search
said to it; exit status 1 when something is not as it should be at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.study.storage import open_storage
from tests.conftest import TINY, begin, command
from tests.faults.kills import children
from tests.faults.mlflow_server import MlflowServer, mlflow_server

WAIT_SECONDS = 900.0  # for one step of the night
_LONGEST = 160  # characters of a line of the search's that the table shows
BUILD = """
import time
from pathlib import Path

from search.training.model import mlp


def build(trial, data):
    time.sleep(1.0)
    while Path(__file__).with_name("hold").exists():
        time.sleep(0.1)
    return mlp(trial, data)
"""


@dataclass
class Night:
    """A search that is disturbed.

    Args:
        folder: The search's working folder.
        storage: The URL of the study's database.
        server: MLflow's server.
        n_trials: The budget.
    """

    folder: Path
    storage: str
    server: MlflowServer
    n_trials: int
    process: subprocess.Popen[str] | None = None
    resumed: int = 0
    rows: list[str] = field(default_factory=list)
    told: int = 0  # lines of its output that an earlier row looked at

    @property
    def _output(self) -> Path:
        return self.folder.parent / "output.txt"

    @property
    def _arguments(self) -> list[str]:
        return ["night", "--storage", self.storage, "--tracking-uri", self.server.uri]

    def begin(self, *, resume: bool = False) -> None:
        """Begin the search, or go on with it."""
        self.resumed += resume
        asked = ["--resume"] if resume else ["--n-trials", str(self.n_trials)]
        with self._output.open("ab") as output:
            self.process = begin(
                "search.run",
                *self._arguments,
                "--workers",
                "2",
                *asked,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def until(self, complete: int) -> None:
        """Let trials train until so many are complete, or the search has ended; then let them wait."""
        assert self.process is not None
        self.hold(False)
        deadline = time.monotonic() + WAIT_SECONDS
        while self.complete() < complete and self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"no progress: {self.said(3)}")
            time.sleep(0.5)
        self.hold(True)

    def hold(self, wait: bool) -> None:
        """Let trials wait where they build their model, or go on."""
        file = self.folder / "studies" / "hold"
        file.touch() if wait else file.unlink(missing_ok=True)

    def end(self) -> int:
        """Wait until the search has ended; returns its exit status."""
        assert self.process is not None
        self.hold(False)
        return self.process.wait(WAIT_SECONDS)

    def did(self, what: str, seen: str) -> None:
        """Note a row of the table."""
        self.rows.append(f"| {self.complete()} | {what} | {seen.replace('|', ' ')} |")
        print(self.rows[-1], flush=True)
        self.told = len(self.printed())

    def printed(self) -> list[str]:
        """Return what the search has printed."""
        return self._output.read_text(errors="replace").splitlines()

    def said(self, lines: int = 1, about: str = "") -> str:
        """Return the last lines that the search printed since the last row, about something; each is cut."""
        printed = self.printed()[self.told :]
        found = [line[:_LONGEST] for line in printed if line.strip() and about in line]
        return " / ".join(found[-lines:]) or "no message"

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return the study's trials; none while it is not there, or its database is away."""
        with suppress(Exception):
            study = optuna.load_study(study_name="night", storage=open_storage(self.storage, create=False))
            return study.get_trials(deepcopy=False)
        return []

    def complete(self) -> int:
        """Return how many trials are complete."""
        return sum(each.state == TrialState.COMPLETE for each in self.trials())

    def kill_worker(self) -> None:
        """Kill a worker: a child of the server that the search forks its workers from."""
        assert self.process is not None
        for server in children(self.process.pid):
            for worker in children(server):
                os.kill(worker, signal.SIGKILL)
                return
        raise AssertionError("the search has no worker")

    def wrong(self) -> Iterator[str]:
        """Yield what is not as it should be at the end."""
        states = Counter(each.state for each in self.trials())
        if states[TrialState.COMPLETE] != self.n_trials:
            yield f"{states[TrialState.COMPLETE]} complete trials, not {self.n_trials}"
        if states[TrialState.RUNNING] or states[TrialState.WAITING]:
            yield "a trial is still running or waiting"
        checked = command("search.sync", *self._arguments, "--check", cwd=self.folder)
        self.did("`search.sync --check`", f"exit {checked.returncode}: {checked.stdout.strip().splitlines()[-1:]}")
        if checked.returncode:
            yield checked.stdout


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of this size at a folder, inside this block; yields whether it could be mounted."""
    folder.mkdir()
    size = f"size={megabytes}m"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the file system of a folder, and return the file that takes the room."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    return filler


@contextmanager
def postgresql() -> Iterator[tuple[str, Callable[[float], None]]]:
    """A real PostgreSQL; yields its URL, and a function that kills it and starts it again after seconds."""
    import pgserver
    import psycopg

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE optuna")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", "/optuna?")

        def restart(seconds: float) -> None:
            os.kill(server.get_pid(), signal.SIGKILL)
            time.sleep(seconds)
            for attempt in range(10):
                try:
                    server.ensure_postgres_running()
                except Exception:  # the killed one's children are still ending
                    if attempt == 9:
                        raise
                    time.sleep(1.0)
                else:
                    return

        yield url, restart
        server.cleanup()


def disturb(night: Night, restart: Callable[[float], None], *, disk: bool) -> None:
    """Let a night pass: everything that can go wrong does."""
    share, server = night.n_trials / 40, night.server
    night.begin()
    night.until(round(2 * share))
    server.kill()
    night.until(round(5 * share))
    server.start()
    night.did("MLflow's server killed, and back", night.said(2, "MLflow"))
    night.until(round(7 * share))
    night.kill_worker()
    night.until(round(9 * share))
    night.did("a worker killed", night.said(1, " stopped"))
    server.answer = "503"
    night.until(round(12 * share))
    server.answer = "pass"
    night.did("MLflow's server answers 503 for a while", night.said(2, "MLflow"))
    night.until(round(14 * share))
    restart(3.0)
    night.until(round(17 * share))
    night.did("PostgreSQL killed, and back after 3 s", night.said(1, "database"))
    if disk:
        filler = fill(night.folder.parent / "mlflow")
        night.until(round(20 * share))
        filler.unlink()
        night.did("the disk of MLflow's database and artifacts full for a while", night.said(2, "MLflow"))
    else:
        night.did("the disk full", "left out: no file system can be mounted here")
    night.until(round(22 * share))
    server.freeze()
    night.until(round(26 * share))
    server.thaw()
    night.did("MLflow's server frozen, and thawed", night.said(2, "MLflow"))
    night.until(round(29 * share))
    assert night.process is not None
    night.process.kill()
    night.did("the main process killed", f"exit {night.end()}")
    night.begin(resume=True)
    night.did("`--resume`", f"exit {night.end()}: {night.said(1, ' complete, ')}")


def main() -> None:
    """Run one night."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.night", description=__doc__)
    parser.add_argument("--n-trials", type=int, default=40)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.monotonic()
    print("| complete | done | seen |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="night-") as name, postgresql() as (url, restart):
        folder = Path(name)
        with small_disk(folder / "mlflow", 64) as disk, mlflow_server(folder / "mlflow") as server:
            night = Night(folder / "work", url, server, asked.n_trials)
            (night.folder / "studies").mkdir(parents=True)
            (night.folder / "studies" / "slow.py").write_text(BUILD)
            more = f'\n[search]\npruner = "none"\nkeep = {asked.n_trials}\n'
            (night.folder / "studies" / "night.toml").write_text(
                TINY.format(name="night", build="slow.py:build") + more
            )
            try:
                disturb(night, restart, disk=disk)
                wrong = list(night.wrong())
            finally:
                if night.process is not None and night.process.poll() is None:
                    os.killpg(night.process.pid, signal.SIGKILL)
            states = Counter(each.state.name.lower() for each in night.trials())
            output = "\n".join(night.printed())
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    print(f"\n{counts}; {night.resumed} times --resume; {time.monotonic() - started:.0f} s")
    print("\n".join(wrong) or "all as it should be")
    if wrong:
        print(output, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
