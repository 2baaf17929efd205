"""Searches that are killed and resumed, by `tests.faults.kills`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.kills import kill_and_resume


@pytest.mark.parametrize(("seed", "kills"), [(4, 2), *(pytest.param(n, 10, marks=pytest.mark.heavy) for n in (5, 6))])
def test_a_search_survives_kills_at_random_moments(folder: Path, seed: int, kills: int) -> None:
    """A machine that loses power in the night would lose trials, or train some twice, or leave runs RUNNING."""
    killed = kill_and_resume(folder, "power", random.Random(seed), kills)
    assert killed.moments
    assert killed.wrong == ()
