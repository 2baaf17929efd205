"""Rows that a model has seen decide nothing: they are recognised by their hashes and left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from search import promotion
from search.comparison import seen
from search.promotion import Conditions
from search.studyfile.load import load_definition
from tests.conftest import Searcher


def of(x: Any) -> Any:
    part = SimpleNamespace(x=x, streamed=False)
    return SimpleNamespace(train=part, validation=None, rest=None)


def test_rows_are_recognised_by_their_hashes() -> None:
    """A row that trained a model would count as new where it is in a file, or in other precision."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 4)).astype("float32")
    x[7, 2] = np.nan
    known = seen.seen_by(of(x))
    assert len(known) <= 6 * 5000 + 1
    assert seen.are_seen(known, x[::7].astype("float64")).all()
    assert not seen.are_seen(known, rng.normal(size=(5000, 4))).any()
    assert not seen.are_seen(known, x[:, ::-1]).any()
    texts = np.asarray([["a", "b"], ["b", "a"]] * 2500)
    both = {"numeric": x, "categorical": texts}
    known = seen.seen_by(of(both))
    assert seen.are_seen(known, both).all()
    assert not seen.are_seen(known, {**both, "categorical": texts[:, ::-1]}).any()


def test_rows_that_repeat_by_themselves_are_not_told_apart() -> None:
    """Of a table with three columns of yes and no every new row would be left out."""
    assert seen.seen_by(of(np.random.default_rng(0).integers(0, 2, (500, 3)))) == b""


STUDY = """
name = "days"
metric = "val_loss"
direction = "minimize"
[data]
source = "csv:../rows.csv"
target = "y"
test_size = 0.3
validation_size = 0.2
[model]
build = "mlp"
[space]
epochs = { type = "int", low = 20, high = 20 }
batch_size = { type = "categorical", choices = [16] }
width = { type = "int", low = 8, high = 64 }
"""


def day(folder: Path, seed: int, rows: int, slope: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=np.round(slope * x[:, 0] + rng.normal(size=rows) / 5, 3))
    frame.to_csv(folder / "rows.csv", index=False)
    return frame


def test_a_loop_of_retraining_is_judged_on_rows_that_neither_version_has_seen(
    folder: Path, run_search: Searcher
) -> None:
    """`promote --data today.csv` would find the version that learned those rows better, whatever it learned."""
    (folder / "studies").mkdir()
    (folder / "studies" / "days.toml").write_text(STUDY)
    day(folder, 0, 400, 1.0)
    definition = load_definition(folder / "studies" / "days.toml")
    run_search(definition, n_trials=1)
    assert promotion.promote("days").promoted
    today = day(folder, 1, 400, 3.0)
    outcome = run_search(definition, n_trials=1, accept_new_data=True)
    assert outcome.model is not None
    told = promotion.promote("days", dry_run=True)
    assert told.verdict is not None
    assert told.verdict.rows == 120, "the newest held-out rows"
    assert told.verdict.better is True
    assert told.reason.endswith("(on the held-out rows of version 2)")
    told = promotion.promote("days", conditions=Conditions(data=folder / "rows.csv"), dry_run=True)
    assert told.verdict is not None
    assert told.verdict.rows == 120
    assert "280 of 400 rows are left out, which trained or chose one of the versions" in told.reason
    fresh = day(folder, 2, 20, 3.0)
    pd.concat([today, fresh]).to_csv(folder / "mostly.csv", index=False)
    pd.concat([today.iloc[:0], fresh]).to_csv(folder / "fresh.csv", index=False)
    assert (
        promotion.promote("days", conditions=Conditions(data=folder / "mostly.csv"), dry_run=True).verdict is not None
    )
    outputs = promotion.promote("days", conditions=Conditions(data=folder / "fresh.csv"), dry_run=True)
    assert "left out" not in outputs.reason
    trained = today[~today.index.isin(_held_out(today, folder))]
    trained.to_csv(folder / "trained.csv", index=False)
    told = promotion.promote("days", conditions=Conditions(data=folder / "trained.csv"), dry_run=True)
    assert told.refused
    assert "280 of 280 rows are left out, which trained or chose one of the versions, and 0 are too few" in told.reason


def _held_out(frame: pd.DataFrame, folder: Path) -> Any:
    """Return the rows of the test part of version 2."""
    from search.tracking import registry

    kept = registry.predictions_of(registry.find("days", "2"))
    assert kept is not None
    return frame.index[kept.rows]
