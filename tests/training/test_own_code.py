"""The user's own code in a trial: callbacks with arguments, training, metrics, and the model to register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from mlflow import pyfunc
from sklearn import metrics as sklearn_metrics

from search.data.loading import load
from search.errors import ModelError, StudyFileError
from search.tracking import logged_model
from search.tracking.user_code import model_code
from search.training import metrics
from search.training.dry_run import dry_run
from search.training.fit import BATCHES, PLAIN, evaluate
from search.training.own_fit import OWN_FIT, _by_epoch
from search.workers.fresh import loaded_elsewhere
from tests.training.test_trial import PruneAt, Run, ask, last, study_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CALLBACKS = """
import keras

class Mark(keras.callbacks.Callback):
    def __init__(self, start, name="mark"):
        super().__init__()
        self.start, self.name = start, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.start + epoch

def callbacks(trial, data):
    return [Mark(trial.params["learning_rate"], name="val_rate"), Mark(len(data.train))]
"""


def test_callbacks_with_arguments(tmp_path: Path) -> None:
    """A callback with a setting could only be used by writing a class without one."""
    wanted = [{"class": "user.py:Mark", "start": 10.0}, {"class": "EarlyStopping", "monitor": "mark", "mode": "min"}]
    run = Run(study_of(tmp_path, CALLBACKS, fit={"callbacks": wanted}))
    assert run.result.fate == "complete", run.result.traceback
    assert [epoch.logs["mark"] for epoch in run.result.epochs] == [10.0, 11.0]
    assert run.result.training["fit"]["callbacks"][0] == {"class": "user.py:Mark", "start": 10.0}


def test_a_function_of_callbacks_knows_its_trial(tmp_path: Path) -> None:
    """A callback could not follow the trial's own parameters."""
    definition = study_of(tmp_path, CALLBACKS, fit={"callbacks": "user.py:callbacks"}, metric="val_rate")
    data = load(definition)
    dry_run(definition, data, [ask(definition)], 0.0)
    run = Run(definition, data=data)
    assert run.result.values == (run.trial.params["learning_rate"] + 2,)
    assert last(run.result)["mark"] == len(run.data.train) + 2


def test_a_metric_that_no_callback_logs_is_found_after_one_epoch(tmp_path: Path) -> None:
    """A misspelt metric would be found at the end of a long trial."""
    definition = study_of(tmp_path, CALLBACKS, fit={"callbacks": "user.py:callbacks"}, metric="val_rat")
    result = Run(definition).result
    assert (result.fate, len(result.epochs)) == ("failed", 1)
    assert result.reason.startswith("no metric 'val_rat' in the logs after epoch 1")
    assert result.reason.endswith("did you mean 'val_rate'?")


@pytest.mark.parametrize("returned", ["3", "[3]"])
def test_functions_of_callbacks_that_give_something_else(tmp_path: Path, returned: str) -> None:
    """Every trial of the night would fail alike."""
    code = f"def callbacks(trial, data):\n    return {returned}\n"
    definition = study_of(tmp_path, code, fit={"callbacks": "user.py:callbacks"})
    with pytest.raises(ModelError, match=r"fit.callbacks: user.py:callbacks (returned|gave) int"):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


def test_what_callbacks_write_stays_in_the_trials_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials at once would overwrite each other's checkpoints in the working folder."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    code = "import keras, os\nclass Look(keras.callbacks.Callback):\n    def on_epoch_end(self, epoch, logs=None):\n"
    code += "        logs['written'] = float(sum(map(len, os.walk('.'))))\n"
    wanted = ["CSVLogger", {"class": "ModelCheckpoint", "filepath": "best.keras"}, "user.py:Look"]
    result = Run(study_of(tmp_path, code, fit={"callbacks": wanted})).result
    assert result.fate == "complete", result.traceback
    assert set(tmp_path.iterdir()) - before == {tmp_path / "user.py"}


