"""Data of any kind become the same three parts: what trains, what chooses, what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.datasets import make_blobs
from sklearn.model_selection import train_test_split

from search.data.dataset import Data
from search.data.loading import load
from search.data.preprocessing import CATEGORICAL, NUMERIC
from search.errors import DataError, ModelError
from search.studyfile.references import load_object
from tests.studyfiles import definition

SETTINGS = {"data.options": {}, "data.test_size": 0.25, "data.validation_size": 0.2, "data.seed": 0}


def _load(folder: Path, changes: dict[str, Any]) -> Data:
    changes = {f"data.{key}": value for key, value in changes.items()}
    return load(definition({**SETTINGS, **changes}, folder=folder))


def _table(rows: int = 80) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": range(rows),
            "age": generator.integers(18, 90, rows),
            "income": generator.normal(3e4, 1e4, rows).round(2),
            "children": generator.integers(0, 4, rows).astype("float"),
            "city": generator.choice(["Rome", "Oslo", "Lima"], rows),
            "member": generator.choice([True, False], rows),
            "when": pd.date_range("2024-01-01", periods=rows).strftime("%Y-%m-%d")[::-1],
            "bought": generator.choice(["yes", "no"], rows),
        }
    )
    frame.loc[3, ["income", "children"]] = np.nan
    frame.loc[5, "city"] = None
    return frame


@pytest.fixture(params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    frame = _table()
    frame["children"] = frame["children"].astype("Int64")
    if request.param == "csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
    else:
        frame.to_parquet(tmp_path / "t.parquet")
    return tmp_path, f"{request.param}:t.{request.param}"


def test_a_table_of_mixed_columns_is_read(table: tuple[Path, str]) -> None:
    """A missing value or a text column would stop the search, or be learned as a number."""
    data = _load(table[0], {"source": table[1], "target": "bought", "drop": ["id", "when"]})
    kinds = {column.name: column.kind for column in data.columns}
    assert kinds == {"age": "long", "income": "double", "children": "double", "city": "string", "member": "boolean"}
    assert (data.task, data.classes) == ("binary", ("no", "yes"))
    assert (len(data.train), len(data.validation or ()), len(data.test)) == (48, 12, 20)
    assert data.x[NUMERIC].shape == (48, 4)
    assert data.x[NUMERIC].dtype == np.float32
    numbers = np.concatenate([part.x[NUMERIC] for part in (data.train, data.validation, data.test) if part])
    assert np.isnan(numbers).sum() == 2
    texts = np.concatenate([part.x[CATEGORICAL] for part in (data.train, data.validation, data.test) if part])
    assert sorted(set(texts.ravel())) == ["", "Lima", "Oslo", "Rome"]
    assert data.normalize


def test_truth_values_with_missing_ones_stay_truth_values(tmp_path: Path) -> None:
    """A column of true, false and nothing would become text, and its model refuse what it is served."""
    frame = _table()
    frame["member"] = frame["member"].astype(object)
    frame.loc[2, "member"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = _load(tmp_path, {"source": "csv:t.csv", "target": "bought", "features": ["member"]})
    assert [column.kind for column in data.columns] == ["boolean"]
    assert set(np.unique(np.nan_to_num(data.x, nan=9.0))) <= {0.0, 1.0, 9.0}


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        ("bought", "binary", ("no", "yes")),
        ("city", "multiclass", ("Lima", "Oslo", "Rome")),
        ("member", "binary", (False, True)),
        ("income", "regression", ()),
        ("age", "regression", ()),
        ("children", "multiclass", (0, 1, 2, 3)),
        (["member", "adult"], "multilabel", ("member", "adult")),
    ],
)
def test_the_task_follows_from_the_target(tmp_path: Path, target: Any, task: str, classes: tuple[Any, ...]) -> None:
    """A wrong task would train with the wrong loss, and the score would mean nothing."""
    frame = _table().dropna()
    frame["member"] = frame["member"].astype(int) if isinstance(target, list) else frame["member"]
    frame["adult"] = (frame["age"] > 40).astype(int)
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = _load(tmp_path, {"source": "csv:t.csv", "target": target, "drop": ["when"]})
    assert (data.task, data.classes) == (task, classes)
    assert not {column.name for column in data.columns} & {*([target] if isinstance(target, str) else target)}
    assert data.y is not None
    if classes and task != "multilabel":
        assert [classes[int(index)] for index in data.y] == [classes[int(index)] for index in data.train.y]  # type: ignore[union-attr]
        assert set(np.unique(data.y)) == set(range(len(classes)))


def test_targets_are_encoded_with_their_rows(tmp_path: Path) -> None:
    """Labels that slip against their rows would train a model on noise."""
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.where(np.arange(60) % 3 == 0, "b", "a")})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = _load(tmp_path, {"source": "csv:t.csv", "target": "y"})
    for part in (data.train, data.validation, data.test):
        assert part is not None
        assert np.array_equal(part.y, (part.x[:, 0] % 3 == 0).astype("float32"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "bougth"}, "data.target: no column 'bougth' in csv:t.csv .*did you mean 'bought'"),
        ({"drop": ["idd"]}, "data.drop: no column 'idd' .*did you mean 'id'"),
        ({"features": ["agee"]}, "data.features: no column 'agee' .*did you mean 'age'"),
        ({"group": "x"}, r"data.group: no column 'x' in csv:t.csv \(it has id, age"),
        ({"target": "constant"}, "data.target: the target 'constant' is the same in every row; there is nothing"),
        ({"target": "income"}, "data.target: the target 'income' is missing in 1 row; fill"),
        ({"target": "city"}, "data.target: the target 'city' is missing in 1 row"),
        ({"target": "wild"}, "data.target: the target 'wild' holds infinite values"),
        ({}, "column 'wild' holds infinite values; give finite numbers"),
        ({"task": "regression"}, "data.task: regression needs numbers; the target 'bought' is text"),
        ({"task": "binary", "target": "age"}, "data.task: binary needs two classes; the target 'age' has"),
        ({"task": "multiclass", "target": "float"}, "data.task: multiclass needs classes; .*'float' holds fractions"),
        ({"task": "multilabel"}, "data.task: multilabel needs a target of 0 and 1"),
        ({"stratify": True, "target": "float"}, "data.stratify: .*the task is regression"),
        ({"time": "city"}, "data.time: 'city' is missing in 1 row"),
        ({"time": "bought", "target": "age"}, "data.time: 'bought' holds .* nor a date such as 2024-12-31; for csv"),
        ({"group": "city"}, "data.group: 'city' is missing in 1 rows"),
        ({"options": {"seperator": ";"}}, "data.options: read_csv: .*seperator"),
        ({"options": {"sep": ";"}}, "data.target: no column 'bought'"),
        ({"options": {"nrows": 1}}, "the same in every row"),
        ({"test_size": 0.001}, "data.test_size: 0.001 of 80 rows leaves a part without rows"),
    ],
)
def test_what_cannot_be_learned_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Training would go on for hours and end in NaN, or in a traceback of pandas."""
    frame = _table().assign(
        constant=1, wild=np.where(np.arange(80) == 7, np.inf, np.arange(80)), float=np.arange(80) / 7
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    drop = {"drop": ["wild"]} if changes and changes.get("target") != "wild" else {}
    with pytest.raises(DataError, match=message):
        _load(tmp_path, {"source": "csv:t.csv", "target": "bought", **drop, **changes})


def test_dates_are_no_numbers(tmp_path: Path) -> None:
    """A date would be learned as a text with a place for each day."""
    frame = _table().dropna().assign(when=pd.date_range("2024-01-01", periods=len(_table().dropna())))
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    for source in ("parquet:t.parquet", "csv:t.csv"):
        data = _load(tmp_path, {"source": source, "target": "bought"})
        assert "column 'when' holds dates, such as '2024-01-01', and each would be a category" in " ".join(data.doubts)


def test_a_file_that_is_no_table_is_told(tmp_path: Path) -> None:
    """A wrong file would end in a traceback of the reader."""
    for name in ("t.csv", "t.parquet", "t.npz"):
        (tmp_path / name).write_bytes(b"\x00\xff\xfe")
        with pytest.raises(DataError, match=r"data.source: .* cannot be loaded \(.*\); check it"):
            _load(tmp_path, {"source": f"{name[2:]}:{name}", **({} if name == "t.npz" else {"target": "y"})})


# Splits


def test_the_tutorials_split_is_the_tutorials(tmp_path: Path) -> None:
    """The default study could not be compared with the tutorial it comes from."""
    x, y = make_blobs(1000, n_features=2, centers=2, random_state=42)
    x_train, x_test, y_train, _ = train_test_split(x, y, test_size=0.33, random_state=42)
    options = {"n_samples": 1000, "n_features": 2, "centers": 2, "random_state": 42}
    changes = {"options": options, "test_size": 0.33, "validation_size": 0.1, "seed": 42, "stratify": False}
    data = _load(tmp_path, changes)
    assert np.array_equal(data.test.x, x_test)
    assert np.array_equal(data.train.x, x_train[:603])
    assert data.validation is not None
    assert np.array_equal(data.validation.y, y_train[603:])


def test_classes_keep_their_shares_in_every_part(tmp_path: Path) -> None:
    """A rare class could be missing from the test part, and the score hide that it is never found."""
    frame = pd.DataFrame({"x": range(200), "y": [1] * 20 + [0] * 180})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = _load(tmp_path, {"source": "csv:t.csv", "target": "y"})
    for part in (data.train, data.validation, data.test):
        assert part is not None
        assert part.y is not None
        assert part.y.mean() == pytest.approx(0.1, abs=0.02)
    frame.loc[0, "y"] = 2
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"least populated class.*use more rows, or stratify = false"):
        _load(tmp_path, {"source": "csv:t.csv", "target": "y"})
    assert len(_load(tmp_path, {"source": "csv:t.csv", "target": "y", "stratify": False}).test) == 50


