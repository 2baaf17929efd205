"""Registered models where they are used: several versions in one process, raw rows of every kind, other machines."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import scoring_server

from search import serving
from search.data.preprocessing import Column, to_arrays
from search.data.summary import DataSummary, TensorSpec
from search.serving.meaning import Meaning
from search.studyfile.load import load_definition
from search.tracking import logged_model
from search.tracking.user_code import collect
from tests.conftest import Searcher, command

# Keras 3.15 converts TensorFlow variables the way NumPy 1 liked.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

DECODED_CODE = """
import keras
import numpy as np


def rows():
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    return x, x


def build(trial, data):
    inputs, code = keras.Input((2,)), keras.Input((trial.params["latent"],))
    decoder = keras.Model(code, keras.layers.Dense(2)(code), name="decoder")
    model = keras.Model(inputs, decoder(keras.layers.Dense(trial.params["latent"])(inputs)))
    model.compile("sgd", "mse")
    return model


def fit(trial, model, data, epochs):
    return 1 / trial.params["latent"]


def decoder(model, data):
    return model.get_layer("decoder")
"""
DECODED = """
name = "decoded"
metric = "val_loss"
direction = "minimize"
[data]
source = "decoded.py:rows"
[model]
build = "decoded.py:build"
export = "decoded.py:decoder"
[fit]
function = "decoded.py:fit"
epochs = 1
[space]
latent = { type = "categorical", choices = [2, 5] }
[[enqueue]]
latent = 2
[[enqueue]]
latent = 5
"""


def test_a_model_whose_inputs_depend_on_a_parameter_is_served(folder: Path, run_search: Searcher) -> None:
    """The version would have the signature of the first configuration, and no input of the model's own would work."""
    (folder / "decoded.py").write_text(DECODED_CODE)
    (folder / "decoded.toml").write_text(DECODED)
    outcome = run_search(load_definition(folder / "decoded.toml"), n_trials=2)
    assert outcome.best.params["latent"] == 5
    assert outcome.model is not None
    model = mlflow.pyfunc.load_model(outcome.model.uri)
    schema = model.metadata.get_input_schema()

    def answer(rows: int, columns: int) -> Any:  # what `mlflow models serve` does with a request
        body = json.dumps({"inputs": np.ones((rows, columns)).tolist()})
        return scoring_server.invocations(body, "application/json", model, schema)

    good = answer(3, 5)
    assert good.status == 200, good.response
    assert np.shape(json.loads(good.response)["predictions"]) == (3, 2)
    with pytest.raises(mlflow.MlflowException, match="compatible with the model"):
        answer(3, 2)


LAYER = """
import keras
from parts.scale import {how}

@keras.saving.register_keras_serializable()
class Twice(keras.layers.Layer):
    def call(self, x):
        import importlib
        from numbers_of import FACTOR
        return scaled(x) * FACTOR + importlib.import_module("parts.more").NONE
"""


def summary(**fields: Any) -> DataSummary:
    """Return what is known of a model of two numbers, but for these fields."""
    known: dict[str, Any] = {
        "name": "rows",
        "source": "rows",
        "digest": "0" * 8,
        "task": "regression",
        "classes": (),
        "rows": {},
        "columns": (),
        "inputs": (TensorSpec("float32", (-1, 2)),),
        "example": np.zeros((3, 2), "float32"),
        "output": (TensorSpec("float32", (-1, 1)),),
        "log_names": (),
        "path": "",
        "seconds": 0.0,
    }
    return DataSummary(**(known | fields))


def save(model: Any, folder: Path, data: DataSummary, files: tuple[Path, ...] = ()) -> str:
    """Write a model as a trial's is, and return where."""
    model.save(folder.with_suffix(".keras"))
    logged_model.save_model(
        str(folder),
        mlflow.models.Model(),
        folder.with_suffix(".keras").read_bytes(),
        data,
        collect(files),
        "tensorflow",
    )
    return str(folder)


def version(folder: Path, factor: int) -> str:
    """Save a model whose layer, in the user's own modules, multiplies by a factor."""
    code = folder / f"code{factor}"
    (code / "parts").mkdir(parents=True)
    (code / "parts" / "__init__.py").write_text("")
    (code / "parts" / "scale.py").write_text("from .deep import scaled\n")
    (code / "parts" / "deep.py").write_text("def scaled(x):\n    return x\n")
    (code / "parts" / "more.py").write_text("NONE = 0.0\n")
    (code / "numbers_of.py").write_text(f"FACTOR = {factor}.0\n")
    (code / "mine.py").write_text(LAYER.format(how="scaled"))
    before = dict(keras.saving.get_custom_objects())
    _forget_modules()  # other tests' modules have these names, too
    sys.path.insert(0, str(code))
    try:
        model = keras.Sequential([keras.Input((2,)), __import__("mine").Twice()])
        place = save(model, folder / f"version{factor}", summary(), (code / "mine.py",))
    finally:
        sys.path.remove(str(code))
        _forget_modules()
        keras.saving.get_custom_objects().clear()
        keras.saving.get_custom_objects().update(before)
    return place


