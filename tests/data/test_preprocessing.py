"""Preprocessing is part of the model: it survives saving, and serving does the same to raw columns."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

from search import serving
from search.data import table
from search.data.loading import load
from search.data.preprocessing import (
    CATEGORICAL,
    NUMERIC,
    Column,
    Preparation,
    columns_of,
    fit_preparation,
    make_inputs,
    to_arrays,
)
from search.errors import DataError
from search.serving.rows import Rows
from tests.studyfiles import definition

# Keras 3.15 reads TensorFlow's variables in a way that NumPy 2.4 is going to refuse.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def _tensors(x: Any) -> Any:
    return keras.tree.map_structure(lambda a: tf.constant(a.astype(str) if a.dtype.kind in "OU" else a), x)


def _frame(rows: int = 40) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "age": generator.integers(18, 90, rows),
            "income": generator.normal(3e4, 1e4, rows),
            "city": generator.choice(["Rome", "Oslo", "Lima"], rows),
            "member": generator.choice([True, False], rows),
            "plan": generator.choice(["a", "b", "[UNK]"], rows),
        }
    )
    frame.loc[3, "income"] = np.nan
    frame.loc[5, "city"] = None
    return frame


def _model(x: Any, preparation: Preparation) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs, prepared = make_inputs(x, preparation)
    return keras.Model(inputs, keras.layers.Dense(1)(prepared))


def _prepared(x: Any, preparation: Preparation) -> np.ndarray[Any, Any]:
    inputs, prepared = make_inputs(x, preparation)
    return np.asarray(keras.Model(inputs, prepared)(_tensors(x)))


def test_a_saved_model_predicts_the_same_for_raw_columns(tmp_path: Path) -> None:
    """The registered model would not load in safe mode, or predict otherwise than the one that was chosen."""
    frame = _frame()
    columns = columns_of(frame)
    x = to_arrays(frame, columns)
    model = _model(x, fit_preparation(x, table=True, normalize=True))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True, compile=False)
    odd = frame.head(4).copy()
    odd["age"] = odd["age"].astype("float")
    odd.loc[0, "city"] = "Paris"
    odd.loc[1, ["age", "income", "city"]] = None
    for rows in (frame, odd):
        sent = _tensors(to_arrays(rows, columns))
        predicted = np.asarray(model(sent))
        assert np.isfinite(predicted).all()
        assert np.array_equal(np.asarray(loaded(sent)), predicted)


@pytest.mark.parametrize("columns", [["age", "income", "member"], ["city", "plan"], ["income"], ["city"]])
def test_tables_of_one_kind_of_column_work(tmp_path: Path, columns: list[str]) -> None:
    """A table of numbers alone, or of texts alone, would have no model."""
    frame = _frame()[columns]
    kinds = columns_of(frame)
    x = to_arrays(frame, kinds)
    model = _model(x, fit_preparation(x, table=True, normalize=True))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True, compile=False)
    predicted = np.asarray(model(_tensors(x)))
    assert np.array_equal(np.asarray(loaded(_tensors(x))), predicted)
    assert np.isfinite(predicted).all()


def described(columns: Sequence[Column], frame: pd.DataFrame) -> dict[str, Any]:
    optional = [column.name for column in columns if frame[column.name].isna().any()]
    return {"columns": [(column.name, column.kind) for column in columns], "optional": optional}


def test_serving_turns_raw_columns_into_the_same_arrays() -> None:
    """The served model would see other numbers than the trained one, and nobody would notice."""
    frame = _frame()
    columns = columns_of(frame)
    predictor = serving.Predictor(None, described(columns, frame))
    shuffled = frame[frame.columns[::-1]]
    for rows in (frame, shuffled, frame.head(1), frame.astype("object"), frame.iloc[5:6]):
        served, trained = predictor.arrays(rows), to_arrays(rows, columns)
        assert np.array_equal(served[NUMERIC], trained[NUMERIC], equal_nan=True)
        assert served[CATEGORICAL].astype(str).tolist() == trained[CATEGORICAL].astype(str).tolist()
    numbers = frame[["age", "income"]]
    alone = serving.Predictor(None, described(columns_of(numbers), numbers)).arrays(numbers)
    assert np.array_equal(alone, to_arrays(numbers, columns_of(numbers)), equal_nan=True)


def test_serving_predicts_for_raw_columns_as_training_did() -> None:
    """A row sent to the served model would get another prediction than the same row in training."""
    frame = _frame()
    columns = columns_of(frame)
    x = to_arrays(frame, columns)
    model = _model(x, fit_preparation(x, table=True, normalize=True))
    served = serving.Predictor(model, described(columns, frame)).predict(frame)
    np.testing.assert_allclose(served, np.asarray(model(_tensors(x))), rtol=1e-5)


def test_statistics_come_from_the_training_part_alone(tmp_path: Path) -> None:
    """What the test part looks like would leak into the model that is tested on it."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x": generator.normal(size=100), "c": "known", "y": np.arange(100) % 2, "t": range(100)})
    frame.loc[80:, ["x", "c"]] = [1e6, "later"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = load(
        definition(
            {
                "data.source": "csv:t.csv",
                "data.options": {},
                "data.target": "y",
                "data.time": "t",
                "data.test_size": 0.2,
            },
            folder=tmp_path,
        )
    )
    inputs, prepared = data.inputs()
    assert prepared.shape == (None, 1 + 2)  # the number; the place of unknown texts and that of the known one
    outcome = np.asarray(keras.Model(inputs, prepared)(_tensors(data.train.x)))
    np.testing.assert_allclose([outcome[:, 0].mean(), outcome[:, 0].std()], [0, 1], atol=1e-5)
    assert outcome[:, 2].all()
    later = np.asarray(keras.Model(inputs, prepared)(_tensors(data.test.x)))
    assert later[:, 1].all()
    assert later[:, 0].min() > 1e5


def test_missing_numbers_become_the_mean_and_are_told() -> None:
    """A missing value would be taken for a value, or turn every prediction into NaN."""
    x = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 7.0], [5.0, 6.0]], "float32")
    learnt = fit_preparation(x[[0, 1, 3]], table=True, normalize=True)
    assert learnt.mean == pytest.approx((3.0, 5.5))
    assert learnt.variance == pytest.approx((8 / 3, 0.25))
    assert learnt.incomplete == (1,)
    prepared = _prepared(x, learnt)
    assert prepared[2, 0] == 0  # never missing in training: the mean, without an indicator
    assert prepared[1].tolist() == pytest.approx([0.0, 0.0, 1.0])
    plain = _prepared(x, fit_preparation(x, table=True, normalize=False))
    assert plain[1].tolist() == [3.0, 0.0, 0.0, 1.0]


