"""The short form of the attack: the faults that it has found, and a few random models."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from search.data.dataset import Data, Part
from search.training import fit
from tests.exact import attack, changes, compare, kinds, objects
from tests.exact.bodies import Values
from tests.exact.changes import Changes
from tests.exact.kinds import Drawn

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras warns of much that random models do

SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 8, "seed": 3}
VALUES = Values(units=4, rate=0.3, learning_rate=0.05, seed=11)


def data_of(shape: tuple[int, ...] = (3,), rows: int = kinds.ROWS) -> Data:
    def part(count: int, seed: int) -> Part:
        x = np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")
        return Part(x, (x.reshape(count, -1).sum(axis=1, keepdims=True) > 0).astype("float32"))

    return Data("binary", (0, 1), (), part(rows, 0), part(12, 1), part(12, 2), False, "made", "00000000")


def same(make: Callable[[Values], keras.Model], path: str = fit.WHOLE_EPOCHS, **settings: Any) -> compare.Outcome:
    """Train here and by Keras, and fail when they differ."""
    more: dict[str, Any] = {"data": data_of(), "callbacks": list, **settings}
    drawn = Drawn(0, [], make, settings={**SETTINGS, **more.pop("settings", {})}, **more)
    mine = compare.here(drawn, VALUES)
    assert (mine.error, mine.path) == ("", path)
    assert not mine.differs(compare.by_keras(drawn, VALUES, path))
    return mine


def dense(values: Values, hidden: tuple[layers.Layer, ...] = (), **compiled: Any) -> keras.Model:
    made = [layers.Dense(values.units, activation="relu"), layers.Dropout(values.rate), *hidden]
    model = keras.Sequential([keras.Input((3,)), *made, layers.Dense(1, activation="sigmoid")])
    model.compile(**{"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["accuracy"], **compiled})
    return model


_CHANGED = [  # in one training: the change, its hook, the epoch
    [("freeze a variable", "set_model", 0), ("clipnorm", "on_train_begin", 0), ("dropout's rate", "on_epoch_begin", 0)],
    [
        ("schedule", "on_train_begin", 0),
        ("freeze a layer", "on_epoch_begin", 0),
        ("make functions anew", "on_epoch_end", 0),
    ],
    [("learning rate", "on_test_end", 0), ("compile", "on_epoch_begin", 1), ("stop testing", "on_test_begin", 0)],
    [("run_eagerly, functions anew", "on_epoch_end", 0)],
]


@pytest.mark.parametrize("changed", _CHANGED, ids=["at first", "made anew", "compiled and stopped", "eagerly"])
def test_what_a_callback_changes_is_trained_as_keras_trains_it(changed: list[tuple[str, str, int]]) -> None:
    """A callback that freezes layers would freeze none, and the study would never say so."""
    mine = same(dense, callbacks=lambda: [Changes(hook, changes.CHANGES[each], epoch) for each, hook, epoch in changed])
    assert mine.epochs[0]["steps"] == -(-kinds.ROWS // SETTINGS["batch_size"]), "a callback's params"


class TrainsOnABatch(keras.callbacks.Callback):
    """Train and test on rows of its own."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        data = data_of().validation
        assert data is not None
        self.model.train_on_batch(data.x, data.y)
        if epoch == 1:
            self.model.evaluate(data.x, data.y, verbose=0)


def test_a_callback_may_train_and_test_on_other_rows() -> None:
    """It would train on all rows instead, an epoch more."""
    same(dense, callbacks=lambda: [TrainsOnABatch()])


def test_a_loss_of_batches_is_measured_in_batches_of_the_same_size() -> None:
    """The wrong trial would win: a wide model's loss was measured on fewer rows at once than a narrow one's."""
    mine = same(functools.partial(dense, loss=objects.batch_rows_loss, metrics=[keras.losses.dice, objects.f1]))
    assert mine.model is not None
    test = data_of().test
    assert test is not None
    tested = mine.model.evaluate(test.x, test.y, batch_size=8, verbose=0, return_dict=True)
    assert fit.evaluate(mine.model, test, 8) == pytest.approx(tested, rel=1e-6)


