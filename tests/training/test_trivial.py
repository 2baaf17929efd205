"""What the trivial answer scores: what every trial is compared with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from search.data.dataset import Data, Part
from search.studyfile.schema import MetricDefinition
from search.training.metrics import trivial_on_validation
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


def scored(model: keras.Model, data: Data, rows: int | None = None, own: Any = None) -> dict[str, float]:
    """Return what the trivial answer has on the validation rows, in batches of so many."""
    study = SimpleNamespace(own_metrics=own or {}, folder=Path())
    return trivial_on_validation(study, model, data, rows)  # type: ignore[arg-type]


def own_loss(y_true: Any, y_pred: Any) -> Any:
    """Return a loss that Keras does not know."""
    return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 1.5, axis=-1)


NUMBERS = (DRAW.normal(size=ROWS) * 50_000 + 300_000).astype("float32")
TWO = (DRAW.random(ROWS) < 0.3).astype("float32")
FOUR = DRAW.integers(0, 4, ROWS).astype("int32")


def test_numbers_are_compared_with_their_mean() -> None:
    """A trial that ended 16 times worse than the mean would be registered without a word."""
    found = scored(model_of({"y": (1, None)}, loss="mse", metrics=["mae"]), data_of(NUMBERS, "regression"))
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
    found = scored(model, data_of(TWO, "binary", (0, 1)))
    assert found["val_loss"] == pytest.approx(entropy, rel=1e-3)
    assert found["val_accuracy"] == pytest.approx((TWO[80:] == 0).mean())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model = model_of({"y": (4, None if logits else "softmax")}, loss=loss, metrics=["accuracy"])
    found = scored(model, data_of(FOUR, "multiclass", (0, 1, 2, 3)))
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
    found = scored(model, data_of(y, "several"))
    error = np.abs(y["price"][80:] - y["price"][:80].mean()) ** 1.5
    share = TWO[:80].mean()
    entropy = -np.where(TWO[80:] == 1, np.log(share), np.log(1 - share)).mean()
    assert found["val_loss"] == pytest.approx(error.mean() + entropy, rel=1e-3)
    assert found["val_sold_accuracy"] == pytest.approx((TWO[80:] == 0).mean())


def worst_of_batch(y_true: Any, y_pred: Any) -> Any:
    """Return a loss that gives one number a batch."""
    return keras.ops.max(keras.ops.abs(y_true - y_pred))


def test_a_loss_of_whole_batches_is_measured_in_batches() -> None:
    """A model with such a loss would be compared with nothing, and its first version become champion ungated."""
    model, data = model_of({"y": (1, None)}, loss=worst_of_batch), data_of(NUMBERS, "regression")
    error = np.abs(NUMBERS[80:] - NUMBERS[:80].mean())
    assert scored(model, data, 10)["val_loss"] == pytest.approx(error.reshape(4, 10).max(axis=1).mean(), rel=1e-5)
    assert scored(model, data, 16)["val_loss"] == pytest.approx(
        (16 * error[:16].max() + 16 * error[16:32].max() + 8 * error[32:].max()) / 40, rel=1e-5
    )


def test_metrics_of_the_study_file_have_one() -> None:
    """A study that chooses by a function of scikit-learn would say nothing of the trivial answer."""
    own = {"r2": MetricDefinition(function="sklearn.metrics:r2_score")}
    found = scored(model_of({"y": (1, None)}, loss="mse"), data_of(NUMBERS, "regression"), own=own)
    assert found["val_r2"] == pytest.approx(0, abs=0.2)


def test_what_has_no_trivial_answer_has_none() -> None:
    """A search would end in a traceback before its first trial."""
    reconstruct = model_of({"y": (3, None)}, loss="mse")
    assert scored(reconstruct, data_of(None, "none")) == {}
    untrainable = model_of({"y": (1, None)}, loss=lambda y_true, y_pred: 1 / 0)
    assert scored(untrainable, data_of(NUMBERS, "regression")) == {}


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
