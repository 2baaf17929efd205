"""Building models: the built-in mlp for every task, the user's builder, and what is said of a wrong one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
import pytest

from search.data.dataset import Data, Part
from search.errors import ModelError
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.training import fit, model
from search.training.description import describe
from tests import studyfiles

BLOBS = {"n_samples": 40}


def data_for(task: str) -> Data:
    """Return 24 rows of 3 numbers and a target for the task."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype("float32")
    targets: dict[str, Any] = {
        "binary": (x[:, 0] > 0).astype("float32"),
        "multiclass": (np.arange(24) % 4).astype("int32"),
        "multilabel": (x[:, :2] > 0).astype("float32"),
        "regression": x[:, :2] + x[:, 1:],
    }
    classes = {"binary": (0, 1), "multiclass": (0, 1, 2, 3), "multilabel": ("a", "b"), "regression": ()}[task]
    part = Part(x, targets[task])
    return Data(task, classes, (), part, part, part, False, "made", "0")  # type: ignore[arg-type]


def fixed(**params: Any) -> optuna.trial.FixedTrial:
    """Return a trial with these parameters sampled."""
    trial = optuna.trial.FixedTrial(params)
    for name, value in params.items():
        trial.suggest_categorical(name, [value])
    return trial


def study_of(folder: Path, code: str = "", **tables: Any) -> Definition:
    (folder / "user.py").write_text(code)
    sys.modules.pop("user", None)
    content: dict[str, Any] = {
        "name": "tiny",
        "metric": "val_loss",
        "direction": "minimize",
        "data": {"source": "sklearn:make_blobs", "options": BLOBS},
        "fit": {"epochs": 1},
        "space": {"batch_size": {"type": "int", "low": 8, "high": 16}},
        **tables,
    }
    return parse_definition(content, folder / "tiny.toml")


@pytest.mark.parametrize(
    ("task", "units", "activation", "logs"),
    [
        ("binary", 1, "sigmoid", {"loss", "binary_accuracy"}),
        ("multiclass", 4, "softmax", {"loss", "accuracy"}),
        ("multilabel", 2, "sigmoid", {"loss", "binary_accuracy"}),
        ("regression", 2, "linear", {"loss", "mae"}),
    ],
)
def test_mlp_fits_its_head_to_the_task(task: str, units: int, activation: str, logs: set[str]) -> None:
    """The built-in model would learn something other than the target asks for."""
    data = data_for(task)
    built = model.mlp(fixed(width=5), data)
    head = [each for each in built.layers if isinstance(each, keras.layers.Dense)][-1]
    assert (head.units, keras.activations.serialize(head.activation)) == (units, activation)
    fit.fit(built, data, epochs=1, batch_size=8, seed=0, callbacks=[])
    assert set(fit.evaluate(built, data.test)) == logs


def test_mlp_builds_what_is_searched_and_fixed() -> None:
    """A parameter of the study file would change nothing."""
    searched = fixed(width=6, depth=2, dropout=0.25, learning_rate=0.05, epochs=3, batch_size=8)
    built = model.mlp(searched, data_for("binary"), activation="tanh", optimizer="adamw", weight_decay=0.1)
    dense = [layer for layer in built.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [6, 6, 1]
    assert keras.activations.serialize(dense[0].activation) == "tanh"
    assert [layer.rate for layer in built.layers if isinstance(layer, keras.layers.Dropout)] == [0.25, 0.25]
    assert isinstance(built.optimizer, keras.optimizers.AdamW)
    assert float(built.optimizer.learning_rate) == pytest.approx(0.05)
    assert built.optimizer.weight_decay == 0.1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "lion"])
def test_zero_reaches_the_optimizer(optimizer: str) -> None:
    """MLflow would record 0 where the optimizer used its own default."""
    built = model.mlp(fixed(learning_rate=0.0, weight_decay=0), data_for("binary"), optimizer=optimizer)
    assert float(built.optimizer.learning_rate) == 0.0
    assert built.optimizer.weight_decay == 0
    whole = model.mlp(fixed(learning_rate=1), data_for("binary"), optimizer=optimizer)  # as in a list of choices
    assert float(whole.optimizer.learning_rate) == 1.0


