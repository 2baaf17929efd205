"""Whatever `model.fit` takes is data of a study, and the user's own model gets it as it is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from search.data.dataset import Data
from search.data.facts import facts
from search.data.loading import TrialData, load
from search.data.targets import numbers_as_text
from search.errors import DataError
from search.studyfile.objects import Objects, provide
from search.studyfile.schema import Definition
from tests.studyfiles import definition

MODULE = """
import numpy as np, pandas as pd
G = np.random.default_rng(0)
X = G.normal(size=(60, 3))
Y = G.integers(0, 2, 60)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
def alone(): return X
def none(): return X, None
def onehot(): return X, np.eye(2)[Y]
def column(): return X, (2 * Y - 1)[:, None]
def weighted(): return X, Y, G.random(60)
def weighted_parts(): return (X[:40], Y[:40], np.ones(40)), (X[40:], Y[40:], np.ones(20))
def dictionaries(): return {"a": X, "b": X[:, :1]}, {"u": Y, "v": X[:, 0]}, {"u": np.ones(60), "v": np.ones(60)}
def lists(): return [X, X[:, :1]], [Y, X[:, 0]]
def tuples(): return (X, X[:, :1]), Y
def named(): return {"train": (X[:30], Y[:30]), "validation": (X[30:], Y[30:])}
def named_inputs(): return {"train": X[:40], "test": X[40:]}
def only_train(): return {"train": (X, Y)}
def no_train(): return {"test": (X, Y), "validation": (X, Y)}
def texts(): return ["a text of its own %d" % i for i in range(60)], ["yes" if y else "no" for y in Y]
def series(): return pd.Series(["a", "b"] * 30), Y
def masks(): return X, np.zeros((60, 4, 4), "uint8")
def frame(): return FRAME, None
def scores(): return X, np.array([1, 2, 3] * 20)
def tags(): return X, [["a", "b"] if y else ["a"] for y in Y]
def levels(): return pd.concat({"one": FRAME, "two": FRAME}, axis=1), Y
def negative(): return X, Y, Y - 0.5
def commas(): return FRAME.assign(price=["1.%03d,50" % i for i in range(60)])
def two_arrays(): return X[:40], X[40:]
CALLS = []
def window(window, scale=1.0):
    CALLS.append(window)
    values = np.sin(np.arange(100)) * scale
    return np.stack([values[i : i + window] for i in range(100 - window)]), values[window:]
