"""Code of the user's own that refuses some configurations, or keeps a model from one trial to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from keras.src.utils.naming import reset_uids

from search.data.loading import load
from search.data.streams import check_ends, is_endless, length
from search.errors import DataError, ModelError
from search.study import space
from search.training.dry_run import dry_run
from search.training.metrics import measure
from search.training.probes import probes
from tests.training.test_trial import Run, ask, last, study_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SOME = """
import sys
import keras, numpy as np, optuna

class Mine(BaseException):
    pass

CALLS = [0]

def plain(trial, data):
    inputs, x = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", "binary_crossentropy")
    return model

def refuse():
    CALLS[0] += 1
    if CALLS[0] <= 2:
        {refusal}

def build(trial, data):
    return {build}

def callbacks(trial, data):
    {callbacks}
    return []

def export(model, data):
    {export}
    return model
"""


def some(folder: Path, refusal: str, where: str, **tables: Any) -> Any:
    """Return a study that refuses the first two configurations somewhere."""
    places = {"build": "plain(trial, data)", "callbacks": "pass", "export": "pass"}
    places[where] = "refuse() if CALLS[0] < 2 else plain(trial, data)" if where == "build" else "refuse()"
    model = {"build": "user.py:build", "export": "user.py:export"}
    fit = {"callbacks": "user.py:callbacks", "epochs": 1}
    return study_of(folder, SOME.format(refusal=refusal, **places), model=model, fit=fit, **tables)


@pytest.mark.parametrize(
    ("where", "refusal"),
    [
        ("build", "raise Mine('no')"),
        ("build", "return None"),
        ("build", "sys.exit(0)"),
        ("callbacks", "raise ValueError('no')"),
        ("callbacks", "raise optuna.TrialPruned('no')"),
        ("callbacks", "sys.exit(0)"),
        ("export", "raise ValueError('no')"),
    ],
)
def test_wherever_a_configuration_is_refused_others_run(tmp_path: Path, where: str, refusal: str) -> None:
    """A study whose first configuration is refused by its callbacks, its export or `sys.exit` would never run."""
    definition = some(tmp_path, refusal, where)
    assert dry_run(definition, load(definition), probes(definition, 0), 0.0).data.log_names == ("loss", "val_loss")


def test_callbacks_may_prune_a_trial(tmp_path: Path) -> None:
    """A trial that its callbacks prune would count as failed, by "raised TrialPruned"."""
    result = Run(some(tmp_path, "raise optuna.TrialPruned('too wide')", "callbacks")).result
    assert (result.fate, result.reason) == ("pruned", "too wide")


KEPT = """
import keras
MODELS = []

def whole(trial, data):
    if not MODELS:
        MODELS.append(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")]))
    MODELS[0].compile("sgd", "binary_crossentropy")
    return MODELS[0]

LAYER = keras.layers.Dense(3, name="shared"{frozen})

def part(trial, data):
    inputs, x = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(LAYER(x)))
    model.compile("sgd", "binary_crossentropy")
    return model
"""


@pytest.mark.parametrize("name", ["whole", "part"])
def test_a_model_that_is_kept_from_trial_to_trial_is_refused(tmp_path: Path, name: str) -> None:
    """Each trial would go on from what the one before it learned, and its value say nothing of its configuration."""
    definition = study_of(tmp_path, KEPT.format(frozen=""), model={"build": f"user.py:{name}"})
    with pytest.raises(ModelError, match=f"user.py:{name} returned the same model or layer again, .* in each call"):
        dry_run(definition, load(definition), probes(definition, 0), 0.0)


def test_layers_that_learn_nothing_may_be_shared(tmp_path: Path) -> None:
    """A frozen layer, made once for all trials, would be refused, or its name be "used 2 times in the model"."""
    code = KEPT.format(frozen=", trainable=False").replace(', name="shared"', "")
    reset_uids()  # as in a worker that has made no layer yet: the shared one is "dense", and so would the model's be
    definition = study_of(tmp_path, code, model={"build": "user.py:part"}, fit={"epochs": 1})
    dry_run(definition, load(definition), probes(definition, 0), 0.0)
    assert Run(definition).result.fate == "complete"


STEP = """
import keras
from keras import ops