def test_a_group_stays_in_one_part(tmp_path: Path) -> None:
    """A patient in training and test would make the model look better than it is."""
    frame = _table().dropna().assign(patient=lambda frame: frame["id"] % 10)
    frame.to_csv(tmp_path / "t.csv", index=False)
    changes = {"source": "csv:t.csv", "target": "bought", "features": ["id"], "group": "patient"}
    data = _load(tmp_path, changes)
    seen = [set(part.x[:, 0] % 10) for part in (data.train, data.validation, data.test) if part]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]  # noqa: PT018 - one statement
    folded = _load(tmp_path, {**changes, "folds": 3})
    for index in range(3):
        fold = folded.fold(index)
        assert fold.validation is not None
        assert not set(fold.train.x[:, 0] % 10) & set(fold.validation.x[:, 0] % 10)


@pytest.mark.parametrize("kind", ["text", "number"])
def test_the_newest_rows_are_the_test_part(tmp_path: Path, kind: str) -> None:
    """A model would be chosen by how well it knows the past from the future."""
    frame = _table().dropna().sample(frac=1, random_state=0)
    frame["day"] = frame["when"] if kind == "text" else pd.to_datetime(frame["when"]).dt.day_of_year
    frame["order"] = pd.to_datetime(frame["when"]).dt.day_of_year
    frame.to_csv(tmp_path / "t.csv", index=False)
    changes = {"source": "csv:t.csv", "target": "bought", "features": ["order"], "time": "day"}
    data = _load(tmp_path, changes)
    assert data.validation is not None
    assert data.train.x.max() < data.validation.x.min() <= data.validation.x.max() < data.test.x.min()
    folded = _load(tmp_path, {**changes, "folds": 3})
    for index in range(3):
        fold = folded.fold(index)
        assert fold.validation is not None
        assert fold.train.x.max() < fold.validation.x.min()