OWN_FIT_CODE = """
import keras

def two_phases(trial, model, data, epochs, batch_size, callbacks):
    held_out = (data.validation.x, data.validation.y)
    settings = {"batch_size": batch_size, "validation_data": held_out, "verbose": 0}
    model.fit(data.train.x, data.train.y, epochs=1, callbacks=callbacks, **settings)
    model.optimizer.learning_rate = trial.params["learning_rate"] / 10
    return model.fit(data.train.x, data.train.y, epochs=epochs, callbacks=callbacks, **settings)

def without_callbacks(trial, model, data, epochs, **settings):
    return model.fit(data.train.x, data.train.y, epochs=epochs, verbose=0,
                     validation_data=(data.validation.x, data.validation.y))

def number(trial, model, data):
    return 0.25

def metrics(trial, model, data, **settings):
    model.fit(data.train.x, data.train.y, verbose=0)
    return {"score": 3.0, "val_loss": 0.5}

def loop(trial, model, data, epochs, callbacks, **settings):
    for epoch in range(epochs):
        for callback in callbacks:
            callback.on_epoch_end(epoch, {"val_loss": 5.0 - epoch})
        model.set_weights([each + 1 for each in model.get_weights()])

def text(trial, model, data):
    return "good"

def wrong(trial, model):
    pass
"""


def own_fit(folder: Path, name: str, **tables: Any) -> Any:
    return study_of(folder, OWN_FIT_CODE, fit={"function": f"user.py:{name}", "epochs": 3}, **tables)


def test_training_in_two_phases(tmp_path: Path) -> None:
    """A model that is first trained frozen and then as a whole could not be searched over."""
    definition = own_fit(tmp_path, "two_phases")
    data = load(definition)
    assert dry_run(definition, data, [ask(definition)], 0.0).data.path == OWN_FIT
    run = Run(definition, data=data)
    assert (run.result.fate, run.result.path) == ("complete", OWN_FIT), run.result.traceback
    assert [epoch.step for epoch in run.result.epochs] == [0, 1, 2, 3]
    measured = evaluate(run.model(tmp_path), run.data.validation)
    assert run.result.values == pytest.approx((measured["loss"],), rel=1e-5)
    assert "test_loss" in run.result.metrics
    assert Run(definition, PruneAt(3)).result.fate == "pruned"


@pytest.mark.parametrize(
    ("name", "metric", "values", "epochs"),
    [
        ("number", "val_loss", (0.25,), 0),
        ("number", "anything", (0.25,), 0),
        ("metrics", "score", (3.0,), 0),
        ("metrics", "val_loss", (0.5,), 0),
        ("without_callbacks", "val_loss", None, 3),
        ("loop", "val_loss", None, 3),
    ],
)
def test_what_the_users_training_returns_is_the_trials_value(
    tmp_path: Path, name: str, metric: str, values: tuple[float, ...] | None, epochs: int
) -> None:
    """A trial would be valued by something else than the user's training said."""
    run = Run(own_fit(tmp_path, name, metric=metric))
    assert run.result.fate == "complete", run.result.traceback
    assert len(run.result.epochs) == epochs
    if values is None:  # of the model that is handed over
        values = (evaluate(run.model(tmp_path), run.data.validation)["loss"],)
    assert run.result.values == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(("name", "shown"), [("wrong", "too many positional"), ("none", "has no 'none'")])
def test_training_that_cannot_be_called_is_refused_at_once(tmp_path: Path, name: str, shown: str) -> None:
    """Every trial of the night would fail alike."""
    definition = own_fit(tmp_path, name)
    with pytest.raises(ModelError, match=rf"^fit.function: .*{shown}"):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


def test_training_that_returns_no_number_fails(tmp_path: Path) -> None:
    """Optuna would be told a text."""
    result = Run(own_fit(tmp_path, "text")).result
    assert result.reason == (
        "fit.function: user.py:text returned str; return a History, a dictionary of numbers or a number, "
        "alone or with the trained model: (history, model)"
    )


