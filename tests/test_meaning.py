"""What outputs mean: metrics, gate, pictures and the served model tell the classes that Keras's own metrics tell."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, losses, metrics
from sklearn.metrics import accuracy_score

from search.comparison.predictions import ONLY, About, Predictions
from search.comparison.scores import applied, score_of
from search.serving import Predictor
from search.serving.meaning import Meaning, decide

# Keras warns of a loss that takes probabilities for logits; a study with it is trained all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*received `from_logits=True`:UserWarning")

ROWS = 300
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
TWO = np.random.default_rng(1).integers(0, 2, ROWS)
THREE = np.random.default_rng(2).integers(0, 3, ROWS)
LABELS = np.random.default_rng(3).integers(0, 2, (ROWS, 4))


def stack(*after: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), layers.Dense(8, "tanh"), *after])


class Disordered(keras.Model):
    """Its layers are defined in another order than they are called in."""

    def __init__(self, last: keras.layers.Layer, first: keras.layers.Layer) -> None:
        super().__init__()
        self.last, self.dropout, self.first = last, layers.Dropout(0.3), first

    def call(self, x: Any, training: bool = False) -> Any:
        return self.last(self.dropout(self.first(x), training=training))


class Head(layers.Layer):
    """A layer of the user's own, around one of Keras's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return keras.ops.softmax(self.inner(x))