def _days(folder: Path, **changes: Any) -> Data:
    """Return the data of 60 days with four rows each, and three clinics that come one after the other."""
    rows = 240
    frame = pd.DataFrame({"day": np.repeat(np.arange(60), 4), "y": np.arange(rows) % 2})
    frame["clinic"] = frame["day"] // 5
    frame.loc[frame["day"] == 2, "clinic"] = 11  # one that is seen again at the end
    frame.sample(frac=1, random_state=0).to_csv(folder / "t.csv", index=False)
    return _load(
        folder, {"source": "csv:t.csv", "target": "y", "time": "day", "features": ["day", "clinic"], **changes}
    )


@pytest.mark.parametrize("share", [0.1, 0.2, 0.33])
def test_one_day_is_in_one_part(tmp_path: Path, share: float) -> None:
    """The rows of a day would be in training and validation, another day's in rest and test."""
    data = _days(tmp_path, test_size=share, validation_size=share)
    assert data.validation is not None
    assert data.train.x[:, 0].max() < data.validation.x[:, 0].min()
    assert data.validation.x[:, 0].max() < data.test.x[:, 0].min()
    assert abs(len(data.test) / 240 - share) <= 2 / 240
    folded = _days(tmp_path, folds=7)
    for index in range(7):
        fold = folded.fold(index)
        assert fold.validation is not None
        assert fold.train.x[:, 0].max() < fold.validation.x[:, 0].min()
    assert data.cut == "one, cut between two times"


def test_a_group_stays_together_in_time(tmp_path: Path) -> None:
    """A clinic's patients would be in training and test, or the newest clinics be trained on."""
    data = _days(tmp_path, group="clinic")
    assert data.validation is not None
    clinics = [set(part.x[:, 1].astype(int)) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, clinics)) == len(set.union(*clinics)) == 12
    assert clinics[2] == set(range(min(clinics[2]), 12)), "the newest, with the early rows of one that is seen again"