def scores(**more: Any) -> dict[str, Any]:
    return {
        "f2": {"function": "sklearn.metrics:fbeta_score", "options": {"beta": 2}, **more},
        "area": {"function": "sklearn.metrics:roc_auc_score"},
    }


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_scores_of_scikit_learn(tmp_path: Path, threshold: float | None) -> None:
    """A study could not choose by the score that the user is judged by."""
    more = {} if threshold is None else {"threshold": threshold}
    definition = study_of(tmp_path, metrics=scores(**more), metric="val_f2", direction="maximize")
    data = load(definition)
    dry_run(definition, data, [ask(definition)], 0.0)
    run = Run(definition, data=data)
    assert run.result.fate == "complete", run.result.traceback
    model = run.model(tmp_path)
    for part, prefix in ((data.validation, "val"), (data.test, "test")):
        predicted = model.predict(np.asarray(part.x, "float32"), verbose=0)[:, 0]
        classes = (predicted >= (threshold or 0.5)).astype(int)
        assert run.result.metrics[f"{prefix}_f2"] == sklearn_metrics.fbeta_score(part.y, classes, beta=2)
        assert run.result.metrics[f"{prefix}_area"] == sklearn_metrics.roc_auc_score(part.y, predicted)
    assert run.result.values == (run.result.metrics["val_f2"],)
    assert "val_f2" not in last(run.result)


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_scores_of_a_softmax_over_two_classes(tmp_path: Path, threshold: float | None) -> None:
    """A score would fail on models with an output for each of two classes, or an area be that of the classes."""
    more = {} if threshold is None else {"threshold": threshold}
    definition = study_of(tmp_path, metrics=scores(**more))
    data = load(definition)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    predicted = model.predict(np.asarray(data.test.x, "float32"), verbose=0)[:, 1]
    measured = metrics.measure(definition, model, data, data.test)
    assert measured["area"] == pytest.approx(sklearn_metrics.roc_auc_score(data.test.y, predicted))
    classes = (predicted >= (threshold or 0.5)).astype(int)
    assert measured["f2"] == pytest.approx(sklearn_metrics.fbeta_score(data.test.y, classes, beta=2))


def test_scores_of_each_epoch_prune_and_stop(tmp_path: Path) -> None:
    """A score of the user's own could be neither watched nor pruned by."""
    fit = {"epochs": 6, "early_stopping": {"patience": 1}, "learning_rate_schedule": {"type": "plateau"}}
    definition = study_of(tmp_path, metrics=scores(), metric="val_f2", direction="maximize", fit=fit)
    run = Run(definition)  # early stopping watches the study's metric, so it is measured after each epoch
    assert run.result.fate == "complete", run.result.traceback
    curve = [epoch.logs["val_f2"] for epoch in run.result.epochs]
    assert run.result.values == (max(curve),)
    every = study_of(tmp_path, metrics=scores(every_epoch=True), metric="val_f2", direction="maximize")
    assert Run(every, PruneAt(2)).result.fate == "pruned"


def test_classes_of_several_outputs_are_the_largest(tmp_path: Path) -> None:
    """A score over several classes would be given probabilities that it refuses."""
    definition = study_of(
        tmp_path,
        data={"options": {"n_samples": 120, "centers": 4, "random_state": 0}},
        metrics={"macro": {"function": "sklearn.metrics:f1_score", "options": {"average": "macro"}}},
    )
    run = Run(definition)
    predicted = run.model(tmp_path).predict(np.asarray(run.data.test.x, "float32"), verbose=0).argmax(axis=1)
    expected = sklearn_metrics.f1_score(run.data.test.y, predicted, average="macro")
    assert run.result.metrics["test_macro"] == expected


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("raise KeyError('no')", "metrics.f2: user.py, line 2, in f2: KeyError: 'no'"),
        ("return [1, 2]", "metrics.f2: user.py:f2 returned list; return a number"),
        ("pass", "metrics.f2: user.py:f2 returned NoneType; return a number"),
    ],
)
def test_metrics_that_give_no_number_fail_the_trial(tmp_path: Path, code: str, shown: str) -> None:
    """The search would end in a traceback, or a trial have no value."""
    metrics = {"f2": {"function": "user.py:f2"}}
    definition = study_of(tmp_path, f"def f2(y_true, y_pred):\n    {code}\n", metrics=metrics, metric="val_f2")
    assert Run(definition).result.reason == shown


def test_own_metrics_are_means_over_folds_and_tested(tmp_path: Path) -> None:
    """With folds the score would be missing, or be measured on rows it was trained on."""
    result = Run(
        study_of(tmp_path, metrics=scores(), metric="val_area", direction="maximize", data={"folds": 2})
    ).result
    assert result.fate == "complete", result.traceback
    folds = [result.metrics[f"val_area_fold_{index}"] for index in range(2)]
    assert result.values == pytest.approx((np.mean(folds),))
    assert "test_area" in result.metrics