def _forget_modules() -> None:
    for name in ("mine", "parts", "parts.scale", "parts.deep", "parts.more", "numbers_of"):
        sys.modules.pop(name, None)


def test_two_versions_in_one_process_keep_their_own_layers(tmp_path: Path) -> None:
    """A service that compares two versions would get version 1's predictions from version 2."""
    places = [version(tmp_path, 2), version(tmp_path, 100)]
    first, second = (mlflow.pyfunc.load_model(place) for place in places)
    assert first.predict([[1.0, 3.0]]).tolist() == [[2.0, 6.0]]
    assert second.predict([[1.0, 3.0]]).tolist() == [[100.0, 300.0]]
    again = mlflow.pyfunc.load_model(places[0])
    assert again.predict([[1.0, 3.0]]).tolist() == [[2.0, 6.0]]
    assert "Custom>Twice" not in keras.saving.get_custom_objects()
    with pytest.raises(TypeError, match="Could not locate class 'Twice'"):  # rather than with another version's layer
        mlflow.keras.load_model(places[1])


def test_a_version_outlives_the_folder_that_an_equal_one_was_loaded_from(tmp_path: Path) -> None:
    """A service that loads into temporary folders would fail at the first import that comes late."""
    place = Path(version(tmp_path, 3))
    shutil.copytree(place, tmp_path / "gone")
    loaded = serving.load_keras(tmp_path / "gone")  # `call` imports late, when it is traced
    shutil.rmtree(tmp_path / "gone")
    package = type(loaded.layers[-1]).__module__.partition(".")[0]
    for late in ("numbers_of", "parts.more"):
        sys.modules.pop(f"{package}.{late}", None)
    again = mlflow.pyfunc.load_model(str(place))
    assert again.predict([[1.0, 3.0]]).tolist() == [[3.0, 9.0]]


def test_what_the_model_imports_travels(tmp_path: Path) -> None:
    """A model that loads in the folder of the study would load nowhere else."""
    place = version(tmp_path, 7)
    script = f"import mlflow; print(mlflow.pyfunc.load_model({place!r}).predict([[1.0, 2.0]]).tolist())"
    (tmp_path / "elsewhere").mkdir()
    done = command("-c", script, cwd=tmp_path / "elsewhere")
    assert done.stdout.strip() == "[[7.0, 14.0]]", done.stderr


def test_a_package_that_the_user_imports_is_pinned_and_data_stay_behind(tmp_path: Path) -> None:
    """The model's environment would lack a package, or its code would read a CSV that is not there."""
    (tmp_path / "build.py").write_text("import keras\nimport yaml\nfrom layers import A\n")
    (tmp_path / "layers.py").write_text("A = 1\n")
    (tmp_path / "load.py").write_text("import pandas as pd\nTABLE = pd.read_csv('rows.csv')\n")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    folder = Path(save(model, tmp_path / "model", summary(), (tmp_path / "build.py",)))
    assert {file.name for file in (folder / serving.CODE).rglob("*.py")} == {"build.py", "layers.py"}
    assert any(line.startswith("PyYAML==") for line in (folder / "requirements.txt").read_text().splitlines())


COLUMNS = (("age", "long"), ("member", "boolean"), ("city", "string"), ("size", "double"))