def test_a_time_without_a_place_to_cut_is_told(tmp_path: Path) -> None:
    """A part would be empty, or one day in both."""
    pd.DataFrame({"day": [1, 1, 1, 1], "x": range(4), "y": [0, 1, 0, 1]}).to_csv(tmp_path / "t.csv", index=False)
    changes = {"source": "csv:t.csv", "target": "y", "time": "day"}
    with pytest.raises(DataError, match=r"data.time: one value of 'day' is in too many rows to cut at test_size = 0.2"):
        _load(tmp_path, changes)
    with pytest.raises(DataError, match=r"data.folds: .*'day' has too few values for 70 folds"):
        _days(tmp_path, folds=70)


def test_a_rare_label_is_in_every_part(tmp_path: Path) -> None:
    """A metric would be NaN: the rare label has one value in the validation part."""
    draw = np.random.default_rng(0)
    y = (draw.random((300, 4)) < [0.5, 0.3, 0.1, 0.04]).astype(int)
    frame = pd.DataFrame(y, columns=list("abcd")).assign(x=draw.random(300))
    frame.to_csv(tmp_path / "t.csv", index=False)
    changes = {"source": "csv:t.csv", "target": list("abcd"), "validation_size": 0.2}
    for seed in range(5):
        data = _load(tmp_path, {**changes, "seed": seed})
        for part in (data.train, data.validation, data.test):
            assert part is not None
            assert (np.ptp(part.y, axis=0) == 1).all()
    folded = _load(tmp_path, {**changes, "folds": 5})
    assert all((np.ptp(folded.fold(index).validation.y, axis=0) == 1).all() for index in range(5))  # type: ignore[union-attr]
    frame.assign(d=[1] + [0] * 299).to_csv(tmp_path / "t.csv", index=False)
    told = " ".join(_load(tmp_path, changes).doubts)
    assert "label d has one value in the validation part, where AUC and the like are NaN" in told


def test_folds_cover_the_rest_and_never_the_test_part(tmp_path: Path) -> None:
    """Rows of the test part would help to choose."""
    data = _load(tmp_path, {"options": {"n_samples": 100, "centers": 3}, "folds": 5})
    validated = []
    for index in range(5):
        fold = data.fold(index)
        assert fold.validation is not None
        assert len(fold.train) + len(fold.validation) == 75
        validated += [tuple(row) for row in fold.validation.x]
    assert len(set(validated)) == 75
    assert not set(validated) & {tuple(row) for row in data.test.x}
    assert len(data.refit().train) == 75
    assert data.refit().validation is None
    with pytest.raises(DataError, match=r"data.folds: .*; use fewer folds"):
        _load(tmp_path, {"options": {"n_samples": 20, "centers": 2}, "folds": 15})


def test_a_seed_decides_the_split(tmp_path: Path) -> None:
    """Two workers would train on different rows, or a person never get another split."""
    parts = [_load(tmp_path, {"options": {"random_state": 0}, "seed": seed}).test.x for seed in (1, 1, 2)]
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


# Sources


def test_scikit_learns_makers_are_seeded_when_the_file_is_not(tmp_path: Path) -> None:
    """Every worker would make data of its own, and trials could not be compared."""
    assert _load(tmp_path, {}).digest == _load(tmp_path, {}).digest
    assert _load(tmp_path, {}).digest != _load(tmp_path, {"seed": 5}).digest


def test_scikit_learns_tables_are_tables(tmp_path: Path) -> None:
    """Columns would lose their names, and the served model not know them."""
    data = _load(tmp_path, {"source": "sklearn:load_iris", "options": {"as_frame": True}})
    assert data.columns[0].name == "sepal length (cm)"
    assert data.task == "multiclass"
    whole = _load(
        tmp_path, {"source": "sklearn:load_iris", "options": {"as_frame": True}, "target": "petal width (cm)"}
    )
    assert (whole.task, len(whole.columns)) == ("regression", 4)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("sklearn:make_blob", {}, "scikit-learn has no 'make_blob'; did you mean 'make_blobs'"),
        ("sklearn:make_blobs", {"n_sample": 3}, "data.options: make_blobs: .*n_sample.*; did you mean 'n_samples'"),
        ("sklearn:make_blobs", {"n_samples": -3}, "cannot be loaded"),
        ("sklearn:make_spd_matrix", {"n_dim": 3}, "gives no inputs with a target"),
        ("sklearn:load_sample_images", {}, "gives no inputs with a target|pillow|Pillow"),
    ],
)
def test_a_wrong_loader_or_option_is_told(tmp_path: Path, source: str, options: dict[str, Any], message: str) -> None:
    """A slip in a loader's name would end in a traceback of scikit-learn."""
    with pytest.raises(DataError, match=message):
        _load(tmp_path, {"source": source, "options": options})


