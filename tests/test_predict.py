"""`search.predict`: what a person with a file of rows and a registered model gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest

from search.data.files import output
from search.errors import DataError, RegistryError
from search.predict import predict_command
from search.tracking import registry, versions
from tests.conftest import command

TABLE = """
name = "flats"
metric = "val_loss"
direction = "minimize"
[data]
source = "csv:flats.csv"
target = "wanted"
drop = ["id"]
[model]
build = "mlp"
[fit]
epochs = 1
batch_size = 16
[space]
width = { type = "int", low = 2, high = 20 }
"""


def flats(rows: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(0)
    size = random.integers(20, 90, rows)
    city = random.choice(["Bern", "Kiel", "10"], rows)
    wanted = np.where(size + random.normal(0, 9, rows) > 55, "yes", "no")
    return pd.DataFrame({"id": range(rows), "size": size, "city": city, "wanted": wanted})


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder with one version of a model of a table with text, and its rows in a file."""
    from search.session import search
    from search.studyfile.load import load_definition
    from search.studyfile.settings import resolve

    folder = tmp_path_factory.mktemp("flats")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    (folder / "flats.toml").write_text(TABLE)
    flats().to_csv(folder / "flats.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        uri = f"sqlite:///{folder}/mlflow.db"
        search(resolve(load_definition(folder / "flats.toml"), n_trials=1, tracking_uri=uri, workers=1), lambda _: None)
    return folder


@pytest.fixture
def registered(searched: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same folder, in which MLflow looks."""
    monkeypatch.chdir(searched)
    mlflow.set_tracking_uri(f"sqlite:///{searched}/mlflow.db")
    yield searched
    mlflow.set_tracking_uri(None)


def predict(model: str, source: str, target: str, capsys: pytest.CaptureFixture[str], chunk: int = 64) -> dict:
    predict_command(model, Path(source), Path(target), chunk=chunk, as_json=True, export=None)
    return json.loads(capsys.readouterr().out)


def test_a_file_of_rows_is_predicted_in_chunks(registered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has the table to predict would write the loading, cutting and labelling themselves, chunk by chunk."""
    told = predict("flats", "flats.csv", "out.csv", capsys)
    out = pd.read_csv("out.csv")
    assert list(out.columns) == ["label", "probability_no", "probability_yes"]
    assert (told["rows"], told["version"], told["columns"]) == (200, "1", ["label", "probability"])
    assert set(out["label"]) <= {"yes", "no"}
    np.testing.assert_allclose(out["probability_no"] + out["probability_yes"], 1, rtol=1e-5)
    model = versions.load(registry.locate("flats@challenger")).pyfunc
    expected = model.predict(flats(), params={"output": "label"})
    assert out["label"].tolist() == expected.tolist(), "one chunk or many, a file or a frame: the same"
    flats().to_parquet("in.parquet")
    predict("models:/flats/1", "in.parquet", "out.npz", capsys, chunk=1000)
    with np.load("out.npz") as arrays:
        assert arrays["label"].tolist() == expected.tolist()
        np.testing.assert_allclose(arrays["probability"][:, 0], out["probability_no"], rtol=1e-4, atol=1e-6)
    np.savez(
        "in.npz", **{name: flats()[name].to_numpy(dtype="U" if name == "city" else None) for name in ("size", "city")}
    )
    predict("flats", "in.npz", "again.npz", capsys)
    with np.load("again.npz") as arrays:
        assert arrays["label"].tolist() == expected.tolist(), "an array for each column is a table too"
    rows = flats()
    rows.assign(city=rows["city"].replace("Kiel", "Köln"), size=rows["size"] * 10).to_csv("other.csv", index=False)
    outside = {each["column"]: each for each in predict("flats/1", "other.csv", "out.parquet", capsys)["outside"]}
    assert outside["city"]["categories"] == ["Köln"]
    assert outside["city"]["new_categories"] == pytest.approx((rows["city"] == "Kiel").mean())
    assert outside["size"]["beyond_range"] > 0.9


def test_where_a_chunk_ends_decides_nothing(registered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of 10,001 rows would be refused for its last row, which lacks a value."""
    rows = flats().astype({"size": float})
    rows.loc[len(rows) - 8 :, "size"] = np.nan
    rows.to_csv("gaps.csv", index=False)
    for chunk in (64, 1000):
        assert predict("flats", "gaps.csv", f"{chunk}.csv", capsys, chunk=chunk)["rows"] == 200
    pd.testing.assert_frame_equal(pd.read_csv("64.csv"), pd.read_csv("1000.csv"), rtol=1e-4)
    rows.assign(size=np.nan).to_csv("empty.csv", index=False)
    with pytest.raises(DataError, match="column 'size' has no value in any row"):
        predict("flats", "empty.csv", "out.csv", capsys)


def test_what_cannot_be_predicted_is_told_in_a_line_and_leaves_no_file(registered: Path) -> None:
    """Half a file of predictions would be taken for a whole one."""
    rows = flats()
    rows.rename(columns={"city": "citty"}).to_csv("misspelt.csv", index=False)
    rows.assign(size=[*rows["size"][:-1], "wide"]).to_csv("late.csv", index=False)  # in the last chunk
    np.savez("wide.npz", x=np.zeros((3, 2)))
    Path("old.csv").write_text("kept\n")
    for source, told in (
        ("misspelt.csv", r"misspelt.csv: column 'city' is missing.*is it 'citty', misspelt\?"),
        ("late.csv", "late.csv: column 'size' holds 'wide'; the model was trained with numbers there"),
        ("nowhere.csv", "no file nowhere.csv"),
        ("wide.npz", r"array 'x' has 2 dimensions; the model was trained on a table, .* each column \(size, city"),
    ):
        with pytest.raises(DataError, match=told):
            predict_command("flats", Path(source), Path("old.csv"), chunk=50, export=None)
        assert Path("old.csv").read_text() == "kept\n"
    assert not [each for each in registered.iterdir() if each.name.startswith(".old")]
    for model, told in (
        ("flat", "no registered model 'flat'; the registry has flats; did you mean 'flats'"),
        ("flats@champion", "model 'flats' has no version with alias 'champion'; it has challenger"),
        ("flats/7", "model 'flats' has no version '7'; it has 1"),
    ):
        with pytest.raises(RegistryError, match=told):
            registry.locate(model)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--input", "in.csv"), "--output: missing"),
        (("--input", "in.xls", "--output", "out.csv"), "--input: in.xls: use .csv, .parquet, .npz"),
        (("--input", "in.csv", "--output", "out.cvs"), "did you mean '.csv'?"),
        (("--input", "in.csv", "--output", "out.csv"), "--input: no file in.csv"),
        (("--export", "onx", "--output", "out"), "did you mean 'onnx'?"),
    ],
)
def test_a_mistyped_command_gets_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """A person would wait for TensorFlow, or read a traceback, to learn of a typing mistake."""
    done = command("search.predict", "blobs", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_exported(registered: Path) -> None:
    """Whoever serves without Python would have to know Keras's export, and find half a folder after a failure."""
    predict_command("flats", None, Path("exported"), export="saved_model")
    assert (Path("exported") / "saved_model.pb").is_file()
    with pytest.raises(DataError, match="the folder exported is not empty"):
        predict_command("flats", None, Path("exported"), export="saved_model")
    with pytest.raises(DataError, match=r"--export onnx: ONNX has no operation .*; use --export saved_model"):
        predict_command("flats", None, Path("flats.onnx"), export="onnx")
    assert not Path("flats.onnx").exists()


def test_a_model_of_numbers_is_exported_to_onnx(tmp_path: Path) -> None:
    """Whoever serves by ONNX would get a file that no runtime loads."""
    import onnx

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))

    class Served:
        input_example = np.zeros((2, 4), "float32")

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.asarray(model(rows))

        def get_raw_model(self) -> keras.Model:
            return model

    versions.export(versions.Loaded(Served()), tmp_path / "model.onnx", "onnx")
    assert onnx.load(str(tmp_path / "model.onnx")).graph.node


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """A full disk would cost the last good predictions."""
    (tmp_path / "out.csv").write_text("before")

    def write() -> None:
        with output(tmp_path / "out.csv", "--output") as place:
            place.write_text("half")
            raise OSError("full")

    with pytest.raises(DataError, match=r"--output: .*out.csv cannot be written .*full"):
        write()
    assert (tmp_path / "out.csv").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1
