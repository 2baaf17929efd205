"""What plain Keras runs, a study runs; what it cannot, it says with advice that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.data.loading import load
from search.errors import ModelError
from search.training.dry_run import dry_run
from search.training.fit import WHOLE_EPOCHS
from tests.training.test_trial import Run, ask, last, study_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

_LOAD = """
import keras
import numpy as np
import tensorflow as tf
X = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("float32")
def load():
    return {"train": (X[:40], Y[:40]), "validation": (X[40:50], Y[40:50]), "test": (X[50:], Y[50:])}
def without_validation():
    return {"train": tf.data.Dataset.from_tensor_slices((X, Y)).batch(10).repeat()}
def alone():
    return {"train": X[:40], "validation": X[40:50], "test": X[50:]}
class Trains(keras.Model):
    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.measured(data)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        return {"distance": loss}
"""
_DENSE = """
def build(trial, data):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


def study(folder: Path, code: str, source: str = "load", **tables: Any) -> Any:
    data = {"source": f"user.py:{source}", "options": {}, "validation_size": 0.1}
    return study_of(folder, _LOAD + code, data=data, model={"build": "user.py:build"}, **tables)


def tried(definition: Any) -> None:
    dry_run(definition, load(definition), [ask(definition)], 0.0)


def test_a_study_without_validation_is_not_given_one(tmp_path: Path) -> None:
    """Metric learning, whose model has no test step, was refused by a validation that nobody asked for."""
    code = """
@keras.saving.register_keras_serializable("user")
class Pairs(Trains):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = keras.layers.Dense(2)
    def call(self, x):
        return self.embed(x)
    def measured(self, data):
        return keras.ops.mean(self(data[0]) ** 2)
    def test_step(self, data):
        raise RuntimeError("there is nothing to test")
def build(trial, data):
    model = Pairs()
    model.compile("adam")
    return model
"""
    definition = study(tmp_path, code, "without_validation", metric="distance", fit={"steps_per_epoch": 4})
    tried(definition)
    assert Run(definition).result.fate == "complete"


def test_a_step_gets_data_without_targets_as_fit_gives_them(tmp_path: Path) -> None:
    """`test_step(self, data)` that takes a tensor got a tuple."""
    code = """
@keras.saving.register_keras_serializable("user")
class Encoder(Trains):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.out = keras.layers.Dense(3)
    def call(self, x):
        return self.out(x)
    def measured(self, data):
        assert not isinstance(data, tuple)
        return keras.ops.mean((self(data) - data) ** 2)
    def test_step(self, data):
        return {"distance": self.measured(data)}
def build(trial, data):
    model = Encoder()
    model.compile("adam")
    return model
"""
    definition = study(tmp_path, code, "alone", metric="val_distance")
    tried(definition)
    result = Run(definition).result
    assert result.fate == "complete", result.traceback
    assert result.metrics["test_distance"] > 0


def test_a_model_that_predicts_in_its_own_way_is_asked_to_predict(tmp_path: Path) -> None:
    """A model whose `predict_step` calls it with a pair was called with the rows, and refused."""
    code = """
@keras.saving.register_keras_serializable("user")
class Pair(Trains):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.out = keras.layers.Dense(1)
    def call(self, pair):
        one, other = pair
        return self.out(one + other)
    def measured(self, data):
        return keras.ops.mean((self((data[0], data[0]))[:, 0] - data[1]) ** 2)
    def test_step(self, data):
        return {"distance": self.measured(data)}
    def predict_step(self, data):
        return self((data, keras.ops.zeros_like(data)))
def build(trial, data):
    model = Pair()
    model.compile("adam")
    return model
"""
    definition = study(tmp_path, code, metric="val_distance")
    tried(definition)
    result = Run(definition).result
    assert result.fate == "complete", result.traceback
    assert result.answers is not None


_SCHEDULED = """
class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, steps):
        self.steps = steps
    def __call__(self, step):
        return 0.1 * (1 - keras.ops.cast(step, "float32") / self.steps)
def build(trial, data):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(Falling(data.epochs * -(-len(data.train) // data.batch_size))), "mse")
    return model
def watching(trial, data, model):
    assert model.built
    size = float(model.count_params())
    return [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(size=size))]
"""


def test_a_builder_knows_its_epochs_and_callbacks_their_model(tmp_path: Path) -> None:
    """A schedule over all steps, and a callback that draws by the model, had no place; serving needs no optimizer."""
    definition = study(tmp_path, _SCHEDULED, fit={"callbacks": "user.py:watching", "epochs": 2})
    tried(definition)
    run = Run(definition)
    assert run.result.fate == "complete", run.result.traceback
    assert last(run.result)["size"] == 4.0
    assert run.result.path == WHOLE_EPOCHS
    assert run.result.predictions is not None
    assert not run.model(tmp_path).compiled