@pytest.fixture(scope="module")
def table_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of four columns; `member` had gaps in training."""
    numeric, text = keras.Input((3,), name="numeric"), keras.Input((1,), name="categorical", dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["Bern", "Kiel"], output_mode="one_hot")(text)
    out = keras.layers.Concatenate()([keras.ops.nan_to_num(numeric, nan=-1.0), lookup])
    model = keras.Model({"numeric": numeric, "categorical": text}, out)
    example = {"age": [1], "member": [True], "city": ["Bern"], "size": [0.5]}
    data = summary(columns=COLUMNS, optional=("member",), example=example, output=(TensorSpec("float32", (-1, 6)),))
    return mlflow.pyfunc.load_model(save(model, tmp_path_factory.mktemp("table") / "model", data))


@pytest.mark.parametrize(
    "change",
    [
        {"age": pd.array([3, 4], dtype="Int64")},
        {"age": np.array([3.0, 4.0])},
        {"age": pd.Categorical([3, 4])},
        {"age": ["3", "4"]},
        {"member": pd.array([True, False], dtype="boolean")},
        {"member": ["true", "False"]},
        {"member": np.array([1, 0])},
        {"city": pd.Categorical(["Kiel", "Bern"])},
        {"city": pd.array(["Kiel", "Bern"], dtype="string")},
        {"size": np.array([1, 2])},
    ],
    ids=lambda change: f"{next(iter(change))}-{getattr(next(iter(change.values())), 'dtype', 'list')}",
)
def test_kinds_are_converted_where_nothing_is_lost(table_model: Any, change: dict[str, Any]) -> None:
    """The very frame that was trained on would be refused."""
    plain = {"age": [3, 4], "member": [True, False], "city": ["Kiel", "Bern"], "size": [1.0, 2.0]}
    expected = table_model.predict(pd.DataFrame(plain))
    np.testing.assert_array_equal(table_model.predict(pd.DataFrame(plain | change)), expected)


def test_a_missing_or_misspelt_column_is_named(table_model: Any) -> None:
    """Every prediction would silently be that of an average row."""
    row = pd.DataFrame({"age": [3], "member": [True], "city": ["Kiel"], "size": [1.0]})
    with pytest.raises(ValueError, match=r"column 'city' is missing.*is it 'citty', misspelt\?"):
        table_model.predict(row.rename(columns={"city": "citty"}))
    with pytest.raises(ValueError, match="column 'age' and 1 more is missing"):
        table_model.predict(row[["member", "city"]])
    assert table_model.predict(row.drop(columns="member"))[0, 1] == -1, "its values were missing in training, too"
    with pytest.raises(ValueError, match="column 'size' holds 'wide'"):
        table_model.predict(row.assign(size="wide"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"age": [np.nan, None]}, "column 'age' has no value in any row; the model was trained with it"),
        ({"age": None, "city": None}, "column 'age' and 1 more has no value in any row"),
        ({"age": [1.0, np.inf]}, "column 'age' holds inf; the model was trained with finite numbers"),
        ({"size": [1e39, 1.0]}, r"column 'size' holds 1e\+39; .* finite numbers"),
        ({"size": [1 + 2j, 1.0]}, r"column 'size' holds \(1\+2j\)"),
        ({"member": [2, 0]}, "column 'member' holds 2; the model was trained with true or false"),
        ({"member": [0.7, 0]}, "column 'member' holds 0.7"),
        ({"member": ["2", "no"]}, "column 'member' holds 2"),
        ({"size": pd.to_datetime(["2024-01-01", "2024-01-02"])}, "column 'size' holds Timestamp"),
    ],
)
def test_a_value_that_cannot_be_one_is_named(table_model: Any, change: dict[str, Any], told: str) -> None:
    """A column that a pipeline filled with nothing would be predicted as the mean, and 2 as very true."""
    plain = {"age": [3, 4], "member": [True, False], "city": ["Kiel", "Bern"], "size": [1.0, 2.0]}
    with pytest.raises(ValueError, match=told):
        table_model.predict(pd.DataFrame(plain | change))


def test_rows_come_in_any_form_of_a_table(table_model: Any) -> None:
    """A service that sends one row would read an error of pandas's, or predict from a column given twice."""
    frame = pd.DataFrame({"age": [3, 4], "member": [True, False], "city": ["Kiel", "Bern"], "size": [1.0, 2.0]})
    expected = table_model.predict(frame)
    for one in (frame.iloc[0], frame.iloc[0].to_dict(), frame.iloc[:1][["size", "city", "age", "member"]].assign(z=1)):
        np.testing.assert_array_equal(table_model.predict(one), expected[:1])
    with pytest.raises(ValueError, match="column 'age' is given twice"):
        table_model.predict(pd.concat([frame, frame[["age"]]], axis=1))
    with pytest.raises(ValueError, match=r"takes columns by name \(age, member, city, size\); give a data frame"):
        table_model.predict(frame.to_numpy())
    with pytest.raises(ValueError, match="no rows are given"):
        table_model.predict(frame.iloc[:0])


def test_a_category_that_is_a_number_is_spelt_alike_in_training_and_serving() -> None:
    """A zone 1 would be unknown where a gap in the column makes pandas keep it as 1.0."""
    columns = (Column("zone", "string"),)
    given = [[1, 2], [1.0, 2.0], pd.Categorical([1, 2]), pd.Categorical([1.0, 2.0]), np.array([1, 2.0], object)]
    predictor = serving.Predictor(None, {"columns": [("zone", "string")]})
    for values in given:
        frame = pd.DataFrame({"zone": values})
        arrays = to_arrays(frame, columns)
        assert isinstance(arrays, dict)
        assert arrays["categorical"][:, 0].tolist() == ["1", "2"]
        assert predictor.arrays(frame)["categorical"][:, 0].tolist() == ["1", "2"]
    frame = pd.DataFrame({"zone": [1.5, None, "a", 10**20, True]}, dtype=object)
    assert predictor.arrays(frame)["categorical"][:, 0].tolist() == ["1.5", "", "a", str(10**20), "True"]