def disordered(last: keras.layers.Layer, first: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(1)
    return Disordered(last, first)


def averaged() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((3,))
    return keras.Model(x, layers.Average()([layers.Dense(3, "softmax")(x) for _ in range(2)]))


def absolute(y: Any, output: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(keras.ops.cast(y, output.dtype) - output), axis=-1)


ZERO = functools.partial(metrics.BinaryAccuracy, threshold=0.0)  # as Keras's guide measures logits
HOT = np.eye(3, dtype="float32")[THREE]
BCE, CCE, SCE = losses.BinaryCrossentropy, losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy
LOGITS = {"from_logits": True}
Kind = tuple[Any, Any, Any, str, Any, str]  # model, loss, Keras's metric, task, targets, what the outputs are
KINDS: dict[str, Kind] = {
    "sigmoid": (
        lambda: stack(layers.Dense(1, "sigmoid")),
        "binary_crossentropy",
        "accuracy",
        "binary",
        TWO,
        "probabilities",
    ),
    "linear, trained as a probability": (
        lambda: stack(layers.Dense(1)),
        "mse",
        "accuracy",
        "binary",
        TWO,
        "probabilities",
    ),
    "logits": (lambda: stack(layers.Dense(1)), BCE(**LOGITS), ZERO, "binary", TWO, "logits"),
    "logits, of a partial function": (
        lambda: stack(layers.Dense(1)),
        functools.partial(losses.binary_crossentropy, **LOGITS),
        ZERO,
        "binary",
        TWO,
        "logits",
    ),
    "focal logits": (
        lambda: stack(layers.Dense(1)),
        losses.BinaryFocalCrossentropy(**LOGITS),
        ZERO,
        "binary",
        TWO,
        "logits",
    ),
    "sigmoid that the loss takes for logits": (
        lambda: stack(layers.Dense(1, "sigmoid")),
        BCE(**LOGITS),
        "accuracy",
        "binary",
        TWO,
        "probabilities",
    ),
    "sigmoid, own loss": (
        lambda: stack(layers.Dense(1, "sigmoid")),
        absolute,
        "accuracy",
        "binary",
        TWO,
        "probabilities",
    ),
    "hinge, 0 and 1": (lambda: stack(layers.Dense(1, "tanh")), "hinge", ZERO, "binary", TWO, "signs"),
    "hinge, linear": (lambda: stack(layers.Dense(1)), "squared_hinge", ZERO, "binary", TWO, "signs"),
    "softmax": (
        lambda: stack(layers.Dense(3, "softmax")),
        "sparse_categorical_crossentropy",
        "accuracy",
        "multiclass",
        THREE,
        "probabilities",
    ),
    "softmax, one-hot": (
        lambda: stack(layers.Dense(3, "softmax")),
        "categorical_crossentropy",
        "accuracy",
        "multiclass",
        HOT,
        "probabilities",
    ),
    "softmax of two": (
        lambda: stack(layers.Dense(2, "softmax")),
        "sparse_categorical_crossentropy",
        "accuracy",
        "binary",
        TWO,
        "probabilities",
    ),
    "softmax logits": (lambda: stack(layers.Dense(3)), SCE(**LOGITS), "accuracy", "multiclass", THREE, "logits"),
    "softmax logits, one-hot": (lambda: stack(layers.Dense(3)), CCE(**LOGITS), "accuracy", "multiclass", HOT, "logits"),
    "more outputs than classes": (
        lambda: stack(layers.Dense(5)),
        SCE(**LOGITS),
        "accuracy",
        "multiclass",
        THREE + 1,
        "logits",
    ),
    "categorical hinge": (lambda: stack(layers.Dense(3)), "categorical_hinge", "accuracy", "multiclass", HOT, "scores"),
    "multilabel": (
        lambda: stack(layers.Dense(4, "sigmoid")),
        "binary_crossentropy",
        "binary_accuracy",
        "multilabel",
        LABELS,
        "probabilities",
    ),
    "multilabel logits": (lambda: stack(layers.Dense(4)), BCE(**LOGITS), ZERO, "multilabel", LABELS, "logits"),
    "subclassed, sigmoid defined before linear": (
        lambda: disordered(layers.Dense(1), layers.Dense(4, "sigmoid")),
        BCE(**LOGITS),
        ZERO,
        "binary",
        TWO,
        "logits",
    ),
    "subclassed, linear defined before sigmoid": (
        lambda: disordered(layers.Dense(1, "sigmoid"), layers.Dense(4)),
        absolute,
        "accuracy",
        "binary",
        TWO,
        "probabilities",
    ),
    "own layer": (lambda: stack(Head()), absolute, "accuracy", "multiclass", HOT, "probabilities"),
    "average of models": (averaged, absolute, "accuracy", "multiclass", HOT, "probabilities"),
    "reshaped and cast": (
        lambda: stack(
            layers.Dense(3), layers.Softmax(), layers.Reshape((3,)), layers.Activation("linear", dtype="float64")
        ),
        absolute,
        "accuracy",
        "multiclass",
        HOT,
        "probabilities",
    ),
}


def meaning_of(model: keras.Model, y: Any, task: str) -> Meaning:
    classes = (0, 1) if task == "binary" else tuple(range(y.shape[1])) if y.ndim > 1 else tuple(np.unique(y))
    return decide(model, X[:2], model(X[:2]), task, classes)[0]


def predictions(meaning: Meaning, y: Any, output: Any) -> Predictions:
    about = About("", "", meaning.task, tuple(map(str, meaning.classes)), "loss", "minimize", meanings=(meaning,))
    return Predictions(about, np.arange(ROWS), {ONLY: y}, {ONLY: output})


@pytest.mark.parametrize("name", KINDS)
def test_all_tell_the_accuracy_that_keras_measures(name: str) -> None:
    """`[metrics]`, the gate and the served labels would each judge a model by classes of their own."""
    make, loss, metric, task, y, kind = KINDS[name]
    model = make()
    model.compile(loss=loss, metrics=[metric() if callable(metric) else metric])
    keras_says = model.evaluate(X, y, verbose=0, return_dict=True)
    expected = next(value for key, value in keras_says.items() if "accuracy" in key)
    output = model.predict(X, verbose=0)
    meaning = meaning_of(model, y, task)
    assert meaning.kind == kind
    judged = score_of("accuracy", predictions(meaning, y, output))
    assert judged is not None
    assert judged.value == pytest.approx(expected, abs=1e-6)
    told = accuracy_score if task != "multilabel" else lambda y, labels: float((y == labels).mean())
    if task == "multilabel":
        assert applied(told, meaning, y, output, {}, 0.5, scores=True) == pytest.approx(expected, abs=1e-6)
    else:
        assert applied(told, meaning, y, output, {}, None, scores=True) == pytest.approx(expected, abs=1e-6)
    served = Predictor(model, {**ARRAYS, "meanings": [vars(meaning)]})
    labels = served.predict(X, {"output": "label"})
    wanted = y.argmax(axis=1) if y.ndim > 1 and task != "multilabel" else y
    assert (labels == wanted).mean() == pytest.approx(expected, abs=1e-6)


ARRAYS = {
    "columns": [],
    "inputs": [{"name": None, "dtype": "float32", "shape": [-1, 3]}],
    "outputs": [{"name": None, "dtype": "float32", "shape": [-1, 1]}],
    "listed": False,
}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind[-1] in ("probabilities", "logits")])
def test_probabilities_are_those_of_kerass_functions(name: str) -> None:
    """A service would be sent numbers below 0, or a sigmoid of a sigmoid."""
    make, loss, _, task, y, kind = KINDS[name]
    model = make()
    model.compile(loss=loss)
    output, meaning = model.predict(X, verbose=0), meaning_of(model, y, task)
    probability = meaning.probabilities(output)
    assert probability.shape == (ROWS, len(meaning.classes))
    assert ((probability >= 0) & (probability <= 1)).all()
    if task != "multilabel":
        assert probability.sum(axis=1) == pytest.approx(1, abs=1e-5)
    if kind == "logits":
        made = keras.ops.softmax(output) if task == "multiclass" else keras.ops.sigmoid(output)
        assert probability[:, -output.shape[1] :] == pytest.approx(keras.ops.convert_to_numpy(made), abs=1e-5)


