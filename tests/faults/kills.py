"""Searches that are killed again and again, at seeded random moments, and finished by `--resume`.

The long form, by hand: `python -m tests.faults.kills --kills 100 --seed 0`. It first times a search that nobody kills,
so that kills fall anywhere between the start and the end of one. It prints a line for each search: when it was killed,
and what `search.sync --check` says at its end. With `--warm` the searches are forked from a process that has imported
what they import, so that more of the kills fall on trials than on imports.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.study.attributes import searches_of
from search.study.storage import open_storage
from tests.conftest import TINY, begin, command

BUDGET = 12
LATEST = 4.0  # seconds after its start at which a search of the short form is killed at the latest
PER_SEARCH = 10  # kills
_HANGS_SECONDS = 300


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

    def __init__(self, folder: Path, cold: bool, arguments: list[str]) -> None:
        self._said = folder / "said.txt"
        with self._said.open("w") as said:
            self._process = begin(
                "search.run", *arguments, cold=cold, cwd=folder, stdout=said, stderr=said, start_new_session=True
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


def _begin(folder: Path, name: str, *, cold: bool) -> Process:
    asked = ["--resume"] if _is_unfinished(folder, name) else ["--n-trials", str(BUDGET)]
    return Process(folder, cold, [name, "--workers", "2", "--pruner", "none", *asked])


def kill_and_resume(
    folder: Path,
    name: str,
    draw: random.Random,
    kills: int,
    latest: float = LATEST,
    *,
    cold: bool = False,
) -> Killed:
    """Begin a search, kill it at random moments, resume it each time, and finish it.

    Args:
        folder: Where it runs.
        name: Its study.
        draw: Chooses the moments, and what is killed.
        kills: How often it is killed at most; less often when it ends before.
        latest: Seconds after a start at which it is killed at the latest.
        cold: Whether each start imports everything again.
    """
    (folder / "studies").mkdir(exist_ok=True)
    (folder / "studies" / f"{name}.toml").write_text(TINY.format(name=name, build="mlp"))
    moments, started = list[float](), time.monotonic()
    while len(moments) < kills:
        process = _begin(folder, name, cold=cold)
        moment = draw.uniform(0.1, latest)
        if process.ended(moment):
            break
        process.kill(whole=draw.random() < 0.5)
        moments.append(round(moment, 2))
        if _trials(folder, name) and not _is_unfinished(folder, name):
            break  # it was ending, with everything written
    deadline = time.monotonic() + 900
    while _is_unfinished(folder, name) or not _trials(folder, name):
        process = _begin(folder, name, cold=cold)
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
    parser.add_argument("--warm", action="store_true", help="fork the searches from a process that imported all")
    asked = parser.parse_args()
    draw, done, searches, wrong = random.Random(asked.seed), 0, 0, 0
    cold = not asked.warm
    with tempfile.TemporaryDirectory() as temporary:
        kill_and_resume(Path(temporary), "first", draw, 0, cold=cold)  # fills the system's and Python's caches
        undisturbed = kill_and_resume(Path(temporary), "undisturbed", draw, 0, cold=cold)
        latest = undisturbed.seconds
        print(f"undisturbed: {latest:.1f} s; {'; '.join(undisturbed.wrong) or 'all as it should be'}", flush=True)
        while done < asked.kills:
            name = f"kills-{searches}"
            most = min(PER_SEARCH, asked.kills - done)
            killed = kill_and_resume(Path(temporary), name, draw, most, latest, cold=cold)
            done, searches, wrong = done + len(killed.moments), searches + 1, wrong + bool(killed.wrong)
            found = "; ".join(killed.wrong) or "all as it should be"
            print(f"{killed.name}: killed after {list(killed.moments)} s; {found}", flush=True)
    print(f"{done} kills in {searches} searches; {wrong} searches not as they should be")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