def test_a_misspelt_own_metric_is_found_before_the_first_trial(tmp_path: Path) -> None:
    """A night's trials would fail one by one at their ends."""
    definition = study_of(tmp_path, metrics=scores(), metric="val_f3", direction="maximize")
    with pytest.raises(StudyFileError, match=r"metric: 'val_f3' is not among .* did you mean 'val_f2'"):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


ENCODER = """
import keras
def build(trial, data):
    inputs, x = data.inputs()
    code = keras.layers.Dense(3, name="code")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(code))
    model.compile("sgd", "binary_crossentropy")
    return model

def encoder(model, data):
    return keras.Model(model.input, model.get_layer("code").output)
"""


def test_the_registered_model_may_be_another(tmp_path: Path) -> None:
    """The encoder of a pair, or a reader without its label input, could not be registered."""
    definition = study_of(tmp_path, ENCODER, model={"build": "user.py:build", "export": "user.py:encoder"})
    data = load(definition)
    assert dry_run(definition, data, [ask(definition)], 0.0).data.output[0].shape == (-1, 3)
    run = Run(definition, data=data)
    assert run.model(tmp_path).output_shape == (None, 3)
    assert "test_loss" in run.result.metrics  # of the model that was trained


OUTPUTS = """
import keras, tensorflow as tf

@keras.saving.register_keras_serializable("user")
class Words(keras.layers.Layer):
    def call(self, x):
        return tf.where(x > 0.5, "über", "no")
    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype="string")

def build(trial, data):
    inputs, x = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", "binary_crossentropy")
    return model

def words(model, data):
    return keras.Model(model.input, {"p": model.output, "word": Words()(model.output)})

def nested(model, data):
    return keras.Model(model.input, {"deep": {"p": model.output}})
"""


def test_texts_among_the_outputs_are_served_and_nested_outputs_refused(tmp_path: Path) -> None:
    """The first trial would train, and its model could not be logged: "data type 'string' not understood"."""
    definition = study_of(tmp_path, OUTPUTS, model={"build": "user.py:build", "export": "user.py:words"})
    data = load(definition)
    tried = dry_run(definition, data, [ask(definition)], 0.0)
    written = logged_model.write(tmp_path / "model", tried.archive, tried.data, model_code(definition), tried.answers)
    assert loaded_elsewhere(str(tmp_path / "model"), written) == ""
    given = pyfunc.load_model(str(tmp_path / "model")).predict(written)
    assert set(given["word"].reshape(-1)) <= {"über", "no"}
    definition = study_of(tmp_path, OUTPUTS, model={"build": "user.py:build", "export": "user.py:nested"})
    with pytest.raises(ModelError, match="the model's outputs are nested; give one dictionary or one list of outputs"):
        dry_run(definition, data, [ask(definition)], 0.0)


GAN = """
import keras
from keras import ops

@keras.saving.register_keras_serializable("user")
class Pair(keras.Model):
    def __init__(self, generator, **settings):
        super().__init__(**settings)
        self.generator = generator

    def train_step(self, data):
        import tensorflow as tf
        x = data[0] if isinstance(data, tuple) else data
        with tf.GradientTape() as tape:
            made = self.generator(keras.random.normal((8, 5)), training=True)
            loss = ops.mean(ops.square(ops.mean(made, axis=0) - ops.mean(ops.cast(x, "float32"), axis=0)))
        weights = self.generator.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"g_loss": loss}

def build(trial, data):
    generator = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    model = Pair(generator)
    model.compile(keras.optimizers.Adam(trial.params["learning_rate"]))
    return model

def generator(model, data):
    return model.generator
"""


def test_a_generator_is_trained_and_registered(tmp_path: Path) -> None:
    """A model of models has no `call`, no loss and no validation, and would be refused."""
    model = {"build": "user.py:build", "export": "user.py:generator"}
    definition = study_of(tmp_path, GAN, model=model, metric="g_loss")
    data = load(definition)
    summary = dry_run(definition, data, [ask(definition)], 0.0).data
    assert [spec.shape for spec in (*summary.inputs, *summary.output)] == [(-1, 5), (-1, 2)]
    run = Run(definition, data=data)
    assert (run.result.fate, run.result.path) == ("complete", PLAIN), run.result.traceback
    assert run.result.values == (last(run.result)["g_loss"],)
    assert run.model(tmp_path).output_shape == (None, 2)


