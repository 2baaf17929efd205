"""The averaged model is a Keras model like any other: it gives the members' mean, is saved, loaded and exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import special

from search.ensemble.model import alike, average
from search.training.training import archive

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # keras 3.15 saves variables so
    pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`"),
]
RNG = np.random.default_rng(0)
X = RNG.random((8, 3)).astype("float32")


def _hidden() -> tuple[Any, Any]:
    inputs = keras.Input((3,), name="x")
    hidden = layers.BatchNormalization()(layers.Dropout(0.5)(layers.Dense(4, activation="relu")(inputs)))
    return inputs, hidden


def one_probability() -> keras.Model:
    """Return a model with a sigmoid."""
    inputs, hidden = _hidden()
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def one_logit() -> keras.Model:
    """Return a model that gives logits."""
    inputs, hidden = _hidden()
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    model.compile(
        "adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=[keras.metrics.BinaryAccuracy(threshold=0)]
    )
    return model


def three_logits() -> keras.Model:
    """Return a model that gives a logit for each of three classes."""
    inputs, hidden = _hidden()
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def by_name() -> keras.Model:
    """Return a model with two outputs by name, each with its own loss."""
    inputs, hidden = _hidden()
    outputs = {
        "price": layers.Dense(1, name="price")(hidden),
        "kind": layers.Dense(3, name="kind", activation="softmax")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "adam", {"price": "mse", "kind": "sparse_categorical_crossentropy"}, loss_weights={"price": 2.0, "kind": 1.0}
    )
    return model


def logits_by_key() -> keras.Model:
    """Return a model with two outputs by name, of layers with other names, one of them logits."""
    inputs, hidden = _hidden()
    model = keras.Model(inputs, {"price": layers.Dense(1)(hidden), "kind": layers.Dense(3)(hidden)})
    model.compile("adam", {"price": "mse", "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    return model


def by_place() -> keras.Model:
    """Return a model with two outputs in a list."""
    inputs, hidden = _hidden()
    model = keras.Model(inputs, [layers.Dense(1)(hidden), layers.Dense(2)(hidden)])
    model.compile("adam", ["mse", "mae"])
    return model


def sequential() -> keras.Model:
    """Return a model that learns its input's shape from the first rows."""
    model = keras.Sequential([layers.Dense(4), layers.Dense(1)])
    model.compile("adam", "mse")
    model(X)
    return model


def own_loss() -> keras.Model:
    """Return a model whose loss is a function of the user's own, which no archive holds."""
    inputs, hidden = _hidden()
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    model.compile("adam", lambda y, given: ops.mean(ops.square(y - given), axis=-1))
    return model


def _loaded(model: keras.Model, folder: Path) -> keras.Model:
    file = folder / "model.keras"
    file.write_bytes(archive(model))
    return keras.models.load_model(file)


def _same(given: Any) -> Any:
    return given


def _sigmoid(given: Any) -> Any:
    return special.expit(given)


def _softmax(given: Any) -> Any:
    return special.softmax(given, axis=-1)


@pytest.mark.parametrize(
    ("make", "activation", "turned"),
    [
        (one_probability, "", _same),
        (one_logit, "sigmoid", _sigmoid),
        (three_logits, "softmax", _softmax),
        (by_name, "", _same),
        (logits_by_key, "softmax", _softmax),
        (by_place, "", _same),
        (sequential, "", _same),
        (own_loss, "", _same),
    ],
)
def test_it_gives_the_mean_of_its_members_wherever_it_is_loaded(
    make: Callable[[], keras.Model], activation: str, turned: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Who loads the registered version would predict with another model than the one that was judged."""
    members = [_loaded(make(), tmp_path) for _ in range(3)]
    wanted = [keras.tree.flatten(member.predict(X, verbose=0)) for member in members]
    logits = {"price": "", "kind": activation} if make is logits_by_key else {"only": activation}
    made = average({f"trial_{n}": member for n, member in enumerate(members)}, [2, 1, 1], logits, X, make())
    loaded = _loaded(made, tmp_path)
    given = keras.tree.flatten(loaded.predict(X, verbose=0))
    for at, each in enumerate(given):
        turn = _same if make is logits_by_key and each.shape[-1] == 1 else turned
        mean = sum(count * turn(of[at]) for count, of in zip((0.5, 0.25, 0.25), wanted, strict=True))
        np.testing.assert_allclose(turn(each), mean, atol=1e-6)
    assert {"trial_0", "trial_1", "trial_2"} <= {layer.name for layer in loaded.layers}
    assert loaded.compiled == (make is not own_loss)
    if make is by_name:
        y = {"price": np.zeros(8), "kind": np.zeros(8, int)}
        assert {"loss", "price_loss", "kind_loss"} <= loaded.evaluate(X, y, verbose=0, return_dict=True).keys()


def test_a_graph_of_it_is_exported(tmp_path: Path) -> None:
    """A version would be registered that cannot be served without Keras."""
    made = average({"trial_0": one_logit(), "trial_1": one_logit()}, [1, 1], {"only": "sigmoid"}, X, one_logit())
    made.export(tmp_path / "exported", verbose=False)
    assert (tmp_path / "exported" / "saved_model.pb").is_file()


def test_texts_stay_with_their_vocabulary(tmp_path: Path) -> None:
    """A member's own look-up would be lost, and each city be the unknown one."""

    def make() -> keras.Model:
        city, number = keras.Input((1,), name="city", dtype="string"), keras.Input((2,), name="number")
        known = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(city)
        model = keras.Model({"city": city, "number": number}, layers.Dense(1)(layers.Concatenate()([known, number])))
        model.compile("adam", "mse")
        return model

    x = {"city": ops.convert_to_tensor([["a"], ["b"], ["c"]]), "number": ops.convert_to_tensor(X[:3, :2])}
    members = [_loaded(make(), tmp_path) for _ in range(2)]
    wanted = np.mean([ops.convert_to_numpy(member(x)) for member in members], axis=0)
    made = _loaded(average({"one": members[0], "other": members[1]}, [1, 1], {}, x, make()), tmp_path)
    np.testing.assert_allclose(ops.convert_to_numpy(made(x)), wanted, atol=1e-6)
    assert len(np.unique(wanted)) == 3


def test_models_of_other_inputs_or_outputs_are_told_apart() -> None:
    """Models of two windows would be averaged, and fail when they are asked."""
    deeper = keras.Model(
        inputs := keras.Input((3,), name="x"), layers.Dense(1)(layers.Dense(2)(layers.Dense(2)(inputs)))
    )
    wider = keras.Model(inputs := keras.Input((4,), name="x"), layers.Dense(1)(inputs))
    assert alike(one_logit(), deeper)
    assert not alike(one_logit(), wider)
    assert not alike(one_logit(), three_logits())
    assert not alike(by_name(), by_place())