def by_trial(trial): return window(trial.suggest_int("lag", 2, 5) + int(trial.params["dropout"]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kinds_of_data.py").write_text(MODULE)
    (tmp_path / "own_model.py").write_text("def build(trial, data): ...")
    return tmp_path


def study(folder: Path, name: str, build: str = "own_model.py:build", **changes: Any) -> Definition:
    settings = {"data.options": {}, "data.source": f"kinds_of_data.py:{name}", "model.build": build}
    return definition({**settings, **{f"data.{key}": value for key, value in changes.items()}}, folder=folder)


def loaded(folder: Path, name: str, **changes: Any) -> Data:
    return load(study(folder, name, **changes))


def test_a_study_may_have_no_targets(folder: Path) -> None:
    """An autoencoder, or a model with a training step of its own, could not be a study."""
    for name in ("alone", "none", "frame"):
        data = loaded(folder, name)
        assert (data.task, data.y, data.classes) == ("none", None, ())
        assert [len(part) for part in (data.train, data.validation, data.test) if part] == [33, 9, 18]
    with pytest.raises(DataError, match=r"there are no targets, but the built-in 'mlp' learns one; return \(x, y\)"):
        loaded(folder, "alone", build="mlp")


def test_targets_keep_their_shape_and_values(folder: Path) -> None:
    """One-hot targets would become indices, and `categorical_crossentropy` fail in every trial."""
    onehot, column, masks = (loaded(folder, name) for name in ("onehot", "column", "masks"))
    assert (onehot.task, onehot.y.shape[1:], onehot.y.dtype) == ("multiclass", (2,), np.dtype("float64"))
    assert (column.task, column.y.shape[1:], sorted(set(column.y.ravel().tolist()))) == ("binary", (1,), [-1, 1])
    assert column.class_indices(column.train).tolist() == [int(each > 0) for each in column.y.ravel()]
    assert (masks.task, masks.y.shape[1:], masks.y.dtype) == ("regression", (4, 4), np.dtype("uint8"))
    assert loaded(folder, "scores").classes == (0, 1, 2, 3)  # a class's number is its place among the outputs
    assert loaded(folder, "scores", build="mlp").classes == (1, 2, 3)
    assert loaded(folder, "onehot", build="mlp").y.ndim == 1


def test_text_labels_become_indices(folder: Path) -> None:
    """A loss cannot be computed of text."""
    data = loaded(folder, "texts")
    assert (data.task, data.classes) == ("binary", ("no", "yes"))
    assert set(data.y.tolist()) == {0.0, 1.0}
    assert data.x.dtype == object
    assert data.x[0].startswith("a text of its own")
    assert loaded(folder, "series").input_shape == ()


def test_several_inputs_and_targets_stay_together(folder: Path) -> None:
    """Rows of one target would be given to inputs of another."""
    data = loaded(folder, "dictionaries")
    assert (data.task, data.input_shape) == ("several", {"a": (3,), "b": (1,)})
    assert np.array_equal(data.y["v"], data.x["a"][:, 0])
    assert {name: each.shape for name, each in data.train.sample_weight.items()} == {"u": (33,), "v": (33,)}
    data = loaded(folder, "lists")
    assert np.array_equal(data.y[1], data.x[0][:, 0])
    assert (data.task, loaded(folder, "tuples").task) == ("several", "binary")


def test_weights_follow_their_rows(folder: Path) -> None:
    """Each row would count as another does."""
    data = loaded(folder, "weighted", stratify=False)
    parts = (data.train, data.validation, data.test)
    assert [part.sample_weight.shape for part in parts if part] == [(len(part),) for part in parts if part]
    whole = loaded(folder, "weighted_parts")
    assert whole.test is not None
    assert (len(whole.test), whole.test.sample_weight.tolist()) == (20, [1.0] * 20)
    with pytest.raises(DataError, match="sample_weight has missing, infinite or negative values"):
        loaded(folder, "negative")


def test_a_column_of_a_table_may_be_the_weight(tmp_path: Path) -> None:
    """The weight would be learned from."""
    frame = pd.DataFrame({"a": range(50), "w": np.linspace(0.1, 5.0, 50), "y": [0, 1] * 25})
    frame.to_csv(tmp_path / "t.csv", index=False)
    changes = {"data.source": "csv:t.csv", "data.options": {}, "data.target": "y", "data.sample_weight": "w"}
    data = load(definition(changes, folder=tmp_path))
    assert [column.name for column in data.columns] == ["a"]
    assert data.train.sample_weight == pytest.approx(0.1 + 0.1 * data.x[:, 0])
    with pytest.raises(DataError, match=r"data.sample_weight: no column 'weight' in csv:t.csv \(it has a, w, y\)"):
        load(definition({**changes, "data.sample_weight": "weight"}, folder=tmp_path))


def test_parts_have_names(folder: Path) -> None:
    """Validation data would be taken for the test part, which nobody may choose by."""
    data = loaded(folder, "named")
    assert (data.given, len(data.validation or ()), len(data.train) + len(data.test or ())) == (
        ("train", "validation"),
        30,
        30,
    )
    assert np.array_equal(data.validation.y, loaded(folder, "named").validation.y)  # type: ignore[union-attr]
    assert len(loaded(folder, "named_inputs").test or ()) == 20
    assert loaded(folder, "only_train").given == ("train",)
    with pytest.raises(DataError, match=r'kinds_of_data.py:no_train returned parts without "train"'):
        loaded(folder, "no_train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tags", r"data.target: the targets are lists of different lengths; .*MultiLabelBinarizer"),
        ("levels", r"the columns have several levels, such as \(one, a\); give each one name"),
        ("two_arrays", r"different numbers of rows: x has 40, y has 20; give parts without targets by name"),
    ],
)
def test_what_cannot_be_learned_is_one_line(folder: Path, name: str, message: str) -> None:
    """The person would read a traceback, and "a defect"."""
    with pytest.raises(DataError, match=message):
        loaded(folder, name)


# Data that depend on the trial


def asked(trial_study: optuna.Study, wanted: Definition, **params: Any) -> optuna.Trial:
    from search.study import space

    trial_study.enqueue_trial(params)
    return trial_study.ask(space.distributions(wanted))


def test_a_function_of_parameters_is_called_once_for_each_value(folder: Path) -> None:
    """A window's length could not be searched; or each trial would load what another has loaded."""
    wanted = study(folder, "window")
    wanted = wanted.model_copy(update={"space": {**wanted.space, "window": wanted.space["epochs"]}})
    data, trials = TrialData(wanted), optuna.create_study()
    found = [data.of(asked(trials, wanted, epochs=1, batch_size=16, dropout=0.0, window=each)) for each in (3, 2, 3)]
    assert [each.input_shape for each in found] == [(3,), (2,), (3,)]
    assert found[0] is found[2]
    assert data.same is None