@pytest.mark.parametrize(("epochs", "validated"), [(4, [1, 3]), (3, [1])])
def test_validation_every_second_epoch(tmp_path: Path, epochs: int, validated: list[int]) -> None:
    """`validation_freq` was refused; or the trial would have no value when its last epoch is not validated."""
    result = Run(study(tmp_path, _DENSE, fit={"epochs": epochs, "validation_freq": 2})).result
    assert result.fate == "complete", result.reason
    assert [each.step for each in result.epochs if "val_loss" in each.logs] == validated
    assert result.values == (result.recorded["val_loss"],)


_OTHER = """
def fit(trial, model, data, epochs, batch_size, callbacks):
    mine = keras.models.clone_model(model)
    mine.compile("sgd", "mse")
    validation = (data.validation.x, data.validation.y)
    history = mine.fit(data.train.x, data.train.y, validation_data=validation, epochs=epochs, verbose=0)
    return history RETURNED
"""


def test_a_fit_function_may_return_the_model_that_it_trained(tmp_path: Path) -> None:
    """The untrained model of the builder was registered, without a word."""
    other = _DENSE + _OTHER
    refused = Run(study(tmp_path, other.replace("RETURNED", ""), fit={"function": "user.py:fit"})).result
    assert refused.fate == "failed"
    assert "trained another model than model.build returned" in refused.reason
    assert "return (history, model)" in refused.reason
    run = Run(study(tmp_path, other.replace("RETURNED", ", mine"), fit={"function": "user.py:fit"}))
    assert run.result.fate == "complete", run.result.traceback
    data = run.data.validation
    assert run.model(tmp_path).evaluate(data.x, data.y, verbose=0) == pytest.approx(run.result.values[0], rel=1e-4)


_UNSAVED = """
class Bare(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def call(self, x):
        return x * self.factor
class Whole(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.out = keras.layers.Dense(units)
    def call(self, x):
        return self.out(x)
def layer(hidden):
    return keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(1)])
def build(trial, data):
    import functools
    model = MADE
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.parametrize(
    ("made", "told", "mended"),
    [
        (
            "Whole(1)",
            "Whole was created by passing arguments that Keras does not keep",
            "a get_config that returns its",
        ),
        ("layer(Bare(2))", "Could not locate class 'Bare'", "give a class that takes arguments a get_config"),
        ("layer(keras.layers.Dense(2, activation=lambda x: x))", "it holds a Python lambda", "write a named function"),
        (
            "layer(keras.layers.Dense(2, activation=functools.partial(keras.activations.relu, max_value=6)))",
            "it holds a Python functools.partial",
            "write a named function",
        ),
    ],
)
def test_what_cannot_be_saved_is_told_with_what_mends_it(tmp_path: Path, made: str, told: str, mended: str) -> None:
    """Where `get_config` is missing, the advice was to decorate the class."""
    with pytest.raises(ModelError, match=told) as error:
        tried(study(tmp_path, _UNSAVED.replace("MADE", made)))
    assert mended in str(error.value)


_FIXED = """
def build(trial, data):
    inputs = keras.Input(batch_shape=(10, 3))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.parametrize(
    ("batch_size", "told"),
    [(32, "takes 10 rows at once, and batch_size is 32; set batch_size = 10"), (10, "")],
)
def test_a_model_of_fixed_batches(tmp_path: Path, batch_size: int, told: str) -> None:
    """Keras trains it when the parts are multiples; else the trial must say which number would do."""
    definition = study(tmp_path, _FIXED, fit={"batch_size": batch_size})
    if told:
        with pytest.raises(ModelError, match=told):
            tried(definition)
        return
    tried(definition)
    assert Run(definition).result.fate == "complete"


@pytest.mark.parametrize("called", ["", "model(data.example(1))", "model.build((1, 3))"])
def test_a_model_that_learns_its_inputs_from_its_first_rows_takes_any_batch(tmp_path: Path, called: str) -> None:
    """A Sequential model without `Input` was refused: it took 1 row at once, and batch_size was another."""
    made = 'keras.Sequential([keras.layers.Dense(1)])\n    model.compile("sgd", "mse")'
    tried(study(tmp_path, f"\ndef build(trial, data):\n    model = {made}\n    {called}\n    return model\n"))


def test_a_part_that_is_no_multiple_of_fixed_batches(tmp_path: Path) -> None:
    """Keras would end in an error about shapes."""
    definition = study(tmp_path, _FIXED.replace("(10, 3)", "(16, 3)"), fit={"batch_size": 16})
    with pytest.raises(ModelError, match="the training part has 40; 32 or 48 would do"):
        tried(definition)
