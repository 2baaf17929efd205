"""What is kept of a model's predictions for the test rows: the same losses and scores as Keras measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from search.comparison.outputs import predict, sliced
from search.comparison.predictions import Predictions
from search.data.dataset import Data
from search.data.loading import load
from search.studyfile.schema import Definition
from search.training.fit import as_tensors, evaluate

Tiny = Callable[..., Definition]


def compiled(output: keras.layers.Layer, loss: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((2,)), output])
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def absolute_error(y: Any, output: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y - output), axis=-1)


def predicted(definition: Definition, data: Data, model: keras.Model) -> Predictions:
    """Return predictions made in batches of 7 rows, written and read again."""
    part = data.test
    pieces = (part.take(slice(start, start + 7)) for start in range(0, len(part), 7))
    batches = ((as_tensors(each.x), each.y, each.sample_weight) for each in pieces)
    tested = evaluate(model, data.test)
    made = predict(definition, data, model, batches, tested)
    content = made.to_bytes()
    assert made.to_bytes() == content, "the same predictions are the same file"
    return Predictions.from_bytes(content)


CASES: dict[str, Callable[[], keras.Model]] = {
    "binary": lambda: compiled(keras.layers.Dense(1, "sigmoid"), "binary_crossentropy"),
    "binary, logits": lambda: compiled(keras.layers.Dense(1), keras.losses.BinaryCrossentropy(from_logits=True)),
    "two outputs": lambda: compiled(keras.layers.Dense(2, "softmax"), "sparse_categorical_crossentropy"),
    "regression": lambda: compiled(keras.layers.Dense(1), keras.losses.Huber()),
    "own loss": lambda: compiled(keras.layers.Dense(1), absolute_error),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_of_rows_are_kerass_own(tiny: Tiny, name: str) -> None:
    """Two versions would be compared by other numbers than those that the search chose by."""
    definition = tiny()
    data = load(definition)
    model = CASES[name]()
    made = predicted(definition, data, model)
    assert made.loss is not None
    assert made.loss.shape == (len(data.test),)
    assert made.loss.mean() == pytest.approx(evaluate(model, data.test)["loss"], rel=1e-5)
    assert made.output == pytest.approx(model.predict(data.test.x, verbose=0), rel=1e-5)
    assert made.target == pytest.approx(data.test.y)
    assert made.about.digest == data.digest
    assert (made.about.metric, made.about.direction) == ("loss", "minimize")
    kinds = {"binary, logits": "logits", "own loss": "unknown", "regression": "unknown"}
    assert made.meaning.kind == kinds.get(name, "probabilities")


def test_the_trivial_model_gives_the_shares_of_the_classes(tiny: Tiny) -> None:
    """The first version would have nothing to be better than."""
    definition = tiny()
    data = load(definition)
    share = float(data.train.y.mean())
    made = predicted(definition, data, CASES["two outputs"]())
    assert made.baseline["only"] == pytest.approx([1 - share, share], rel=1e-5)
    log_losses = -np.log(np.where(data.test.y == 1, share, 1 - share))
    assert made.baseline_loss == pytest.approx(log_losses, rel=1e-4)
    logits = predicted(definition, data, CASES["binary, logits"]())
    assert logits.baseline_loss == pytest.approx(log_losses, rel=1e-4)


def test_the_rows_are_those_of_the_source(tiny: Tiny) -> None:
    """Versions tested on different rows would be compared as if these were the same."""
    from sklearn.datasets import make_blobs

    definition = tiny()
    data = load(definition)
    made = predicted(definition, data, CASES["binary"]())
    x, y = make_blobs(n_samples=60, n_features=2, centers=2, random_state=0)
    assert np.array_equal(y[made.rows], made.target)
    assert np.allclose(x[made.rows], data.test.x)


def test_groups_and_columns_of_a_table_are_kept(folder: Path, tiny: Tiny) -> None:
    """A comparison by groups or slices would need the data again."""
    rng = np.random.default_rng(0)
    lines = ["a,region,person,label"]
    lines += [f"{rng.normal()},{'north' if i % 3 else 'south'},p{i // 4},{i % 2}" for i in range(120)]
    (folder / "table.csv").write_text("\n".join(lines))
    path = tiny().path
    text = path.read_text().replace('"sklearn:make_blobs"', '"csv:../table.csv"')
    text = "\n".join(line for line in text.splitlines() if not line.startswith("options"))
    text = text.replace("[data]", '[data]\ntarget = "label"\ngroup = "person"')
    path.write_text(text)
    from search.studyfile.load import load_definition

    definition = load_definition(path)
    data = load(definition)
    inputs, features = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(features))
    model.compile(loss="binary_crossentropy")
    made = predicted(definition, data, model)
    assert made.group is not None
    assert set(made.group) == {f"p{row // 4}" for row in made.rows}
    assert list(made.slices["region"]) == ["north" if row % 3 else "south" for row in made.rows]
    assert (made.about.target, made.about.group) == (("label",), "person")


def test_a_column_of_many_numbers_is_cut_at_its_quartiles() -> None:
    """A slice of one row each would say nothing."""
    values = np.arange(101.0)
    values[0] = np.nan
    cut = sliced(values)
    assert cut is not None
    assert sorted(set(cut)) == ["25.75 to 50.5", "50.5 to 75.25", "above 75.25", "missing", "up to 25.75"]
    assert sliced(np.asarray([f"name {i}" for i in range(60)])) is None
    few = sliced(np.asarray([1, 2, 1]))
    assert few is not None
    assert list(few) == ["1", "2", "1"]


def test_outputs_too_large_are_left_out(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The predictions of a segmentation would be larger than the model; its losses alone are enough."""
    monkeypatch.setattr("search.comparison.outputs._LARGEST", 8)
    definition = tiny()
    made = predicted(definition, load(definition), CASES["binary"]())
    assert made.output is None
    assert made.loss is not None


def test_what_is_no_file_of_predictions_is_refused(tiny: Tiny) -> None:
    """A damaged file would end in a traceback through zipfile."""
    definition = tiny()
    content = predicted(definition, load(definition), CASES["binary"]()).to_bytes()
    for wrong in (b"", b"no archive", content[:100]):
        with pytest.raises(ValueError, match="no file of predictions"):
            Predictions.from_bytes(wrong)
    assert replace(Predictions.from_bytes(content), loss=None).loss is None