def test_several_outputs_text_and_listed_inputs(tmp_path: Path) -> None:
    """A model of Keras's functional guide could be trained, and not registered."""
    text, numbers = keras.Input((), dtype="string"), keras.Input((2,))
    found = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(text)
    dense = keras.layers.Dense(1, name="low", dtype="bfloat16")(numbers)
    model = keras.Model([text, numbers], {"found": found, "low": dense})
    data = summary(
        inputs=(TensorSpec("object", (-1,), "input_0"), TensorSpec("float64", (-1, 2), "input_1")),
        example=[np.array(["a", "b"], object), np.zeros((2, 2))],
        output=(TensorSpec("float32", (-1, 3), "found"), TensorSpec("float32", (-1, 1), "low")),
    )
    loaded = mlflow.pyfunc.load_model(save(model, tmp_path / "model", data))
    predicted = loaded.predict([["b", "?"], [[1, 2], [3, 4]]])
    assert predicted["found"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert predicted["low"].dtype == "float32"
    by_name = loaded.predict({"input_0": ["b", "?"], "input_1": [[1, 2], [3, 4]]})
    np.testing.assert_array_equal(by_name["low"], predicted["low"])
    with pytest.raises(ValueError, match=r"input 'input_1' is missing; is it 'inputs_1', misspelt\?"):
        loaded.predict({"input_0": ["b"], "inputs_1": [[1, 2]]})


def test_labels_and_probabilities(tmp_path: Path) -> None:
    """Whoever wants the class would have to know which index or side of 0.5 it is."""
    single = keras.Sequential([keras.Input((1,)), keras.layers.Activation("sigmoid")])
    one = {"inputs": (TensorSpec("float32", (-1, 1)),), "example": np.zeros((2, 1), "float32")}
    of_two = Meaning("probabilities", "binary", ("no", "yes"))
    loaded = mlflow.pyfunc.load_model(save(single, tmp_path / "binary", summary(meanings=(of_two,), **one)))
    rows = np.array([[-1.0], [2.0]])  # float64
    assert loaded.predict(rows, params={"output": "label"}).tolist() == ["no", "yes"]
    raw, shares = loaded.predict(rows), loaded.predict(rows, params={"output": "probability"})
    np.testing.assert_allclose(shares, np.hstack([1 - raw, raw]))
    three = keras.Sequential([keras.Input((1,)), keras.layers.RepeatVector(3), keras.layers.Flatten()])
    loaded_part = mlflow.pyfunc.load_model(
        save(three, tmp_path / "part", summary(meanings=(Meaning("numbers"),), **one))
    )
    with pytest.raises(ValueError, match="output 'label': the model's outputs are numbers, no classes; use 'raw'"):
        loaded_part.predict(rows, params={"output": "label"})
    with pytest.raises(ValueError, match="use 'raw', 'label' or 'probability'"):
        loaded.predict(rows, params={"output": "labels"})
    two = {"inputs": (TensorSpec("float32", (-1, 3)),), "example": np.zeros((2, 3), "float32")}
    softmax = keras.Sequential([keras.Input((3,)), keras.layers.Activation("linear")])
    logits = mlflow.pyfunc.load_model(
        save(softmax, tmp_path / "several", summary(meanings=(Meaning("logits", "multiclass", (3, 5, 9)),), **two))
    )
    assert logits.predict([[0.0, 9.0, 1.0]], params={"output": "label"}).tolist() == [5]
    assert logits.predict([[0.0, 9.0, 1.0]], params={"output": "probability"}).sum() == pytest.approx(1)


def test_an_array_of_another_shape_or_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    """A fraction would become a class index, or Keras's own page of text be the answer."""
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Identity()])
    data = summary(inputs=(TensorSpec("int32", (-1, 2)),), example=np.zeros((2, 2), "int32"))
    loaded = mlflow.pyfunc.load_model(save(model, tmp_path / "model", data))
    assert loaded.predict([[1.0, 2.0]]).tolist() == [[1, 2]]
    for wrong, told in (
        ([[0.5, 1]], "holds other values than the model"),
        ([[1, 2, 3]], r"rows of shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=told):
            loaded.predict(wrong)