def test_the_held_out_rows_are_the_same_in_every_trial(folder: Path) -> None:
    """A row would train one trial and test another: no test score could be compared."""
    wanted = study(folder, "by_trial")
    data, trials = TrialData(wanted), optuna.create_study()
    test = {}
    for lag in (2, 5):
        trial = asked(trials, wanted, epochs=1, batch_size=16, dropout=0.0, lag=lag)
        test[lag] = set(np.round(data.of(trial).test.y, 9))  # type: ignore[union-attr]
        assert data.of(trial) is data.of(trial)
        assert trial.params["lag"] == lag
    assert len(test[5]) > 20
    assert test[5] <= test[2]


def test_what_a_configuration_changes_is_no_other_data(folder: Path) -> None:
    """A second search of the study would be refused: its first trial has another window."""
    wanted = study(folder, "window")
    wanted = wanted.model_copy(update={"space": {**wanted.space, "window": wanted.space["epochs"]}})
    trials = [SimpleNamespace(params={"window": window}) for window in (1, 1)]
    assert len({load(wanted, trial).digest for trial in trials}) == 1


# What is said before training


def test_the_data_are_told_in_a_line(folder: Path) -> None:
    """Nobody would see that rows are missing, or another task is learned."""
    said = facts(loaded(folder, "weighted", build="mlp"))
    assert said.startswith("60 rows (33 training, 9 validation, 18 test); inputs of shape (3,); task binary with 2 ")


def test_columns_that_look_wrong_are_told_with_their_mend(tmp_path: Path) -> None:
    """Ids, dates and a saved index would be learned as categories, without a word."""
    rows = 60
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "customer": [f"c{index:03d}" for index in range(rows)],
            "number": range(1000, 1000 + rows),
            "ordered": pd.date_range("2024-01-01", periods=rows).strftime("%d.%m.%Y"),
            "price": [f"1.{index:03d},50" for index in range(rows)],
            "bought": draw.choice(["yes", "no"], rows),
            "age": draw.integers(20, 60, rows),
            "city": draw.choice(["Rome", "Oslo"], rows),
        }
    )
    frame["paid"] = frame["bought"] == "yes"
    frame.to_csv(tmp_path / "t.csv")
    changes = {"data.source": "csv:t.csv", "data.options": {}, "data.target": "bought"}
    told = {each.split("'")[1]: each for each in load(definition(changes, folder=tmp_path)).doubts}
    assert set(told) == {"Unnamed: 0", "customer", "number", "ordered", "price", "paid"}
    assert "index_col = 0" in told["Unnamed: 0"]
    assert 'looks like an id; use drop = ["customer"]' in told["customer"]
    assert 'use time = "ordered" to split by it, or drop' in told["ordered"]
    assert """'1.000,50'; give numbers: for csv say in options how they are written""" in told["price"]
    assert "alone predicts the target" in told["paid"]
    with pytest.raises(DataError, match=r"data.target: the target 'price' holds numbers as texts, such as"):
        load(definition({**changes, "data.target": "price"}, folder=tmp_path))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_heavy_tailed_target_is_told_in_every_unit(tmp_path: Path, scale: float) -> None:
    """The squared error would be that of the few largest rows, without a word."""
    draw = np.random.default_rng(0)
    tails = {"heavy": np.exp(1.5 * draw.normal(size=200)), "light": 5 + draw.normal(size=200)}
    for name, target in tails.items():
        pd.DataFrame({"x": draw.normal(size=200), "y": target * scale}).to_csv(tmp_path / f"{name}.csv", index=False)
        changes = {"data.source": f"csv:{name}.csv", "data.options": {}, "data.target": "y"}
        told = [each for each in load(definition(changes, folder=tmp_path)).doubts if "heavy-tailed" in each]
        assert len(told) == (name == "heavy")
        assert all('metric = "val_mae", or give its logarithm' in each for each in told)