@pytest.mark.filterwarnings("ignore:Retry downloading")
def test_a_download_without_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop on a train would show a page of urllib's traceback."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    options = {"data_home": str(tmp_path), "n_retries": 1, "delay": 0.01}
    with pytest.raises(DataError, match=r"sklearn:fetch_california_housing cannot be loaded \(URLError") as raised:
        _load(tmp_path, {"source": "sklearn:fetch_california_housing", "options": options})
    assert len(str(raised.value).splitlines()) == 1


def test_arrays_of_an_npz_file_are_read(tmp_path: Path) -> None:
    """Whoever keeps arrays in a file could not use them."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 4, 4)), generator.integers(0, 2, 50)
    np.savez(tmp_path / "plain.npz", x=x, y=y)
    np.savez(tmp_path / "named.npz", images=x, labels=y)
    np.savez(tmp_path / "split.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    plain = _load(tmp_path, {"source": "npz:plain.npz"})
    named = _load(tmp_path, {"source": "npz:named.npz", "options": {"x": "images", "y": "labels"}})
    assert plain.digest == named.digest
    assert plain.input_shape == (4, 4)
    assert np.array_equal(_load(tmp_path, {"source": "npz:split.npz"}).test.x, x[30:])
    with pytest.raises(DataError, match=r"has no array 'x' \(it has images, labels\); name arrays x and y, or say"):
        _load(tmp_path, {"source": "npz:named.npz"})
    with pytest.raises(DataError, match=r"has no array 'image' .*did you mean 'images'"):
        _load(tmp_path, {"source": "npz:named.npz", "options": {"x": "image", "y": "labels"}})
    with pytest.raises(DataError, match="no option 'X'; an npz file takes x and y"):
        _load(tmp_path, {"source": "npz:named.npz", "options": {"X": "images"}})


PYTHON = """
import numpy as np, pandas as pd
G = np.random.default_rng(0)
X, Y = G.normal(size=(60, 3)), G.integers(0, 2, 60)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
def arrays(): return X, Y
def lists(): return X.tolist(), Y.tolist()
def column(): return X, Y[:, None]
def texts(): return ["some text"] * 60, Y
def pair(): return (X[:40], Y[:40]), (X[40:], Y[40:])
def three(): return (X[:30], Y[:30]), (X[30:40], Y[30:40]), (X[40:], Y[40:])
def frame(): return FRAME.assign(y=Y)
def frames(): return FRAME.assign(y=Y)[:40], FRAME.assign(y=Y)[40:]
def frame_and_target(): return FRAME, pd.Series(Y)
def frame_pair(): return (FRAME[:40], pd.Series(Y[:40])), (FRAME[40:], pd.Series(Y[40:]))
def numbered(): return pd.DataFrame(X), Y
def named(): return {"left": X, "right": X[:, :1]}, Y
def several(): return [X, X[:, :1]], Y
def onehot(): return X, np.eye(3)[G.integers(0, 3, 60)]
def labels(): return X, np.stack([Y, 1 - Y, np.ones_like(Y)], axis=1)
def wide(): return X, X[:, :2]
def nothing(): return None
def ragged(): return [[1], [1, 2]], [0, 1]
def no_target(): return X, None
def shapes(): return X, Y[:50]
class Loader:
    def __iter__(self): return iter([(np.zeros((4, 3)), np.zeros(4))])
    def __len__(self): return 1
def loaders(): return Loader(), Loader()
def named_loaders(): return {"train": Loader(), "validation": Loader()}
def pair_shapes(): return (X, Y), (X[:, :2], Y)
def twins(): return pd.concat([FRAME, FRAME], axis=1), Y
def raises(): raise RuntimeError("no disk")
def objects(): return np.array([object()] * 60), Y
def weighed(): return (X[:40], Y[:40], np.ones(40)), (X[40:], Y[40:])
def without_test(): return (X[:40], Y[:40]), (X[40:], Y[40:]), None
def without_validation(): return (X[:40], Y[:40]), None, (X[40:], Y[40:])
def bunch():
    from sklearn.datasets import load_iris
    return load_iris()
def strings(): return np.array(["some text"] * 60, np.dtypes.StringDType()), Y
def bfloats():
    import ml_dtypes
    return X.astype(ml_dtypes.bfloat16), Y
def object_of_mine():
    import types
    return types.SimpleNamespace(x=X, y=Y)
