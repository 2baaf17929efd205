"""Programs of many kinds become studies: each is trained, registered, and predicts as its own Keras model does."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from search.studyfile.load import load_definition
from tests.conftest import Searcher

# Keras 3.15 converts TensorFlow variables the way NumPy 1 liked.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

PROGRAM = '''
import keras
import numpy as np
from keras import layers

G = np.random.default_rng(0)
X = G.normal(size=(200, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64")


def compiled(model, **settings):
    model.compile(optimizer="adam", **settings)
    return model


def lists():
    return [X[:, :3], X[:, 3:]], [X[:, 0], Y]


def build_lists(trial, data):
    left, right = keras.Input((3,)), keras.Input((3,))
    hidden = layers.Dense(trial.params["width"])(layers.Concatenate()([left, right]))
    outputs = [layers.Dense(1)(hidden), layers.Dense(1, activation="sigmoid")(hidden)]
    return compiled(keras.Model([left, right], outputs), loss=["mse", "binary_crossentropy"])


def alone():
    return X


@keras.saving.register_keras_serializable()
class Autoencoder(keras.Model):
    """A model without targets: its loss compares what it gives with what it takes."""

    def __init__(self, width=3, **settings):
        super().__init__(**settings)
        self.width, self.encode, self.decode = width, layers.Dense(width), layers.Dense(6)

    def call(self, x):
        return self.decode(self.encode(x))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(x - y_pred))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def build_alone(trial, data):
    return compiled(Autoencoder(trial.params["width"]))


def onehot():
    return X, np.eye(2)[Y], np.linspace(0.5, 1.5, 200)


def build_onehot(trial, data):
    stack = [keras.Input((6,)), layers.Dense(trial.params["width"]), layers.Dense(2, activation="softmax")]
    scores = [keras.metrics.F1Score(average="macro", name="f1"), "accuracy"]
    return compiled(keras.Sequential(stack), loss="categorical_crossentropy", metrics=scores)


def hinge():
    return X, (2 * Y - 1)[:, None]


def build_hinge(trial, data):
    stack = [keras.Input((6,)), layers.Dense(trial.params["width"]), layers.Dense(1, activation="tanh")]
    return compiled(keras.Sequential(stack), loss="hinge")


def masks():
    pictures = G.random((60, 8, 8, 1)).astype("float32")
    return pictures, (pictures[..., 0] > 0.5).astype("uint8")


def build_masks(trial, data):
    picture = keras.Input((None, None, 1))
    hidden = layers.Conv2D(trial.params["width"], 3, padding="same", activation="relu")(picture)
    mask = layers.Conv2D(2, 1, activation="softmax")(hidden)
    return compiled(keras.Model(picture, mask), loss="sparse_categorical_crossentropy")


def streams(batch_size):
    import tensorflow as tf

    def rows(first, last):
        return tf.data.Dataset.from_tensor_slices((X[first:last], Y[first:last])).batch(batch_size)

    return {"train": rows(0, 150).shuffle(10), "validation": rows(150, 200)}


def build_streams(trial, data):
    stack = [keras.Input((6,)), layers.Dense(trial.params["width"]), layers.Dense(1, activation="sigmoid")]
    return compiled(keras.Sequential(stack), loss="binary_crossentropy", metrics=["accuracy"])


def generator():
    def batches():
        while True:
            yield X[:32], Y[:32]

    return {"train": batches(), "validation": (X[150:], Y[150:])}


build_generator = build_streams


def by_trial(trial):
    lag = trial.suggest_int("lag", 2, 5)
    values = np.sin(np.arange(200) / 5).astype("float32")
    return np.stack([values[day : day + lag] for day in range(200 - lag)]), values[lag:]


def build_by_trial(trial, data):
    stack = [keras.Input(data.input_shape), layers.Dense(trial.params["width"]), layers.Dense(1)]
    return compiled(keras.Sequential(stack), loss="mse")


def mixed():
    texts = np.array(["good fine" if each else "bad poor" for each in Y], dtype=object)
    return {"text": texts, "numbers": X}, Y


def build_mixed(trial, data):
    words = layers.TextVectorization(20, output_mode="multi_hot")
    words.adapt(data.x["text"])
    text, numbers = keras.Input((), dtype="string", name="text"), keras.Input((6,), name="numbers")
    hidden = layers.Concatenate()([words(text), layers.Dense(trial.params["width"])(numbers)])
    model = keras.Model({"text": text, "numbers": numbers}, layers.Dense(1, activation="sigmoid")(hidden))
    return compiled(model, loss="binary_crossentropy")
'''

STUDY = """
name = "{kind}"
metric = "val_loss"
direction = "minimize"

[data]
source = "program.py:{kind}"

[model]
build = "program.py:build_{kind}"

[fit]
epochs = 2
{fit}

[space]
width = {{ type = "int", low = 2, high = 6 }}
{space}
"""
ROWS = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")
BATCHES = 'batch_size = { type = "categorical", choices = [16, 32] }'


def example(kind: str, params: dict[str, Any]) -> Any:
    """Return a few rows as a person sends them."""
    rows: dict[str, Any] = {
        "lists": [ROWS[:, :3], ROWS[:, 3:]],
        "masks": np.random.default_rng(2).random((4, 8, 8, 1)).astype("float32"),
        "by_trial": ROWS[:, : params.get("lag", 0)],
        "mixed": {"text": np.array(["good", "bad", "fine", "poor"]), "numbers": ROWS},
    }
    return rows.get(kind, ROWS)


@pytest.mark.parametrize(
    ("kind", "space", "fit"),
    [
        ("lists", "", ""),
        ("alone", "", ""),
        ("onehot", "", 'class_weight = "balanced"'),
        ("hinge", "", ""),
        ("masks", "", ""),
        ("streams", BATCHES, ""),
        ("generator", "", "steps_per_epoch = 4"),
        ("by_trial", "", ""),
        ("mixed", "", ""),
    ],
)
def test_a_program_becomes_a_study(kind: str, space: str, fit: str, folder: Path, run_search: Searcher) -> None:
    """A public program would have to be bent, or its registered model be another than the trained one."""
    import keras

    (folder / "program.py").write_text(PROGRAM)
    (folder / f"{kind}.toml").write_text(STUDY.format(kind=kind, space=space, fit=fit))
    outcome = run_search(load_definition(folder / f"{kind}.toml"), n_trials=2)
    assert outcome.n_trials == {"complete": 2, "pruned": 0, "failed": 0}
    assert outcome.model is not None
    without_test = kind in ("streams", "generator")
    assert any(name.startswith("test_") for name in outcome.best.metrics) is not without_test
    rows = example(kind, outcome.best.params)
    served = mlflow.pyfunc.load_model(outcome.model.uri).predict(rows)
    runpy.run_path(str(folder / "program.py"))  # Keras knows own classes once their module was imported
    model = mlflow.keras.load_model(outcome.model.uri)
    taken = keras.tree.map_structure(keras.ops.convert_to_tensor, rows)
    expected = model.predict(taken, verbose=0)
    served = list(served.values()) if isinstance(served, dict) else [served]
    for one, other in zip(served, expected if isinstance(expected, list) else [expected], strict=True):
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-4, abs=1e-6)