def test_dates_ids_and_copies_of_the_target_are_told_in_any_form(tmp_path: Path) -> None:
    """Only dates of one form, ids without a gap and exact copies would be told; a file has others."""
    rows, draw = 120, np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=rows)[draw.integers(0, 40, rows)]
    price, some = draw.normal(size=rows) + 9, draw.random(rows) < 0.1
    forms = ("%b %d, %Y", "%d %B %Y", "%d-%b-%y", "%G-W%V", "%Y-%m", "%Y-%m-%dT%H:%M:%S+02:00", "%m/%d/%Y %H:%M")
    frame = pd.DataFrame({form: days.strftime(form) for form in forms})
    frame["number"] = np.where(some, np.nan, np.arange(1000.0, 1000 + rows))
    frame["day"] = days.strftime("%Y%m%d").astype(int)
    frame = frame.assign(
        copy=np.where(some, np.nan, price), logarithm=np.log(price), near=price + draw.normal(size=rows)
    )
    frame = frame.assign(month=days.strftime("%b"), size=draw.integers(0, 90, rows), price=price)
    frame.to_csv(tmp_path / "t.csv", index=False)
    changes = {"data.source": "csv:t.csv", "data.options": {}, "data.target": "price"}
    told = {each.split("'")[1]: each for each in load(definition(changes, folder=tmp_path)).doubts}
    assert set(told) == {*forms, "number", "day", "copy", "logarithm"}
    assert all("holds dates, such as" in told[form] for form in forms)
    assert "looks like an id" in told["number"]
    assert "holds days as whole numbers" in told["day"]
    assert "correlation of ranks 1.000000" in told["logarithm"]


@pytest.mark.parametrize(
    ("texts", "example"),
    [
        (["1,234", "12", "3,456.7"], "1,234"),
        (["1.234,5", "3,1"], "1.234,5"),
        ([f"{i}.5%" for i in range(30)], "0.5%"),
        ([f"$1,{i:03d}.50" for i in range(30)], "$1,000.50"),
        ([f"{i} kg" for i in range(30)], "0 kg"),
        ([*map(str, range(30)), "?", "-"], '0\'; .*na_values = ["-", "?"]'),
        ([str(i) for i in range(30)], "0"),
        (["5%", "10%"] * 20, ""),
        ([f"C{i:05d}" for i in range(30)], ""),
        ([f"192.168.0.{i}" for i in range(30)], ""),
        ([f"2024-01-{i:02d}" for i in range(1, 30)], ""),
        ([f"{i}:30" for i in range(1, 30)], ""),
        ([f"{i}a" for i in range(30)], ""),
        ([f"{i} 000,50" for i in range(1, 30)], "1 000,50"),
        ([f"{i}\u202f000" for i in range(1, 30)], "1\u202f000"),
        ([f"{i}'000.50" for i in range(1, 30)], "1'000.50"),
        ([*(f"{i},5" for i in range(9)), "-"], "0,5"),
        ([f"EUR {i}.50" for i in range(30)], "EUR 0.50"),
        ([f"{i}kg" for i in range(30)], "0kg"),
        ([f"{i} km/h" for i in range(30)], "0 km/h"),
        ([f"< {i}" for i in range(30)], "< 0"),
        ([f"{i}{['st', 'nd', 'rd', 'th'][min(i, 3)]}" for i in range(30)], ""),
        ([f"+49 30 {i:06d}" for i in range(30)], ""),
    ],
)
def test_numbers_written_as_texts_are_told_from_texts(texts: list[str], example: str) -> None:
    """Prices and shares would be learned as categories."""
    found = numbers_as_text(texts)
    pattern = re.escape(f"such as '{example}").replace(r"\.\*", ".*")
    assert re.search(pattern, found) if example else found == ""


def test_what_is_refused_in_python_is_told_in_its_words() -> None:
    """A person who wrote no study file would be told to write `drop = ["Dauer"]` in its table [data]."""
    frame = pd.DataFrame({"Dauer": pd.to_timedelta(np.arange(30), "h"), "nr": np.arange(30), "y": np.arange(30) % 2})

    def given(data: Any, **settings: Any) -> Definition:
        objects = Objects()
        changes = {"data.source": objects.refer_to_data(data), "data.options": None}
        provide(objects.pickled())
        return definition(changes | {f"data.{key}": value for key, value in settings.items()})

    with pytest.raises(
        DataError, match=r'column .Dauer. holds durations, which cannot be learned; use drop=\["Dauer"\]$'
    ):
        load(given(frame, target="y"))
    with pytest.raises(DataError, match=r"^target: no column 'z' in data \(it has Dauer, nr, y\)"):
        load(given(frame, target="z"))
    with pytest.raises(DataError, match=r"^target: missing; name the target column"):
        load(given(frame))
    (told,) = load(given(frame, target="y", drop=["Dauer"])).doubts
    assert told.endswith('use drop=["nr"]')
    with pytest.raises(DataError, match=r"^data: different numbers of rows: x has 30, y has 20"):
        load(given((np.zeros((30, 2)), np.arange(20) % 2)))