def test_columns_without_spread_or_values_do_no_harm() -> None:
    """A constant column would be divided by nothing, and every prediction be infinite."""
    x = np.array([[2.0, np.nan, 1e8], [2.0, np.nan, 1e8 + 8]], "float32")
    learnt = fit_preparation(x, table=True, normalize=True)
    assert learnt.mean is not None
    assert learnt.mean[:2] == (2.0, 0.0)
    assert learnt.variance is not None
    assert learnt.variance[:2] == (1.0, 1.0)
    assert np.isfinite(_prepared(x, learnt)).all()
    texts = {CATEGORICAL: np.array([[""], [""]], dtype=object)}
    assert _prepared(texts, fit_preparation(texts, table=True, normalize=True)).sum() == 0  # missing has no place


def test_rare_texts_share_a_place() -> None:
    """A column of names would make a model of a hundred thousand inputs."""
    texts = np.array([[f"name {i // 2 if i < 1000 else i}"] for i in range(3000)], dtype=object)
    learnt = fit_preparation({CATEGORICAL: texts}, table=True, normalize=True)
    assert len(learnt.vocabularies[0]) == 1000
    assert {f"name {i}" for i in range(500)} <= set(learnt.vocabularies[0])


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((5, 8, 8, 1), "uint8"),
        np.zeros((5, 3), "float64"),
        np.zeros((5, 3), "bool"),
        np.zeros((5, 7), "int64"),
        {"left": np.zeros((5, 2)), "right": np.zeros((5, 3), "int32")},
        [np.zeros((5, 2)), np.zeros((5, 3))],
    ],
    ids=["images", "doubles", "truth values", "whole numbers", "named", "listed"],
)
def test_arrays_of_any_kind_have_inputs(tmp_path: Path, x: Any) -> None:
    """Images or truth values would have no model, or one that cannot be saved."""
    inputs, prepared = make_inputs(x, fit_preparation(x, table=False, normalize=False))
    parts = prepared.values() if isinstance(prepared, dict) else prepared if isinstance(prepared, list) else [prepared]
    flat = [keras.layers.Flatten()(part) for part in parts]
    model = keras.Model(inputs, keras.layers.Dense(1)(flat[0] if len(flat) == 1 else keras.layers.Concatenate()(flat)))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True, compile=False)
    sent = _tensors(x)
    assert np.array_equal(np.asarray(loaded(sent)), np.asarray(model(sent)))


def test_texts_reach_the_users_own_layers() -> None:
    """Reviews or messages could not be learned from with a TextVectorization of one's own."""
    x = np.array(["good", "bad day"])
    inputs, prepared = make_inputs(x, fit_preparation(x, table=False, normalize=True))
    assert inputs.dtype == "string"
    assert prepared is inputs
    assert np.asarray(keras.Model(inputs, prepared)(_tensors(x))).tolist() == [b"good", b"bad day"]


def test_arrays_are_scaled_only_when_asked() -> None:
    """Pixels would be scaled behind the person's back, or never."""
    x = np.random.default_rng(0).normal(5, 3, (50, 4, 4, 2)).astype("float32")
    inputs, prepared = make_inputs(x, fit_preparation(x, table=False, normalize=False))
    assert prepared is inputs
    scaled = _prepared(x, fit_preparation(x, table=False, normalize=True))
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), [0, 0], atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), [1, 1], atol=1e-4)


