"""The short form of `tests.faults.kills`: one search, killed three times."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.kills import kill_and_resume


def test_a_search_survives_kills_at_random_moments(folder: Path) -> None:
    """A machine that loses power in the night would lose trials, or train some twice, or leave runs RUNNING."""
    killed = kill_and_resume(folder, "power", random.Random(4), kills=3)
    assert killed.moments
    assert killed.wrong == ()
