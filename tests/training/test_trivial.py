"""What the trivial answer scores: what every trial is compared with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from search.data.dataset import Data, Part
from search.training.metrics import trivial_answer
from search.training.trial import _why_nan

DRAW = np.random.default_rng(0)
ROWS = 120
X = DRAW.normal(size=(ROWS, 3)).astype("float32")


def data_of(y: Any, task: str, classes: tuple[Any, ...] = ()) -> Data:
    """Return 80 rows to train on and 40 to choose by."""
    train, rest = Part(X, y).take(slice(0, 80)), Part(X, y).take(slice(80, None))
    return Data(task, classes, (), train, rest, rest, False, "made", "0")  # type: ignore[arg-type]


def model_of(outputs: dict[str, Any], **compiled: Any) -> keras.Model:
    """Return a model with these heads, by name."""
    inputs = keras.Input((3,))
    heads = {
        name: keras.layers.Dense(units, activation, name=name)(inputs) for name, (units, activation) in outputs.items()
    }
    model = keras.Model(inputs, next(iter(heads.values())) if len(heads) == 1 else heads)
    model.compile(optimizer="adam", **compiled)
    return model


def own_loss(y_true: Any, y_pred: Any) -> Any:
    """Return a loss that Keras does not know."""
    return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 1.5, axis=-1)


NUMBERS = (DRAW.normal(size=ROWS) * 50_000 + 300_000).astype("float32")
TWO = (DRAW.random(ROWS) < 0.3).astype("float32")
FOUR = DRAW.integers(0, 4, ROWS).astype("int32")


def test_numbers_are_compared_with_their_mean() -> None:
    """A trial that ended 16 times worse than the mean would be registered without a word."""
    found = trivial_answer(model_of({"y": (1, None)}, loss="mse", metrics=["mae"]), data_of(NUMBERS, "regression"))
    error = NUMBERS[80:] - NUMBERS[:80].mean()
    assert found["val_loss"] == pytest.approx((error**2).mean(), rel=1e-4)
    assert found["val_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)


@pytest.mark.parametrize("logits", [False, True])
def test_classes_are_compared_with_their_shares(logits: bool) -> None:
    """An accuracy of 0.7 would look good where 70 % of the rows are of one class."""
    share = TWO[:80].mean()
    entropy = -np.where(TWO[80:] == 1, np.log(share), np.log(1 - share)).mean()
    loss = keras.losses.BinaryCrossentropy(from_logits=logits)
    metrics = [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if logits else 0.5)]
    model = model_of({"y": (1, None if logits else "sigmoid")}, loss=loss, metrics=metrics)
    found = trivial_answer(model, data_of(TWO, "binary", (0, 1)))
    assert found["val_loss"] == pytest.approx(entropy, rel=1e-3)
    assert found["val_accuracy"] == pytest.approx((TWO[80:] == 0).mean())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model = model_of({"y": (4, None if logits else "softmax")}, loss=loss, metrics=["accuracy"])
    found = trivial_answer(model, data_of(FOUR, "multiclass", (0, 1, 2, 3)))
    shares = np.bincount(FOUR[:80]) / 80
    assert found["val_loss"] == pytest.approx(-np.log(shares[FOUR[80:]]).mean(), rel=1e-3)
    assert found["val_accuracy"] == pytest.approx((FOUR[80:] == shares.argmax()).mean())


def test_several_outputs_and_a_loss_of_ones_own_have_one_too() -> None:
    """Such a model's first version would be compared with nothing."""
    y = {"price": NUMBERS / 1e5, "sold": TWO}
    model = model_of(
        {"price": (1, None), "sold": (1, "sigmoid")},
        loss={"price": own_loss, "sold": "binary_crossentropy"},
        metrics={"sold": ["accuracy"]},
    )
    found = trivial_answer(model, data_of(y, "several"))
    error = np.abs(y["price"][80:] - y["price"][:80].mean()) ** 1.5
    share = TWO[:80].mean()
    entropy = -np.where(TWO[80:] == 1, np.log(share), np.log(1 - share)).mean()
    assert found["val_loss"] == pytest.approx(error.mean() + entropy, rel=1e-3)
    assert found["val_sold_accuracy"] == pytest.approx((TWO[80:] == 0).mean())


def test_what_has_no_trivial_answer_has_none() -> None:
    """A search would end in a traceback before its first trial."""
    reconstruct = model_of({"y": (3, None)}, loss="mse")
    assert trivial_answer(reconstruct, data_of(None, "none")) == {}
    untrainable = model_of({"y": (1, None)}, loss=lambda y_true, y_pred: 1 / 0)
    assert trivial_answer(untrainable, data_of(NUMBERS, "regression")) == {}


def test_a_metric_that_is_no_number_is_told_with_its_cause() -> None:
    """An AUC would be called NaN, and nobody say that the label has one value among the validation rows."""
    labels = (DRAW.random((ROWS, 3)) < 0.4).astype("float32")
    labels[80:, 2] = 0
    data = data_of(labels, "multilabel", ("a", "b", "rare"))
    assert _why_nan("val_auc is nan after epoch 1", data) == ": label rare has one value in the validation part"
    assert _why_nan("loss is nan after epoch 1", data_of(NUMBERS, "regression")) == ""
    one = TWO.copy()
    one[80:] = 0
    assert _why_nan("val_auc is nan after epoch 1", data_of(one, "binary", (0, 1))) == (
        ": every row is of one class in the validation part"
    )
    assert _why_nan("it took too long", data) == ""