def test_large_arrays_have_the_same_statistics() -> None:
    """Single precision would lose the mean of many large numbers."""
    x = np.full((200_000, 1), 16_777_217.0)
    x[::2] += 4
    learnt = fit_preparation(x, table=False, normalize=True)
    assert learnt.mean == pytest.approx((16_777_219.0,), abs=1e-3)
    assert learnt.variance == pytest.approx((4.0,), rel=1e-6) or learnt.variance == (1.0,)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "long"),
        ([1, None], "double"),
        (pd.array([1, None], dtype="Int64"), "double"),
        (pd.array([1, 2], dtype="Int64"), "long"),
        (pd.array([True, None], dtype="boolean"), "boolean"),
        (pd.Series([True, None], dtype="object"), "boolean"),
        (pd.Series([1, 2.5, None], dtype="object"), "double"),
        (pd.Series([None, None], dtype="object"), "double"),
        (pd.Series(["a", None]), "string"),
        (pd.Series(["a", 1], dtype="object"), "string"),
        (pd.Categorical(["x", "y"]), "string"),
        (pd.Categorical([1, 2]), "string"),
    ],
)
def test_the_kind_of_a_column(values: Any, kind: str) -> None:
    """MLflow would refuse a row with a missing whole number, which training had seen."""
    frame = pd.DataFrame({"c": values})
    columns = columns_of(frame)
    assert columns == (Column("c", kind),)  # type: ignore[arg-type]
    arrays = to_arrays(frame, columns)
    assert len(arrays[CATEGORICAL] if isinstance(arrays, dict) else arrays) == len(frame)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.to_timedelta(["1h"]), "column 'c' holds durations"),
        (pd.array([b"x"], dtype=pd.ArrowDtype(pa.binary())), "column 'c' holds bytes"),
        (pd.array([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), "column 'c' holds list"),
        ([1 + 2j], "column 'c' holds complex"),
        ([b"x"], "column 'c' holds bytes"),
    ],
)
def test_columns_that_cannot_be_learned_are_told(values: Any, message: str) -> None:
    """A traceback of NumPy's would name no column."""
    with pytest.raises(DataError, match=rf'{message}.*drop = \["c"\]'):
        columns_of(pd.DataFrame({"c": values}))


DAYS = ["2024-01-01", "2024-01-02", None, "2024-01-01"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.to_datetime(DAYS), DAYS),
        ([each and datetime.date.fromisoformat(each) for each in DAYS], DAYS),
        (pd.Categorical(pd.to_datetime(DAYS)), DAYS),
        (pd.array(pd.to_datetime(DAYS), dtype=pd.ArrowDtype(pa.timestamp("us"))), DAYS),
        (pd.array(["a", None, "b", "a"], dtype="string"), ["a", None, "b", "a"]),
        (pd.array(["a", None, "b", "a"], dtype=pd.ArrowDtype(pa.string())), ["a", None, "b", "a"]),
        (pa.array(["a", None, "b", "a"]).dictionary_encode().to_pandas(), ["a", None, "b", "a"]),
        (pd.Categorical([1.0, 2.0, None, 1.0]), ["1", "2", None, "1"]),
        (pd.array([1, 2, None, 1], dtype=pd.ArrowDtype(pa.int64())), "double"),
        (pd.array([1, 2, 3, 1], dtype=pd.ArrowDtype(pa.int8())), "long"),
        (pd.array([1.5, 2, None, 1], dtype=pd.ArrowDtype(pa.float32())), "double"),
        (pd.array([1.5, 2, None, 1], dtype="Float64"), "double"),
        (pd.array([True, None, False, True], dtype=pd.ArrowDtype(pa.bool_())), "boolean"),
        (pd.array([Decimal("1.5"), None, Decimal(2), Decimal(1)], dtype=pd.ArrowDtype(pa.decimal128(9, 2))), "double"),
        (pd.arrays.SparseArray([0.0, np.nan, 1.5, 0.0]), "double"),
        (pd.arrays.SparseArray([0, 0, 1, 2]), "long"),
        (pd.arrays.SparseArray([True, False, False, True]), "boolean"),
    ],
)
def test_the_frames_of_pandas_and_pyarrow_are_taken_as_they_are(values: Any, kind: Any) -> None:
    """A program's frame would be refused, or one served be other categories than the one trained on."""
    frame = pd.DataFrame({"c": values, "y": [0, 1, 0, 1]})
    read = table.from_table(frame, definition({"data.target": "y", "data.options": None}).data)
    (column,) = read.columns
    served = Rows({"columns": [("c", column.kind)], "optional": ["c"]}).arrays(frame)
    if isinstance(kind, str):
        assert column.kind == kind
        assert np.array_equal(read.x, served, equal_nan=True)
    else:
        assert column.kind == "string"
        assert read.x[CATEGORICAL][:, 0].tolist() == [each or "" for each in kind]
        assert served[CATEGORICAL][:, 0].tolist() == [each or "" for each in kind]
