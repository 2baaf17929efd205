"""Code of the user's own that exits, raises what nobody catches, or goes elsewhere: it fails, the search does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.errors import UsageError
from search.studyfile.schema import Definition
from tests.conftest import Searcher
from tests.test_session import trial_runs

Tiny = Callable[..., Definition]

DATA = """
import os
import sys

import numpy as np


class Mine(BaseException):
    pass


def rows():
    return np.arange(60.0).reshape(60, 1), np.arange(60) % 2


def elsewhere():
    os.chdir("/")
    return rows()


def raises():
    raise Mine("of my own")


class Error(Exception):
    pass


def fails():
    raise Error("of my own")


def exits():
    sys.exit("had enough")


def interrupts():
    raise KeyboardInterrupt


def dies():
    os._exit(7)
"""

BUILD = """
import os
import signal
import sys
import threading
import time

import keras
from search.training.model import mlp


class Mine(BaseException):
    pass


def build(trial, data):
    if trial.number == 1:
        raise Mine("of my own")
    if trial.number == 2:
        sys.exit(0)
    if trial.number == 3:
        raise KeyboardInterrupt
    if trial.number == 4:
        raise RuntimeError("long \\udcff " * 100_000)
    if trial.number == 5 and os.fork() == 0:
        raise RuntimeError("in a process of my own")
    if trial.number == 6:
        raise OSError(28, "No space left on device")
    if trial.number == 7:
        os.close(1)
        os.close(2)
    if trial.number > 6:
        sys.stdout.close()
        sys.stderr.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=time.sleep, args=(600,)).start()
    os.chdir("/")
    trial.suggest_int("units[0]", 1, 3)
    trial.set_user_attr("a@b", "mine")
    model = mlp(trial, data)
    model.compile("adam", "binary_crossentropy", metrics=[keras.metrics.BinaryAccuracy(name="acc@5")])
    return model
"""


def with_data(definition: Definition, function: str) -> Definition:
    """Return the study with data of a function in `rows.py`."""
    from search.studyfile.load import load_definition

    (definition.folder / "rows.py").write_text(DATA)
    lines = definition.path.read_text().splitlines()
    kept = [f'source = "rows.py:{function}"' if line.startswith("source") else line for line in lines]
    definition.path.write_text("\n".join(line for line in kept if not line.startswith("options")))
    return load_definition(definition.path)


def test_trials_fail_alone_and_the_folder_stays(tiny: Tiny, run_search: Searcher, folder: Path) -> None:
    """If this fails, one odd configuration ends the night, or the search's files land in another folder."""
    more = '\n[search]\npruner = "none"\nretries = 0\n'
    definition = with_data(tiny("odd", "odd.py:build", BUILD, more), "elsewhere")
    outcome = run_search(definition, n_trials=8)
    assert outcome.n_trials == {"complete": 3, "pruned": 0, "failed": 6}, (
        "trial 7 alone is left without a standard error"
    )
    assert outcome.died == 1, "a full disk says nothing of a configuration"
    reasons = {number: run.data.tags.get("reason", "") for number, run in trial_runs(outcome.search_run_id).items()}
    assert reasons[1] == "odd.py, line 18, in build: Mine: of my own"
    assert reasons[2] == "odd.py, line 20, in build: SystemExit: 0"
    assert reasons[3] == "odd.py, line 22, in build: KeyboardInterrupt"
    assert reasons[4].startswith("odd.py, line 24, in build: RuntimeError: long ? long ?")
    assert len(reasons[4]) <= 1000
    first = trial_runs(outcome.search_run_id)[0].data  # MLflow refuses such names: they are written as it takes them
    assert {"units_0_"} == set(first.params) - {"width"}
    assert first.tags["a_b"] == "mine"
    assert "val_acc_5" in first.metrics
    assert outcome.model is not None
    assert Path.cwd() == folder


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", r"rows.py, line \d+, in raises: Mine: of my own"),
        ("fails", r"rows.py:fails cannot be loaded \(rows.py, line \d+, in fails: Error: of my own\)"),
        ("exits", r"rows.py:exits cannot be loaded \(rows.py, line \d+, in exits: SystemExit: had enough\)"),
        ("interrupts", r"rows.py, line \d+, in interrupts: KeyboardInterrupt"),
        ("dies", "loading the data or building the first model ended its process: its worker died: exit status 7"),
    ],
)
def test_data_that_cannot_be_had_end_the_search_in_a_line(
    function: str, said: str, tiny: Tiny, run_search: Searcher, folder: Path
) -> None:
    """If this fails, the command hangs, exits with 0, or says that it has a defect."""
    with pytest.raises(UsageError, match=said):
        run_search(with_data(tiny("none"), function), n_trials=2)
    assert not (folder / "studies" / "none.journal").exists()