def test_a_model_without_call_needs_an_export(tmp_path: Path) -> None:
    """The search would end when the best model is registered."""
    definition = study_of(tmp_path, GAN, model={"build": "user.py:build"}, metric="g_loss")
    with pytest.raises(ModelError, match=r"the model has no `call`.* name a function in model.export"):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


def test_rows_in_the_files_order(tmp_path: Path) -> None:
    """`shuffle = false` would change nothing, on the fast path or batch by batch."""
    watches = (
        "import keras\nclass Watch(keras.callbacks.Callback):\n    def on_train_batch_end(self, batch, logs=None):\n"
    )
    runs = [
        Run(study_of(tmp_path, watches + "        pass\n", fit={"shuffle": False, "callbacks": callbacks})).result
        for callbacks in ([], ["user.py:Watch"])
    ]
    assert runs[1].path == BATCHES
    losses = [[epoch.logs["loss"] for epoch in run.epochs] for run in runs]
    assert losses[0] == losses[1]
    assert losses[0] != [epoch.logs["loss"] for epoch in Run(study_of(tmp_path)).result.epochs]


def test_steps_an_epoch(tmp_path: Path) -> None:
    """A stream without end could not be trained from, as `fit` can."""
    result = Run(study_of(tmp_path, fit={"steps_per_epoch": 1, "batch_size": 8, "validation_steps": 1})).result
    assert (result.fate, result.path) == ("complete", PLAIN), result.traceback
    assert len(result.epochs) == 3


ODD = """
import keras
import keras
import numpy as np
X = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
Y = np.eye(2, dtype="float32")[(X.sum(axis=1) > 0).astype(int)]
def load():
    return {"train": (X[:50], Y[:50], np.full(50, 2.0)), "validation": (X[50:65], Y[50:65]), "test": (X[65:], Y[65:])}
def build(trial, data):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=[keras.metrics.F1Score(name="f1")])
    return model
class Logs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["told"] = "a text"
def fit(trial, model, data, epochs, batch_size, callbacks):
    train, held_out = data.train, data.validation
    settings = {"validation_data": (held_out.x, held_out.y), "epochs": epochs, "verbose": 0}
    return model.fit(train.x, train.y, sample_weight=train.sample_weight, **settings).history
"""


@pytest.mark.parametrize("settings", [{"callbacks": ["user.py:Logs"]}, {"function": "user.py:fit"}])
def test_vectors_texts_and_dictionaries_of_lists_are_logs(settings: dict[str, Any], tmp_path: Path) -> None:
    """`F1Score`, a text in the logs, a returned `.history` or weights of one part alone would fail every trial."""
    settings = {"epochs": 2, "early_stopping": {"patience": 2}, **settings}
    more = {"model": {"build": "user.py:build"}, "data": {"source": "user.py:load", "options": {}}, "fit": settings}
    result = Run(study_of(tmp_path, ODD, metric="val_f1", direction="maximize", **more)).result
    assert result.fate == "complete", result.reason
    assert len(result.epochs) == 2
    assert 0 <= result.values[0] <= 1
    assert {"val_f1", "test_f1", "test_loss"} <= set(result.recorded)
    assert "told" not in result.recorded


def test_a_history_with_fewer_validations_is_read_by_its_epochs() -> None:
    """The loss of one epoch would stand beside the validation of another, and a refit train half as long."""
    history = {"loss": [6, 5, 4, 3, 2, 1], "val_loss": [0.5, 0.3, 0.1]}
    assert _by_epoch(history, 1) == {
        1: {"loss": 5, "val_loss": 0.5},
        3: {"loss": 3, "val_loss": 0.3},
        5: {"loss": 1, "val_loss": 0.1},
    }
    assert list(_by_epoch({"loss": [2, 1], "val_loss": [4, 3]}, 1)) == [0, 1]
    ten = {"loss": list(range(10)), "val_loss": [3, 7]}
    assert _by_epoch(ten, 4) == {3: {"loss": 3, "val_loss": 3}, 7: {"loss": 7, "val_loss": 7}}
    assert _by_epoch({"loss": [], "val_loss": []}, 1) == {}
