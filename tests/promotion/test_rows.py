"""The file that two versions are compared on: read as people write such files, or refused in a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search.comparison.predictions import ONLY, Predictions
from search.data import files
from search.errors import DataError
from search.promotion import rows as fresh
from tests.comparison.test_verdict import about

ROWS = pd.DataFrame({"größe": [1.5, 2.5, np.nan], "stadt": ["Köln", "10", "Bern"], "ja": ["1", "0", "1"]})


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A CSV from a spreadsheet would be refused, or its decimal commas be taken for text."""
    known = replace(about(), target=("ja",))
    ROWS.to_csv(tmp_path / "plain.csv", index=False)
    ROWS.to_csv(tmp_path / "semicolon.csv", index=False, sep=";", decimal=",")
    ROWS.to_csv(tmp_path / "tabs.CSV", index=False, sep="\t", encoding="utf-8-sig")
    ROWS.to_parquet(tmp_path / "rows.parquet")
    for name in ("plain.csv", "semicolon.csv", "tabs.CSV", "rows.parquet"):
        read = fresh.read(tmp_path / name, known, files.Form())
        assert read.target.tolist() == [1, 0, 1], name
        assert read.inputs["größe"].tolist()[:2] == [1.5, 2.5], name
        assert set(read.slices) == {"größe", "stadt", "ja"}
        chunk = next(files.read(tmp_path / name, 10, files.Form(texts=("stadt",))))
        assert chunk.rows["größe"].tolist()[:2] == [1.5, 2.5], name
        assert chunk.rows["stadt"].tolist() == ["Köln", "10", "Bern"]


def test_what_cannot_be_compared_on_is_told_in_a_line(tmp_path: Path) -> None:
    """A verdict would rest on no rows, or be refused without a word on why."""
    known = replace(about(task="regression"), target=("preis",), classes=())
    rows = pd.DataFrame({"a": [1, 2], "preis": [1.0, np.nan]})
    rows.to_csv(tmp_path / "gap.csv", index=False)
    rows.iloc[:0].to_csv(tmp_path / "none.csv", index=False)
    (tmp_path / "empty.csv").write_text("")
    np.savez(tmp_path / "x.npz", x=np.zeros(2))
    np.savez(tmp_path / "longer.npz", x=np.zeros(3), y=np.zeros(2))
    for name, message in {
        "gap.csv": "the target has values that are missing",
        "none.csv": "has no rows",
        "empty.csv": "cannot be read",
        "x.npz": "no array 'y'",
        "longer.npz": "array 'x' has 3 rows, y has 2",
        "x.txt": "use .csv, .parquet, .npz",
    }.items():
        with pytest.raises(DataError, match=message):
            fresh.read(tmp_path / name, known, files.Form())


def test_a_target_that_is_no_number_or_a_broken_file_is_told(tmp_path: Path) -> None:
    """The person would read of a defect, with exit status 1."""
    known = replace(about(task="regression"), target=("preis",), classes=())
    pd.DataFrame({"a": [1, 2], "preis": ["1.5", "-"]}).to_csv(tmp_path / "text.csv", index=False)
    (tmp_path / "broken.npz").write_bytes(b"PK not an archive")
    for name, message in {
        "text.csv": "the target holds values that are no numbers",
        "broken.npz": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=message):
            fresh.read(tmp_path / name, known, files.Form())


def test_one_hot_targets_are_the_classes_that_a_model_learned() -> None:
    """Rows with a column for each class could not decide between two versions."""
    kept = Predictions(about(task="multiclass"), np.arange(2), {ONLY: np.array([0, 2])}, {ONLY: np.eye(3)[[0, 2]]})
    given = fresh.FreshRows(None, np.eye(3, dtype="float32")[[1, 0]], None, {}, "rows.npz")
    assert fresh.predictions(given, np.eye(3)[[1, 0]], kept).targets[ONLY].tolist() == [1, 0]