def test_every_falsy_value_reaches_the_model() -> None:
    """A sampled 0 or false would be replaced by a default in silence."""
    built = model.mlp(fixed(depth=0, dropout=0.0, batch_norm=False), data_for("binary"))
    assert [type(layer).__name__ for layer in built.layers] == ["InputLayer", "Dense"]


def test_mlp_defaults_are_the_tutorials() -> None:
    """The shipped study would no longer be the tutorial it grew out of."""
    built = model.mlp(fixed(), data_for("binary"))
    assert [type(layer).__name__ for layer in built.layers] == ["InputLayer", "Dense", "Dense"]
    assert (built.layers[1].units, type(built.optimizer)) == (128, keras.optimizers.Adam)
    assert keras.activations.serialize(built.layers[1].activation) == "relu"


def test_batch_norm_stands_between_weights_and_activation() -> None:
    """Normalisation would follow the activation, and a bias be learned for nothing."""
    built = model.mlp(fixed(batch_norm=True, width=4), data_for("binary"))
    kinds = [type(layer).__name__ for layer in built.layers]
    assert kinds == ["InputLayer", "Dense", "BatchNormalization", "Activation", "Dense"]
    assert not built.layers[1].use_bias


def test_images_are_flattened() -> None:
    """The built-in model would predict one number for each row of pixels."""
    part = Part(np.zeros((4, 8, 8, 1), "float32"), np.array([0, 1, 0, 1], "float32"))
    built = model.mlp(fixed(width=4), Data("binary", (0, 1), (), part, part, part, False, "made", "0"))
    assert built.output_shape == (None, 1)


def test_an_unknown_optimizer_is_named() -> None:
    """The person would be shown a page of Keras's serialisation."""
    with pytest.raises(ModelError, match=r"^optimizer: .*adamm.*; use an optimizer's name in keras.optimizers$"):
        model.mlp(fixed(optimizer="adamm"), data_for("binary"))


def test_a_builder_may_sample_more(tmp_path: Path) -> None:
    """Conditional spaces could not be written."""
    code = (
        "import keras\n"
        "def build(trial, data, heads):\n"
        "    inputs, x = data.inputs()\n"
        "    for layer in range(trial.suggest_int('depth', 1, 3)):\n"
        "        x = keras.layers.Dense(trial.suggest_int(f'width_{layer}', 2, 4))(x)\n"
        "    model = keras.Model(inputs, keras.layers.Dense(heads)(x))\n"
        "    model.compile('sgd', 'mse')\n"
        "    return model\n"
    )
    definition = study_of(tmp_path, code, model={"build": "user.py:build", "heads": 1})
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    model.build(definition, trial, data_for("binary"))
    assert {"depth", "width_0"} <= set(trial.params)


@pytest.mark.parametrize(
    ("code", "table", "shown"),
    [
        ("def build(trial):\n    pass\n", {}, r"too many positional arguments; write build\(trial, data, …\)"),
        ("def build(trial, data):\n    pass\n", {"width": 3}, "unexpected keyword argument 'width'"),
        ("def build(trial, data):\n    return 3\n", {}, "returned int; return a compiled keras.Model"),
        (
            "def build(trial, data):\n    return [][1]\n",
            {},
            "user.py, line 2, in build: IndexError: list index",
        ),
        ("def built(trial, data):\n    pass\n", {}, "user.py has no 'build'; did you mean 'built'"),
        ("import nowhere_to_be_found\n", {}, "user.py cannot be imported .user.py, line 1: ModuleNotFoundError"),
    ],
)
def test_builders_that_cannot_work(tmp_path: Path, code: str, table: dict[str, Any], shown: str) -> None:
    """A mistake in the user's file would end in a traceback through the package."""
    definition = study_of(tmp_path, code, model={"build": "user.py:build", **table})
    with pytest.raises(ModelError, match=f"^model.build: .*{shown}"):
        model.try_build(definition, fixed(), data_for("binary"))


