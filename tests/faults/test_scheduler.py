"""A dask scheduler that dies in the middle of a search."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.study.storage import open_storage
from search.studyfile.schema import Definition
from tests.test_interrupt import begin, wait_for_trials

Tiny = Callable[..., Definition]

SLOW = """
import time

from search.training.model import mlp


def build(trial, data):
    time.sleep(1.0 if trial.number else 0.0)
    return mlp(trial, data)
"""


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler with one worker; yields its address and its process."""
    from distributed import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, dask = f"tcp://127.0.0.1:{port}", str(Path(sys.executable).parent / "dask")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "start_new_session": True}
    main = subprocess.Popen([dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet)
    worker = subprocess.Popen([dask, "worker", address, "--nthreads", "1", "--no-dashboard"], **quiet)
    try:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        yield address, main
    finally:
        for process in (worker, main):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.mark.heavy
def test_a_scheduler_that_dies_ends_the_search_in_a_line(tiny: Tiny, folder: Path) -> None:
    """If this fails, the search ends in `KeyError: 'workers'`, its trials RUNNING, or waits for ever."""
    tiny("gone", "slow.py:build", SLOW, '\n[search]\npruner = "none"\n')
    with scheduler(folder) as (address, main):
        process = begin(folder, "gone", "--n-trials", "30", "--cluster", address, terminal=False)
        wait_for_trials("gone", 2)
        main.kill()
        main.wait(30)
        printed, _ = process.communicate(timeout=90)
    assert process.returncode == 2, printed
    last = printed.splitlines()[-1]
    assert last == f"error: --cluster {address}: the scheduler is gone; --resume goes on when it is back"
    assert "Traceback" not in printed
    assert "KeyError" not in printed
    study = optuna.load_study(study_name="gone", storage=open_storage("studies/gone.journal"))
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) >= 2
