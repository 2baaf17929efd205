"""Studies side by side: what each reached, on the same metric and data alone, and whether it is more than luck."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.errors import UsageError
from search.reporting.side_by_side import _luck, draw, side_by_side
from search.study import attributes
from tests.comparison.test_verdict import classifier


def study_of(
    name: str, values: list[float], seconds: float, rows: str = "abc", direction: str = "minimize"
) -> optuna.Study:
    """Return a study whose trials ended one after the other."""
    study, start = optuna.create_study(study_name=name, direction=direction), datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna's
    attributes.set_metrics(study, ["val_loss"])
    attributes.set_data(study, {"rows": rows, "parts": "", "split": {}}, 0)
    for number, value in enumerate(values):
        began = start + timedelta(seconds=seconds * number)
        ended = began + timedelta(seconds=seconds)
        study.add_trial(FrozenTrial(number, TrialState.COMPLETE, value, began, ended, {}, {}, {}, {}, {}, number))
    return study


def test_each_study_is_told_by_trials_and_by_seconds(folder: Path) -> None:
    """A study that merely ran longer would look better."""
    sides = side_by_side([study_of("fast", [0.5, 0.4, 0.3, 0.1], 10.0), study_of("slow", [0.45, 0.2], 30.0)])
    told = [(each.study, each.trials, each.seconds, each.best, each.number) for each in sides]
    assert told == [("fast", 4, 40.0, 0.1, 3), ("slow", 2, 60.0, 0.2, 1)]
    assert [each.best_of_trials for each in sides] == [0.4, 0.2], "after two trials each"
    assert [each.best_of_seconds for each in sides] == [0.1, 0.45], "after forty seconds each"
    assert sides[1].luck == "not known: trial 3 of study 'fast' is not registered"
    assert draw(sides, "val_loss", folder / "reports").stat().st_size > 10_000


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    """A value of other rows, or of another metric's direction, would be called better."""
    one = study_of("one", [0.5], 1.0)
    with pytest.raises(UsageError, match=r"have different data, the rows \(digest abc, now xyz\)"):
        side_by_side([one, study_of("other", [0.4], 1.0, rows="xyz")])
    with pytest.raises(UsageError, match=r"different metrics, val_loss \(minimize\) and val_loss \(maximize\)"):
        side_by_side([one, study_of("other", [0.4], 1.0, direction="maximize")])
    with pytest.raises(UsageError, match="study 'empty' has no complete trial"):
        side_by_side([one, study_of("empty", [], 1.0)])
    with pytest.raises(UsageError, match="name two studies or more"):
        side_by_side([one])


def test_equal_models_may_be_luck() -> None:
    """Somebody would go over to another study for nothing."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 150)
    one, other = (classifier(y, rng, metric="loss", direction="minimize") for _ in range(2))
    assert _luck("one", one, other).endswith(": may be luck")
    assert _luck("one", "no version", other) == "not known: no version"
