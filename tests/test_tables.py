"""A spreadsheet's file from search to promotion: every command reads it as the study did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search import promotion
from search.session import search
from search.studyfile.load import load_definition
from search.studyfile.settings import resolve
from tests.conftest import Command

STUDY = """
name = "häuser"
metric = "val_loss"
direction = "minimize"

[data]
source = "csv:häuser.csv"
target = "Preis"
options = { thousands = ".", encoding = "cp1252", dtype = { PLZ = "str" } }

[model]
build = "mlp"
learning_rate = 0.02

[fit]
epochs = 40

[space]
width = { type = "int", low = 30, high = 40 }
"""


def write_rows(path: Path, rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Write semicolons, decimal commas, points between thousands, leading zeros and seconds since 1970."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "PLZ": draw.choice(["01067", "04109", "10115"], rows),
            "Fläche": draw.integers(20, 9000, rows),
            "verkauft": 1_700_000_000 + draw.integers(0, 400, rows),
        }
    )
    by_place = frame["PLZ"].map({"01067": 0.0, "04109": 40_000.0, "10115": 90_000.0})
    frame["Preis"] = 300_000 + by_place + 10 * frame["Fläche"] + 300 * (frame["verkauft"] - 1_700_000_000)
    lines = [
        f"{row.PLZ};{row.Fläche:,};{row.verkauft};{row.Preis:,.1f}".translate(str.maketrans(",.", ".,"))
        for row in frame.itertuples()
    ]
    path.write_text("\n".join(["PLZ;Fläche;verkauft;Preis", *lines, ""]), encoding="cp1252")
    return frame


def test_a_spreadsheet_goes_all_the_way(folder: Path, in_process: Command) -> None:
    """Areas would be a thousandth, post codes unknown, all seconds one number, and prices the square of their mean."""
    (folder / "studies").mkdir()
    frame = write_rows(folder / "studies" / "häuser.csv")
    (folder / "studies" / "häuser.toml").write_text(STUDY, encoding="utf-8")
    definition = load_definition(folder / "studies" / "häuser.toml")
    request = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "workers": 1, "n_trials": 1}
    said: list[str] = []
    outcome = search(resolve(definition, **request), lambda _: None, said.append)
    assert not [each for each in said if each.startswith("warning")]
    spread = frame["Preis"].var()
    assert outcome.best.trivial == pytest.approx(spread, rel=0.4)
    assert outcome.best.value < 0.05 * spread
    newer = write_rows(folder / "newer.csv", seed=1)  # the gate leaves out rows that trained the model
    done = in_process("search.predict", "häuser", "--input", "newer.csv", "--output", "out.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "PLZ" not in done.stderr
    predicted = pd.read_csv(folder / "out.csv")["prediction"]
    loss = ((predicted - newer["Preis"]) ** 2).mean()
    assert loss < 0.05 * spread
    decided = promotion.promote("häuser", conditions=promotion.Conditions(data=folder / "newer.csv"), dry_run=True)
    assert decided.verdict is not None
    assert decided.verdict.challenger == pytest.approx(loss, rel=1e-3)