def dates(): return np.arange(60).astype("datetime64[D]"), Y
def function(): return arrays
def four():
    from sklearn.model_selection import train_test_split
    return train_test_split(X, Y)
def without_columns(): return X[:, :0], Y
def masked(): return np.ma.masked_greater(X, 1), Y
def masked_parts(): return (np.ma.masked_greater(X[:40], 1), Y[:40]), (X[40:], Y[40:])
def masked_y(): return X, np.ma.masked_array(Y, np.arange(60) == 7)
def masked_weights(): return X, Y, np.ma.masked_array(np.ones(60), np.arange(60) == 7)
number = 3
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "own_data.py").write_text(PYTHON)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "shape", "task", "rows"),
    [
        ("arrays", (3,), "binary", (36, 9, 15)),
        ("lists", (3,), "binary", (36, 9, 15)),
        ("column", (3,), "binary", (36, 9, 15)),
        ("texts", (), "binary", (36, 9, 15)),
        ("pair", (3,), "binary", (32, 8, 20)),
        ("three", (3,), "binary", (30, 10, 20)),
        ("frame_and_target", (3,), "binary", (36, 9, 15)),
        ("frame_pair", (3,), "binary", (32, 8, 20)),
        ("numbered", (3,), "binary", (36, 9, 15)),
        ("named", {"left": (3,), "right": (1,)}, "binary", (36, 9, 15)),
        ("several", [(3,), (1,)], "binary", (36, 9, 15)),
        ("onehot", (3,), "multiclass", (36, 9, 15)),
        ("labels", (3,), "multilabel", (36, 9, 15)),
        ("wide", (3,), "regression", (36, 9, 15)),
        ("weighed", (3,), "binary", (32, 8, 20)),
        ("without_test", (3,), "binary", (30, 20, 10)),
        ("without_validation", (3,), "binary", (32, 8, 20)),
        ("bunch", (4,), "multiclass", (89, 23, 38)),
        ("strings", (), "binary", (36, 9, 15)),
        ("bfloats", (3,), "binary", (36, 9, 15)),
    ],
)
def test_a_function_may_return(functions: Path, name: str, shape: Any, task: str, rows: tuple[int, ...]) -> None:
    """A person would have to bend their data into the one form that is understood."""
    data = _load(functions, {"source": f"own_data.py:{name}"})
    assert data.input_shape == shape
    assert data.task == task
    assert (len(data.train), len(data.validation or ()), len(data.test)) == rows
    assert data.outputs == {"binary": 1, "multiclass": 3, "multilabel": 3, "regression": 2}[task]


@pytest.mark.parametrize("name", ["masked", "masked_parts"])
def test_masked_values_are_missing_values(functions: Path, name: str) -> None:
    """A model would learn what the person has masked out."""
    with pytest.raises(DataError, match=r"data: x has missing values in \d+ rows; fill them"):
        _load(functions, {"source": f"own_data.py:{name}"})