def test_hinge_of_minus_one_and_one_is_the_sign() -> None:
    """`search.predict` would write probabilities from -0.995 to 1.995, and another label than the sign."""
    model = stack(layers.Dense(1, "tanh"))
    model.compile(loss="hinge")
    output = model.predict(X, verbose=0)
    meaning = decide(model, X[:2], model(X[:2]), "binary", (-1, 1))[0]
    assert meaning.labels(output).tolist() == np.sign(output[:, 0]).astype(int).tolist()
    y = 2 * TWO - 1
    right = np.sign(output[:, 0]) == y
    score = score_of("accuracy", predictions(meaning, y, output))
    assert score is not None
    assert score.parts is not None
    assert score.parts[:, 0].tolist() == right.tolist()
    assert applied(accuracy_score, meaning, y, output, {}, None, scores=True) == pytest.approx(right.mean())
    served = Predictor(model, {**ARRAYS, "meanings": [vars(meaning)]})
    with pytest.raises(
        ValueError, match=r"output 'probability': the model's outputs are scores around 0, no prob.*'raw'"
    ):
        served.predict(X, {"output": "probability"})


def test_what_cannot_be_known_is_refused_in_one_line() -> None:
    """A label would be guessed from the name of a layer."""
    model = stack(layers.Dense(1))
    model.compile(loss=absolute)
    meaning = meaning_of(model, TWO, "binary")
    assert meaning.kind == "unknown"
    served = Predictor(model, {**ARRAYS, "meanings": [vars(meaning)]})
    for wanted in ("label", "probability"):
        with pytest.raises(
            ValueError, match=f"^output '{wanted}': the model's outputs are of unknown meaning: [^\\n]*'raw'$"
        ):
            served.predict(X, {"output": wanted})
    output = model.predict(X, verbose=0)
    assert score_of("accuracy", predictions(meaning, TWO, output)) is None
    assert applied(accuracy_score, meaning, TWO, output, {}, 0.25, scores=True) == np.mean((output[:, 0] > 0.25) == TWO)
    with pytest.raises(ValueError, match="of unknown meaning"):
        applied(accuracy_score, meaning, TWO, output, {}, None, scores=True)


def test_what_predict_step_gives_is_not_taken_for_what_call_gives() -> None:
    """A `predict_step` that applies the sigmoid would have its probabilities read as logits."""

    class Squashed(Disordered):
        def predict_step(self, data: Any) -> Any:
            return keras.ops.sigmoid(self(data, training=False))

    model = Squashed(layers.Dense(1), layers.Dense(4))
    model.compile(loss=BCE(from_logits=True))
    given = model.predict(X[:2], verbose=0)
    assert decide(model, X[:2], given, "binary", (0, 1))[0].kind == "unknown"


@pytest.mark.parametrize("listed", [False, True])
def test_several_outputs_mean_each_its_own(listed: bool) -> None:
    """All outputs of a model would be judged by the last one's activation."""
    keras.utils.set_random_seed(1)
    x = keras.Input((3,))
    z = layers.Dense(4, "tanh")(x)
    made = {
        "yes": layers.Dense(1, "sigmoid", name="yes")(z),
        "kind": layers.Dense(3, name="kind")(z),
        "price": layers.Dense(1, name="price")(z),
        "side": layers.Dense(1, name="side")(z),
    }
    targets = {"yes": TWO, "kind": THREE, "price": X[:, 0], "side": TWO}
    loss = {"yes": "binary_crossentropy", "kind": SCE(from_logits=True), "price": "mse", "side": absolute}
    model = keras.Model(x, list(made.values()) if listed else made)
    model.compile(loss=list(loss.values()) if listed else loss, metrics={"kind": ["accuracy"]} if not listed else None)
    given = list(targets.values()) if listed else targets
    found = {each.name: each for each in decide(model, X[:2], model(X[:2]), "several", (), targets=given)}
    kinds = {"yes": "probabilities", "kind": "logits", "price": "numbers", "side": "unknown"}
    assert {name: each.kind for name, each in found.items()} == kinds
    assert [found[name].task for name in ("yes", "kind")] == ["binary", "multiclass"]
    output = dict(zip(made, model.predict(X, verbose=0), strict=True)) if listed else model.predict(X, verbose=0)
    about = About("", "", "several", (), "kind_accuracy", "maximize", meanings=tuple(found[name] for name in output))
    score = score_of("kind_accuracy", Predictions(about, np.arange(ROWS), targets, output))
    assert score is not None
    assert score.value == pytest.approx((output["kind"].argmax(axis=1) == THREE).mean())
    described = {**ARRAYS, "outputs": [{"name": name} for name in made]}
    known = [vars(each) for each in found.values() if each.name != "side"]
    predictor = Predictor(model, {**described, "meanings": known})
    labels, raw = (predictor.predict(X, {"output": each}) for each in ("label", "raw"))
    assert labels["kind"].tolist() == output["kind"].argmax(axis=1).tolist()
    assert labels["yes"].tolist() == (output["yes"][:, 0] > 0.5).astype(int).tolist()
    assert labels["price"].tolist() == raw["price"].tolist()
    assert raw["price"] == pytest.approx(output["price"], abs=1e-6)  # other batches: last bits, by the processor
    with pytest.raises(ValueError, match="the model's outputs 'side' are of unknown meaning"):
        Predictor(model, {**described, "meanings": [vars(each) for each in found.values()]}).predict(
            X, {"output": "label"}
        )