def test_a_model_with_metrics_of_its_own_logs_them() -> None:
    """What `compute_metrics` adds was missing in the logs: a study of that metric would fail in every trial."""

    def made(values: Values) -> keras.Model:
        model = objects.OwnMeasures(values.units, 1, "sigmoid")
        model.compile("adam", "binary_crossentropy", weighted_metrics=["accuracy"])
        return model

    assert same(made, fit.BATCHES).epochs[0]["val_rate"] > 0


def test_a_stateful_model_of_fixed_batches_trains() -> None:
    """`Input(batch_shape=…)` and stateful RNNs were refused, which Keras trains."""

    def stateful(values: Values) -> keras.Model:
        inputs = keras.Input(batch_shape=(12, 5, 2))
        x = layers.LSTM(values.units, stateful=True)(inputs)
        model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
        model.compile("adam", "binary_crossentropy")
        return model

    same(stateful, data=data_of((5, 2), rows=36), settings={"batch_size": 12})


def test_objects_without_a_configuration_are_trained() -> None:
    """An own regularizer, schedule or partial without `get_config` ended the trial."""
    activation = functools.partial(objects.scaled_tanh, factor=2.0)
    hidden = functools.partial(layers.Dense, 3, activation=activation)

    def made(values: Values) -> keras.Model:
        last = hidden(kernel_regularizer=objects.NoConfig(0.01))
        return dense(values, (last,), optimizer=keras.optimizers.Adam(objects.NoConfigSchedule(0.1)))

    same(made)


def test_what_looks_at_epochs_trains_by_whole_epochs(tmp_path: Path) -> None:
    """A study with these would take ten times as long."""
    of = keras.callbacks

    def used() -> list[keras.callbacks.Callback]:
        some = [of.BackupAndRestore(str(tmp_path)), of.ModelCheckpoint(str(tmp_path / "best.keras"))]
        known = importlib.util.find_spec("tensorboard") is not None
        return [*some, *([of.TensorBoard(str(tmp_path), histogram_freq=1)] if known else [])]

    same(functools.partial(dense, steps_per_execution=3), callbacks=used)


def test_an_epoch_ends_with_a_loss_that_is_no_number() -> None:
    """`TerminateOnNaN` would end the training an epoch too late."""

    def lost(y: Any, predicted: Any) -> Any:
        return keras.ops.log(predicted - 0.35) * y

    mine = same(functools.partial(dense, loss=lost), callbacks=lambda: [keras.callbacks.TerminateOnNaN()])
    assert len(mine.epochs) < SETTINGS["epochs"]


def test_what_is_set_on_a_variable_is_each_models_own() -> None:
    """The second model of a study froze the layer of the first: no configuration tells it."""
    for index, strength in ((0, 0.1), (2, 5.0)):

        def made(values: Values, index: int = index, strength: float = strength) -> keras.Model:
            model = dense(values)
            model.trainable_variables[index].regularizer = keras.regularizers.L2(strength)
            model.trainable_variables[1 + index].trainable = False
            return model

        same(made)


_DRAWN = [
    (12, 1, "a built-in mlp and its follower, killed and gone on with"),
    (28, 0, "several outputs in folds, weighted rows"),
    (76, 0, "convolutions repeated"),
    (79, 0, "a recurrent model and its refit"),
    (5, 0, "several inputs, tokens"),
    (39, 0, "texts, killed and gone on with"),
    (71, 0, "attention in half precision"),
]


@pytest.mark.parametrize(("seed", "followers", "what"), _DRAWN, ids=[each[2] for each in _DRAWN])
def test_a_random_model_of_each_family(tmp_path: Path, seed: int, followers: int, what: str) -> None:
    """The long form, `python -m tests.exact`, would find what no test of a known fault does."""
    (record,) = attack.compared([seed], tmp_path, followers)
    assert (record.differs, record.refused, record.trained) == ([], "", followers + 1)
    assert record.resumed == ("same" if "killed" in what else "not tried")
    assert record.parts == ("same" if seed % 3 == 1 else "not tried")
