"""How rows to predict differ from those that a model was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from search.data.profile import Comparison, described


def compared(trained: np.ndarray, rows: np.ndarray, chunks: int = 1) -> dict[str, object]:
    """Return what is told of each feature."""
    comparison = Comparison({"rows": len(trained), "columns": described(trained)})
    for chunk in np.array_split(rows, chunks):
        comparison.add(chunk)
    return {each.column: each for each in comparison.outside()}


def test_gaps_ranges_and_categories_are_counted_by_rows() -> None:
    """A column that arrives empty would be imputed in silence."""
    trained = np.array([[1.0], [2.0], [3.0], [4.0]] * 50)
    rows = np.array([[np.nan], [2.0], [9.0], [3.0]])
    told = compared(trained.repeat(2, axis=1), rows.repeat(2, axis=1))["x[0]"]
    assert (told.missing, told.was_missing, told.beyond, told.seen) == (0.25, 0.0, 0.25, (1.0, 4.0))
    assert told.told[0] == "25% of the rows beyond 1 to 4"
    texts = compared(np.array(["a", "b"] * 100), np.array(["a", "", "c", "c"]))["x"]
    assert (texts.new, texts.categories, texts.missing) == (0.5, ("c",), 0.25)
    pictures = np.zeros((20, 4, 4), "uint8")
    bright = pictures.copy()
    bright[0, 0, 0] = 255
    assert compared(pictures, bright)["x"].beyond == 1 / 20


def test_statistics_of_many_rows_are_those_of_each_column_by_itself() -> None:
    """Rows are read in blocks and columns in groups; a wrong border would shift a column's range."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(210_000, 120)).astype("float32")
    rows[0, 5], rows[-1, 7], rows[3, 9] = 50, -50, np.nan
    rows[:, 11] = np.nan
    together = described(rows)
    for column in (0, 5, 7, 9, 11, 99, 100, 119):
        alone = described(rows[:, column])["x"]
        assert together[f"x[{column}]"] == alone
        there = rows[:, column][~np.isnan(rows[:, column])]
        assert alone["min"] == (float(there.min()) if len(there) else None)
        assert alone["max"] == (float(there.max()) if len(there) else None)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3, 4, 2)])
def test_an_input_that_is_no_matrix_is_one_feature(shape: tuple[int, ...]) -> None:
    """A picture has no columns to describe; its numbers are told together."""
    values = np.random.default_rng(4).normal(size=shape)
    found = described({"picture": values})
    assert list(found) == ["picture"]
    assert (found["picture"]["min"], found["picture"]["max"]) == (values.min(), values.max())