@pytest.mark.parametrize(("name", "rows"), [("frame", (36, 9, 15)), ("frames", (32, 8, 20))])
def test_a_function_may_return_tables(functions: Path, name: str, rows: tuple[int, ...]) -> None:
    """Whoever prepares a table in Python would have to write it to a file first."""
    data = _load(functions, {"source": f"own_data.py:{name}", "target": "y"})
    assert (len(data.train), len(data.validation or ()), len(data.test)) == rows
    assert [column.name for column in data.columns] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nothing", {}, "own_data.py:nothing returned NoneType; return"),
        ("number", {}, "is int; name a function"),
        ("arrys", {}, "own_data.py has no 'arrys'; did you mean 'arrays'"),
        ("ragged", {}, "x cannot be read as an array of numbers or texts, it is of the kind 'list'; rows must have"),
        ("object_of_mine", {}, "it is of the kind 'SimpleNamespace'"),
        ("dates", {}, "it is of the kind 'array of dates'"),
        ("function", {}, "own_data.py:function returned function; return"),
        ("four", {}, r"returned list of 4 values; .* return \(\(x_train, y_train\), \(x_test, y_test\)\)"),
        ("without_columns", {}, "data: the rows of x are empty"),
        ("masked_y", {}, "data.target: the target is missing in 1 row; fill"),
        ("masked_weights", {}, "sample_weight has missing, infinite or negative values"),
        ("objects", {}, "data: x cannot be read as an array"),
        ("no_target", {}, "there are no targets, but the built-in 'mlp' learns one; return"),
        ("shapes", {}, r"data: different numbers of rows: x has 60, y has 50"),
        ("pair_shapes", {}, "the given parts have different shapes"),
        ("loaders", {}, "Loader is an iterable that Keras does not take; make it a keras.utils.PyDataset"),
        ("named_loaders", {}, "Loader is an iterable that Keras does not take"),
        ("twins", {}, "two columns are named 'a'"),
        ("raises", {}, r"cannot be loaded \([\w.]+, line \d+, in raises: RuntimeError: no disk\)"),
        ("arrays", {"target": "y"}, "data.target: names columns, but the data are arrays"),
        ("arrays", {"options": {"n": 1}}, "data.options: arrays: got an unexpected keyword argument 'n'"),
        ("frame", {}, "data.target: missing; name the target column"),
        ("frame_and_target", {"target": "a"}, "data.target: the targets come beside the table already"),
        ("named", {"normalize": True}, "data.normalize: several inputs are not scaled for you"),
    ],
)
def test_what_a_function_may_not_return_is_told(
    functions: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    """A slip in the person's own function would end in a traceback of this package."""
    with pytest.raises(DataError, match=message):
        _load(functions, {"source": f"own_data.py:{name}", **changes})


def test_files_may_not_hide_modules_and_may_be_replaced(tmp_path: Path) -> None:
    """A file called `random.py` would break everything that needs random numbers."""
    (tmp_path / "random.py").write_text("def f(): return 1")
    with pytest.raises(ModelError, match="'random'; rename the file"):
        load_object("random.py:f", tmp_path, "model.build")
    (tmp_path / "numpy.py").write_text("def f(): return 1")
    with pytest.raises(ModelError, match="hide the module 'numpy'"):
        load_object("numpy.py:f", tmp_path, "model.build")
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "twice_loaded.py").write_text(f"def f(): return {number}")
        assert load_object("twice_loaded.py:f", folder, "model.build")() == number
    (tmp_path / "exits.py").write_text("import sys; sys.exit(3)")
    with pytest.raises(ModelError, match=r"exits.py cannot be imported \(exits.py, line 1: SystemExit: 3\)"):
        load_object("exits.py:f", tmp_path, "model.build")


# Digest


def test_the_digest_changes_with_any_value(tmp_path: Path) -> None:
    """Two trainings on different data would look the same in MLflow."""
    digests = []
    changes: list[tuple[int, str, Any]] = [
        (0, "income", 1.0),
        (7, "income", 123456789.000001),
        (79, "age", 91),
        (5, "city", "Rome"),
        (6, "member", None),
        (4, "when", "2030-01-01"),
        (9, "bought", None),
    ]
    for row, column, value in [(0, "income", None), *changes]:
        frame = _table().drop(columns="id")
        if value is not None or column != "income":
            frame[column] = frame[column].astype(object)
            other = {"yes": "no", "no": "yes"}.get(frame.loc[row, column], not frame.loc[row, column])
            frame.loc[row, column] = other if value is None else value
        frame.to_csv(tmp_path / "t.csv", index=False)
        digests.append(_load(tmp_path, {"source": "csv:t.csv", "target": "bought", "time": "when"}).digest)
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 8 for digest in digests)


def test_the_digest_covers_a_test_part_of_its_own(tmp_path: Path) -> None:
    """A changed test part would go unnoticed, and its scores be compared with others."""
    x, y = np.arange(20.0)[:, None], np.arange(20) % 2
    digests = set()
    for changed in (None, 0, 19):
        values = x.copy()
        if changed is not None:
            values[changed] = -1
        np.savez(tmp_path / "s.npz", x_train=values[:10], y_train=y[:10], x_test=values[10:], y_test=y[10:])
        digests.add(_load(tmp_path, {"source": "npz:s.npz"}).digest)
    assert len(digests) == 3


# Streams

STREAMS = """
import keras, numpy as np, tensorflow as tf
X = np.arange(160, dtype="float32").reshape(80, 2); Y = np.arange(80) % 4
def dataset(): return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
def pair(): return dataset(), dataset()
def endless(): return dataset().repeat()
def shuffled(): return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(80).batch(8)
def alone(): return {"train": shuffled()}
def drawn():
    x = np.random.rand(80, 2).astype("float32")
    noisy = tf.data.Dataset.from_tensor_slices((x, Y)).map(lambda x, y: (x + tf.random.uniform((2,)), y)).batch(8)
    return {"train": noisy, "validation": dataset(), "test": dataset()}
def inputs_only(): return tf.data.Dataset.from_tensor_slices(X).batch(8)
def beside(): return dataset(), X
class Sequence(keras.utils.PyDataset):
    read = []
    def __len__(self): return 10
    def __getitem__(self, i):
        self.read.append(i)
        return X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]
    def on_epoch_end(self): raise AssertionError("would mix the parts")
def sequence(): return Sequence()
"""