@keras.saving.register_keras_serializable("user")
class Own(keras.Model):
    def train_step(self, data):
        x, y, weight = data
        import tensorflow as tf
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True), weight)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}

def build(trial, data):
    inputs, x = data.inputs()
    model = Own(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", "binary_crossentropy")
    return model
"""


def test_a_step_of_ones_own_gets_class_weights_in_the_dry_run_too(tmp_path: Path) -> None:
    """A step that takes weights would be refused, and one that does not fail in each trial."""
    fit = {"class_weight": "balanced", "epochs": 1}
    definition = study_of(tmp_path, STEP, model={"build": "user.py:build"}, fit=fit)
    assert "val_loss" in dry_run(definition, load(definition), [ask(definition)], 0.0).data.log_names
    assert Run(definition).result.fate == "complete"
    two = study_of(
        tmp_path,
        STEP.replace("x, y, weight = data", "(x, y), weight = data, None"),
        fit=fit,
        model={"build": "user.py:build"},
    )
    with pytest.raises(
        ModelError,
        match=r"a batch .user.py, line 8, in train_step: ValueError: too many values to unpack",
    ):
        dry_run(two, load(two), [ask(two)], 0.0)


TESTED = """
import keras
class Tested(keras.callbacks.Callback):
    def on_test_end(self, logs=None):
        self.seen = logs["loss"]
    def on_epoch_end(self, epoch, logs=None):
        logs["seen"] = self.seen
"""


def test_callbacks_with_files_or_a_validation_of_their_own_in_folds_and_the_refit(tmp_path: Path) -> None:
    """Every trial of a study with folds would fail: by "No such file", or for a validation that never came."""
    fit = {"callbacks": ["CSVLogger", "user.py:Tested"], "epochs": 1}
    result = Run(study_of(tmp_path, TESTED, fit=fit, data={"folds": 2})).result
    assert result.fate == "complete", result.traceback
    assert last(result)["refit/seen"] == last(result)["refit/loss"]


def pydataset(**methods: Any) -> Any:
    """Return an instance of a PyDataset with these attributes."""
    import keras

    def batch(_: Any, index: int) -> Any:
        return np.ones((8, 2)) * index, np.arange(8) % 2

    return type("Batches", (keras.utils.PyDataset,), {"__getitem__": batch, **methods})()


def test_a_pydataset_says_its_length_as_keras_asks_for_it() -> None:
    """One without end would hang in its first epoch; one that cannot say its length would fail in each trial."""
    endless = pydataset(num_batches=property(lambda _: None))
    assert is_endless(endless)
    with pytest.raises(DataError, match=r"the training part has no end; say in .fit."):
        check_ends(endless, None, "train")
    check_ends(endless, 5, "train")
    assert length(pydataset(num_batches=property(lambda _: 4))) == 4
    for odd in (lambda _: float("inf"), lambda _: None, lambda _: 2**62):
        with pytest.raises(DataError, match="the test part does not say how many batches it has; return a whole"):
            check_ends(pydataset(__len__=odd), 5, "test")
    with pytest.raises(DataError, match="does not say how many batches"):
        check_ends(pydataset(), 5, "validation")


ENDLESS = """
import keras, numpy as np
X = np.random.default_rng(0).normal(size=(48, 2)).astype("float32")
Y = (X[:, 0] > 0).astype("float32")

def rows():
    import tensorflow as tf
    whole = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    return {"train": whole, "validation": whole.repeat(), "test": whole.repeat()}

def build(trial, data):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

def count(y, p):
    return len(y)
"""


def test_metrics_of_a_stream_without_end_take_its_steps(tmp_path: Path) -> None:
    """A metric of one's own would read the validation part for ever, after the first training."""
    definition = study_of(
        tmp_path,
        ENDLESS,
        data={"source": "user.py:rows", "options": {}},
        model={"build": "user.py:build"},
        metrics={"rows": {"function": "user.py:count"}},
        fit={"validation_steps": 2, "epochs": 1},
    )
    definition = definition.model_copy(update={"fit": definition.fit.model_copy(update={"batch_size": 32})})
    data = load(definition)
    assert data.validation is not None
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    from search.training.model import build

    model = build(definition, study.ask(space.distributions(definition)), data)
    assert measure(definition, model, data, data.validation) == {"rows": 32.0}
