"""A trial that never ends: it is told, and ended where the study says so; the search goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.budget import Progress
from search.studyfile.schema import Definition
from search.terminal import Display
from search.workers import silence
from tests.conftest import Searcher

Tiny = Callable[..., Definition]

HANGS = """
import time

from search.training.model import mlp


def build(trial, data):
    time.sleep(600 if trial.number == 0 else 0)
    return mlp(trial, data)
"""


def test_a_trial_that_hangs_is_told_and_ended(
    tiny: Tiny, run_search: Searcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """If this fails, a deadlock in one trial costs the night, and nobody knows which trial it was."""
    monkeypatch.setattr(silence, "_SECONDS", 2.0)
    definition = tiny("hangs", "hangs.py:build", HANGS, "\n[search]\ntrial_timeout = 6\nretries = 0\n")
    told: list[Progress] = []
    display = Display(definition, silent=False)

    def progress(each: Progress) -> None:
        told.append(each)
        display.progress(each)

    outcome = run_search(definition, progress, n_trials=2, offline=True)
    assert outcome.n_trials == {"complete": 1, "pruned": 0, "failed": 1}
    assert [each.number for each in told if each.state == "silent"] == [0]
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("trial 0 has reported nothing for 0:0") for line in lines), lines
    assert any(line == "trial 0 failed: it took longer than trial_timeout = 6 s" for line in lines), lines
    assert (folder / "studies" / "hangs.journal").exists()