def test_user_files_are_all_that_a_model_needs(tmp_path: Path) -> None:
    """A registered model would miss the file that its custom layers are written in."""
    (tmp_path / "more.py").write_text("")
    definition = study_of(
        tmp_path,
        model={"build": "user.py:build"},
        data={"source": "user.py:rows"},
        fit={"epochs": 1, "callbacks": ["more.py:Mark", "TerminateOnNaN"]},
    )
    assert model.user_files(definition) == [tmp_path / "more.py", tmp_path / "user.py"]


class Tagger(keras.Model):
    """A subclassed model, which does not say what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.tag = keras.layers.Embedding(10, 4), keras.layers.Dense(3)

    def call(self, words: Any) -> Any:
        return self.tag(self.embed(words))


def test_lengths_that_a_stream_leaves_open_stay_open() -> None:
    """A model of texts of any length would be served for the length of the first batch alone."""
    import tensorflow as tf

    rows = tf.data.Dataset.from_generator(
        lambda: ((np.arange(count) % 10, np.arange(count) % 3) for count in (4, 6, 5, 3)),
        output_signature=(tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None,), tf.int64)),
    ).padded_batch(2)
    first = (np.zeros((2, 6), "int64"), np.zeros((2, 6), "int64"))
    part = Part(rows, None)
    data = Data("regression", (), (), part, part, None, False, "made", "0", _first=first)
    definition = parse_definition(
        {
            "name": "tags",
            "metric": "val_loss",
            "direction": "minimize",
            "data": {"source": "sklearn:make_blobs"},
            "fit": {"epochs": 1},
            "space": {"width": {"type": "int", "low": 1, "high": 2}},
        },
        Path("tags.toml"),
    )
    told = describe(definition, data, Tagger(), log_names=(), path="", seconds=0.0)
    assert [each.shape for each in told.inputs] == [(-1, -1)]
    assert [each.shape for each in told.output] == [(-1, -1, 3)]
    assert "training of unknown length" in told.facts


class Views(keras.Model):
    """A model with a training step alone: it has no `call`, though a loss."""

    def train_step(self, views: Any) -> dict[str, Any]:
        return {"loss": self.loss(*views)}


def test_a_model_without_outputs_is_not_evaluated() -> None:
    """A contrastive model, whose loss compares two views in its training step, would be refused."""
    views = Views()
    views.compile("adam", loss=keras.losses.MeanSquaredError())
    assert not fit.can_evaluate(views)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.compile("adam", loss="mse")
    assert fit.can_evaluate(other)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_a_target_is_learned_in_its_own_unit(optimizer: str) -> None:
    """Prices in euros would end at the square of their mean, 16 times worse than answering the mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype("float32")
    plain = x @ np.array([1.0, -0.5]) + rng.normal(size=200) / 10
    shares = []
    for scale, mean in ((1.0, 0.0), (50_000.0, 300_000.0), (1e-6, 0.0)):
        y = np.column_stack([plain * scale + mean, plain * 3 - 7]).astype("float32")  # two targets, each by itself
        part = Part(x, y)
        data = Data("regression", (), (), part, part, part, False, "made", "0")
        keras.utils.set_random_seed(0)
        built = model.build(studyfiles.definition({"model.optimizer": optimizer}), fixed(width=32), data)
        begun = built.predict(x, verbose=0)
        assert np.allclose(begun, y.mean(axis=0), rtol=1e-5, atol=1e-12)
        built.fit(x, y, epochs=20, verbose=0)
        shares.append(((built.predict(x, verbose=0) - y) ** 2).mean(axis=0) / y.var(axis=0))
        assert built.evaluate(x, y, verbose=0)[0] == pytest.approx(
            ((built.predict(x, verbose=0) - y) ** 2).mean(), rel=1e-4
        )
    assert max(map(max, shares)) < 0.2
