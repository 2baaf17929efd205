"""A trial that never ends: it is told, and ended where the study says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.budget import Progress
from search.errors import NoTrialCompleted
from search.studyfile.schema import Definition
from search.terminal import Display
from search.workers import silence
from tests.conftest import Searcher

Tiny = Callable[..., Definition]

HANGS = """
import time
from pathlib import Path

from search.training.model import mlp


def build(trial, data):
    while Path(__file__).with_name("hangs.journal").exists():  # not while the study is checked
        time.sleep(0.1)
    return mlp(trial, data)
"""


def test_a_trial_that_hangs_is_told_and_ended(
    tiny: Tiny, run_search: Searcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """If this fails, a deadlock in one trial costs the night, and nobody knows which trial it was."""
    monkeypatch.setattr(silence, "_SECONDS", 2.0)
    definition = tiny("hangs", "hangs.py:build", HANGS, "\n[search]\ntrial_timeout = 4\n")
    display, told = Display(definition, silent=False), list[Progress]()

    def progress(each: Progress) -> None:
        told.append(each)
        display.progress(each)

    with pytest.raises(NoTrialCompleted):
        run_search(definition, progress, n_trials=1, offline=True)
    assert [each.state for each in told if each.number == 0] == ["began", "silent", "failed"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "trial 0" in line]
    assert lines[0].startswith("trial 0 has reported nothing for 0:0")
    assert lines[1] == "[1/1] trial 0 failed: it took longer than trial_timeout = 4 s"
    assert (folder / "studies" / "hangs.journal").exists()
