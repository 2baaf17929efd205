"""Numbers whose differences single precision loses: centred in double precision, or named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from search.data.facts import merging
from search.data.loading import load
from search.data.preprocessing import columns_of, raw, to_arrays
from search.data.profile import Comparison, profile_of
from search.data.summary import DataSummary
from search.serving.rows import Rows
from search.training.description import describe
from search.training.model import try_build
from tests.studyfiles import definition
from tests.training.test_model import fixed

ROWS = 400
DRAW = np.random.default_rng(0)
U = DRAW.uniform(0, 600, ROWS)
COLUMNS: dict[str, Any] = {
    "epoch seconds": 1.7e9 + np.round(U),
    "customers": 123_450_000 + DRAW.permutation(ROWS),
    "coordinates": 5_800_000 + U / 50,
    "milliseconds": (1_700_000_000_000 + 7 * DRAW.permutation(ROWS)).astype("int64"),
    "with gaps": np.where(DRAW.random(ROWS) < 0.1, np.nan, 1.7e9 + np.round(U)),
    "nullable": pd.array(1_700_000_000 + np.round(U).astype(int), dtype="Int64"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_keeps_its_differences(name: str) -> None:
    """Epoch seconds would be one number for the model: 383 values as read and 1 as it gets them."""
    frame = pd.DataFrame({"t": COLUMNS[name]})
    columns = columns_of(frame)
    arrays = to_arrays(frame, columns)
    assert isinstance(arrays, np.ndarray)
    assert arrays.dtype == "float32"
    different = pd.Series(arrays[:, 0]).nunique()
    assert different == frame["t"].nunique()
    ((_, values),) = raw(arrays, columns)
    known = frame["t"].notna().to_numpy()
    assert np.allclose(values[known], frame["t"].to_numpy(dtype="float64", na_value=np.nan)[known], rtol=1e-12)


def test_other_columns_stay_as_they_are() -> None:
    """The losses of every study would change, for columns that lose nothing."""
    frame = pd.DataFrame({"year": range(1950, 2024), "share": np.linspace(0, 1, 74), "far": np.linspace(-1e9, 1e9, 74)})
    assert [column.center for column in columns_of(frame)] == [0.0, 0.0, 0.0]
    fractions = pd.DataFrame({"x": DRAW.normal(size=20_000)})
    assert columns_of(fractions)[0].center == 0.0


def test_what_a_model_was_trained_with_is_served(tmp_path: Path) -> None:
    """Training would see differences and serving, prediction and the gate one number."""
    frame = pd.DataFrame({"t": COLUMNS["epoch seconds"], "k": DRAW.choice(["a", "b"], ROWS), "y": U})
    frame.to_csv(tmp_path / "t.csv", index=False)
    study = definition({"data.source": "csv:t.csv", "data.target": "y", "data.options": None}, folder=tmp_path)
    data = load(study)
    model = try_build(study, fixed(dropout=0.0), data)
    summary = describe(study, data, model)
    assert set(summary.centers) == {"t"}
    assert np.asarray(summary.example["t"])[0] in frame["t"].to_numpy()
    described = {"columns": summary.columns, "optional": (), "centers": summary.centers}
    served = Rows(described).arrays(frame)["numeric"]
    assert np.unique(served).size == frame["t"].nunique()
    assert np.isin(np.unique(data.x["numeric"]), served).all()
    compared = Comparison(profile_of(data))
    compared.add({"numeric": served + 5000, "categorical": frame[["k"]].to_numpy(object)}, ("t",), ("k",))
    assert "100% of the rows beyond 17000000" in compared.outside()[0].told[0]


def test_what_still_merges_is_named(tmp_path: Path) -> None:
    """A column of two far groups would be learned as two values, without a word."""
    two = np.where(np.arange(ROWS) % 2, 1e9, 9e9) + np.arange(ROWS) // 2 % 60
    rows = pd.DataFrame({"two": two, "y": U})
    rows.to_csv(tmp_path / "t.csv", index=False)
    changes = {"data.source": "csv:t.csv", "data.target": "y", "data.options": None}
    (told,) = load(definition(changes, folder=tmp_path)).doubts
    assert told.startswith("column 'two' has 120 different values, of which single precision tells ")
    assert told.endswith(" apart; subtract a fixed value from them")
    rows.assign(two=COLUMNS["epoch seconds"]).to_csv(tmp_path / "t.csv", index=False)
    assert load(definition(changes, folder=tmp_path)).doubts == ()
    (told,) = load(definition({**changes, "data.normalize": False}, folder=tmp_path)).doubts
    assert told.startswith("column 'two' has")
    rows.assign(two=U, y=COLUMNS["epoch seconds"]).to_csv(tmp_path / "t.csv", index=False)
    told = " ".join(load(definition(changes, folder=tmp_path)).doubts)
    assert "the target has" in told


def test_arrays_are_checked_too() -> None:
    """What a data function returns is cast by Keras alike."""
    seconds = np.column_stack([U, COLUMNS["epoch seconds"]])
    (told,) = merging({"x": seconds})
    assert told.startswith("x[:, 1] has")
    assert told.endswith("subtract a fixed value from them in the data function, or return a data frame")
    assert merging([seconds.astype("int64")[:, 1]])
    assert merging(DRAW.integers(0, 255, (50, 8, 8, 3)).astype("uint8")) == ()
    assert merging(seconds.astype("float32")) == ()


def test_a_summary_of_an_earlier_release_is_read() -> None:
    """A study begun with it would end in a traceback when its kept models are logged."""
    now = DataSummary("x", "npz:x.npz", "0", "binary", (), {}, (), (), None, (), (), "", 0.0, centers={"t": 1.0})
    state = {name: value for name, value in vars(now).items() if name not in ("centers", "reading", "trivial", "code")}
    old = DataSummary.__new__(DataSummary)
    old.__setstate__(state)
    assert (old.centers, old.reading, old.trivial, old.name) == ({}, {}, {}, "x")
    assert pickle.loads(pickle.dumps(now)) == now