@pytest.fixture
def streams(tmp_path: Path) -> Path:
    (tmp_path / "own_streams.py").write_text(STREAMS)
    return tmp_path


def _seen(stream: Any) -> list[float]:
    batches = stream if isinstance(stream, tf.data.Dataset) else (stream[i] for i in range(len(stream)))
    return [float(value) for x, _ in batches for value in np.asarray(x)[:, 0]]


@pytest.mark.parametrize("name", ["dataset", "sequence"])
def test_a_stream_is_cut_without_being_read(streams: Path, name: str) -> None:
    """Data larger than memory would fill it, or rows of the test part be trained on."""
    data = _load(streams, {"source": f"own_streams.py:{name}", "test_size": 0.2, "validation_size": 0.25})
    assert data.train.streamed
    assert (len(data.train), data.y) == (0, None)
    assert (data.task, data.classes, data.input_shape, data.outputs) == ("multiclass", (0, 1, 2, 3), (2,), 4)
    parts = [_seen(part.x) for part in (data.train, data.validation, data.test) if part is not None]
    assert [len(part) for part in parts] == [48, 16, 16]
    assert len({value for part in parts for value in part}) == 80
    with pytest.raises(TypeError, match="a stream has no rows"):
        data.train.take([0])


@pytest.mark.parametrize("name", ["dataset", "sequence"])
def test_a_stream_trains_a_keras_model(streams: Path, name: str) -> None:
    """What was cut would not be anything that `fit` takes."""
    data = _load(streams, {"source": f"own_streams.py:{name}", "test_size": 0.2})
    inputs, prepared = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(data.outputs, activation="softmax")(prepared))
    model.compile(loss="sparse_categorical_crossentropy")
    assert data.validation is not None
    history = model.fit(data.train.x, validation_data=data.validation.x, epochs=2, shuffle=False, verbose=0)
    assert len(history.history["val_loss"]) == 2


def test_what_a_data_function_draws_is_the_same_in_every_worker(streams: Path) -> None:
    """Workers would train on different rows, and the next search of the study be refused."""
    drawn = [_load(streams, {"source": "own_streams.py:drawn", "task": "regression"}) for _ in range(2)]
    assert drawn[0].digest == drawn[1].digest
    one, other = (_seen(each.train.x) for each in drawn)
    assert one == other


def test_streams_that_are_given_stay_as_they_are(streams: Path) -> None:
    """The person's own test part would be replaced by another."""
    data = _load(streams, {"source": "own_streams.py:pair", "task": "multiclass"})
    assert _seen(data.test.x) == [float(2 * i) for i in range(80)]


def test_a_training_stream_may_stand_alone_where_nothing_asks_for_a_validation_part(streams: Path) -> None:
    """Contrastive and generative training, which has no validation part, would be refused."""
    settings = {**SETTINGS, "data.source": "own_streams.py:alone", "data.task": "multiclass"}
    data = load(definition({**settings, "metric": "loss"}, folder=streams))
    assert (data.validation, data.test) == (None, None)
    assert data.doubts[0].startswith(
        "there is no validation part, and the stream cannot be cut: trials are compared by"
    )
    for asked in ({}, {"metric": "loss", "search.constraints": ["val_loss <= 1"]}):
        with pytest.raises(DataError, match=r"data\.validation_size: the stream gives its batches in another order"):
            load(definition({**settings, **asked}, folder=streams))
    stopped = {**settings, "metric": "loss", "fit.early_stopping": {"patience": 1}}
    with pytest.raises(DataError, match=r"data\.validation_size"):
        load(definition(stopped, folder=streams))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("endless", {}, "a stream of unknown many batches cannot be cut"),
        ("shuffled", {}, "data.test_size: the stream gives its batches in another order in each pass, so its parts"),
        ("inputs_only", {}, "there are no targets, but the built-in 'mlp' learns one"),
        ("beside", {}, "streams beside other values"),
        ("dataset", {"folds": 3}, "data.folds: streams yield batches as they are; leave it out"),
        ("dataset", {"normalize": True}, "data.normalize: streams yield batches as they are"),
        ("dataset", {"test_size": 0.95}, "data.test_size: a stream of 10 batches cannot be cut"),
    ],
)
def test_a_stream_that_cannot_be_used_is_told(streams: Path, name: str, changes: dict[str, Any], message: str) -> None:
    """The test part would leak into training without a word."""
    with pytest.raises(DataError, match=message):
        _load(streams, {"source": f"own_streams.py:{name}", **changes})
