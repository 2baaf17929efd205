"""Random models of every kind, each a builder that makes models of other sizes, rates and seeds.

`draw(seed)` gives the same `Drawn` in every process, so that a fresh one can load its models.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from search.data.dataset import Data, Part

ROWS, HELD_OUT = 37, 12
WORDS = 20  # of a vocabulary
HEADS = ("binary", "multiclass", "regression")
_register = keras.saving.register_keras_serializable("exact")


@dataclass(frozen=True)
class Values:
    """What differs between the models of one builder."""

    units: int
    rate: float
    learning_rate: float
    seed: int


@dataclass
class Drawn:
    """A model, its data and how it is trained.

    Attributes:
        kinds: Words that say what it has, to count by.
        make: Makes the model, compiled.
        callbacks: Makes its callbacks.
        built_in: Whether it is the package's own `mlp`.
    """

    seed: int
    kinds: list[str]
    make: Callable[[Values], keras.Model]
    data: Data
    settings: dict[str, Any]
    callbacks: Callable[[], list[keras.callbacks.Callback]]
    built_in: bool = False
    policy: str = "float32"


@_register
class Scaled(layers.Layer):
    """A layer whose configuration does not tell what it does, with a loss of its own."""

    def __init__(self, factor: float = 1.5, penalty: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor, self.penalty = factor, penalty

    def call(self, x: Any) -> Any:
        if self.penalty:
            self.add_loss(self.penalty * ops.mean(ops.square(x)))
        return self.factor * x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor, "penalty": self.penalty}


@_register
class Plain(keras.Model):
    """A subclassed model."""

    def __init__(self, units: int, outputs: int, activation: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.told = {"units": units, "outputs": outputs, "activation": activation}
        self.hidden, self.out = layers.Dense(units, activation="tanh"), layers.Dense(outputs, activation=activation)
        self.drop = layers.Dropout(0.2)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.drop(self.hidden(x), training=training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.told}


@_register
class OwnLoss(keras.losses.Loss):
    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1) * self.factor


@_register
class OwnMetric(keras.metrics.Metric):
    """The size of the last batch, which no mean over rows tells."""

    def __init__(self, name: str = "own", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.rows = self.add_weight(name="rows", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.rows.assign(ops.cast(ops.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        return self.rows + 0.0


class NoConfig(keras.regularizers.Regularizer):
    """A regularizer that nobody can save."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, x: Any) -> Any:
        return self.strength * ops.sum(ops.abs(x))


class NoConfigSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, first: float) -> None:
        self.first = first

    def __call__(self, step: Any) -> Any:
        return self.first / (1.0 + 0.1 * ops.cast(step, "float32"))


def batch_rows_loss(y_true: Any, y_pred: Any) -> Any:
    """Depend on the rows of a batch, as contrastive losses do."""
    return ops.mean(ops.square(ops.cast(y_true, y_pred.dtype) - y_pred)) + ops.log(
        ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
    )


def scaled_tanh(x: Any, factor: float = 1.0) -> Any:
    return ops.tanh(factor * x)


def relu(x: Any) -> Any:
    """An activation that has the name of one of Keras's."""
    return ops.maximum(x, 0.1 * x)


def _vectors(pick: random.Random, rows: int, seed: int, columns: int) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype("float32")


def _shaped(shape: tuple[int, ...]) -> Callable[[int, int], Any]:
    return lambda rows, seed: np.random.default_rng(seed).normal(size=(rows, *shape)).astype("float32")


def _tokens(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, WORDS, size=(rows, 6)).astype("int32")


def _texts(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).choice(["a", "b", "c", "d"], size=(rows, 2)).astype(object)


def _target(head: str, rows: int, seed: int) -> Any:
    generator = np.random.default_rng(seed + 100)
    if head == "multiclass":
        return generator.integers(0, 3, rows).astype("float32")
    if head == "regression":
        return generator.normal(size=(rows, 1)).astype("float32")
    return generator.integers(0, 2, (rows, 1)).astype("float32")


Body = Callable[[Any, Values], Any]


def _vector_body(pick: random.Random, kinds: list[str]) -> Body:
    activation = pick.choice(["relu", "tanh", "gelu", "swish", relu, functools.partial(scaled_tanh, factor=2.0)])
    by = "name" if isinstance(activation, str) else "function named relu" if activation is relu else "partial"
    kinds.append(f"activation by {by}")
    regularizer = pick.choice([None, None, "l1", keras.regularizers.L1L2(1e-3, 1e-3), "none told", "orthogonal"])
    constraint = pick.choice([None, None, "max_norm", "non_neg", "unit_norm"])
    more = pick.choice(
        ["batch norm", "layer norm", "group norm", "dropout", "noise", "scaled", "lambda", "shared", "deep"]
    )
    kinds += [more, *(["regularizer"] if regularizer else []), *(["constraint"] if constraint else [])]
    penalty = pick.choice([0.0, 0.1])

    def body(x: Any, values: Values) -> Any:
        made = {
            "none told": lambda: NoConfig(1e-3),
            "orthogonal": lambda: keras.regularizers.OrthogonalRegularizer(1e-3),
        }
        kernel = made[regularizer]() if isinstance(regularizer, str) and regularizer in made else regularizer
        x = layers.Dense(values.units, activation=activation, kernel_regularizer=kernel, kernel_constraint=constraint)(
            x
        )
        if more == "shared":
            shared = layers.Dense(values.units)
            return shared(shared(x))
        if more == "deep":
            inner = keras.Sequential([layers.Dense(values.units), layers.Dropout(values.rate)])
            return inner(x)
        layer = {
            "batch norm": layers.BatchNormalization,
            "layer norm": layers.LayerNormalization,
            "group norm": lambda: layers.GroupNormalization(groups=1),
            "dropout": lambda: layers.AlphaDropout(values.rate) if penalty else layers.Dropout(values.rate),
            "noise": lambda: layers.GaussianNoise(values.rate) if penalty else layers.GaussianDropout(values.rate),
            "scaled": lambda: Scaled(1.0 + values.rate, penalty),
            "lambda": lambda: layers.Lambda(lambda each: each * values.rate),
        }[more]()
        return layer(x)

    return body


def _image_body(pick: random.Random, kinds: list[str]) -> Body:
    augment = pick.choice([None, "flip", "rotate", "contrast"])
    pool = pick.choice(["max", "average", "global", "up", "strided"])
    kinds += ["convolution", f"pool {pool}", *([f"augment {augment}"] if augment else [])]
    kind = pick.choice(["conv", "separable", "depthwise", "transposed"])
    kinds.append(kind)

    def body(x: Any, values: Values) -> Any:
        if augment:
            x = {
                "flip": lambda: layers.RandomFlip(seed=values.seed),
                "rotate": lambda: layers.RandomRotation(0.2, seed=values.seed),
                "contrast": lambda: layers.RandomContrast(0.3, seed=values.seed),
            }[augment]()(x)
        kernel = 2 + values.units % 2
        x = {
            "conv": lambda: layers.Conv2D(values.units, kernel, padding="same", activation="relu"),
            "separable": lambda: layers.SeparableConv2D(values.units, kernel),
            "depthwise": lambda: layers.DepthwiseConv2D(kernel),
            "transposed": lambda: layers.Conv2DTranspose(values.units, kernel),
        }[kind]()(x)
        if pool == "global":
            return layers.GlobalAveragePooling2D()(layers.SpatialDropout2D(values.rate)(x))
        x = {
            "max": lambda: layers.MaxPooling2D(2),
            "average": lambda: layers.AveragePooling2D(2),
            "up": lambda: layers.UpSampling2D(2),
            "strided": lambda: layers.Conv2D(values.units, 2, strides=2),
        }[pool]()(x)
        return layers.Flatten()(layers.BatchNormalization()(x) if values.units % 2 else x)

    return body


def _sequence_body(pick: random.Random, kinds: list[str]) -> Body:
    kind = pick.choice(["lstm", "gru", "simple", "bidirectional", "conv rnn", "attention", "masking", "convlstm", "td"])
    kinds.append("sequence: " + kind)
    pooled = pick.choice([2, 4])

    def body(x: Any, values: Values) -> Any:
        units = values.units
        if kind == "conv rnn":
            x = layers.MaxPooling1D(pooled)(layers.Conv1D(units, 1 + units % 3, activation="relu")(x))
            return layers.LSTM(4)(layers.GroupNormalization(groups=1)(x) if pooled == 2 else x)
        if kind == "attention":
            x = layers.MultiHeadAttention(2, units, dropout=values.rate)(x, x)
            return layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
        if kind == "masking":
            return layers.GRU(units)(layers.Masking(0.0)(x))
        if kind == "td":
            return layers.GlobalMaxPooling1D()(layers.TimeDistributed(layers.Dense(units))(x))
        if kind == "convlstm":
            return layers.GlobalAveragePooling1D()(layers.SimpleRNN(units, return_sequences=True)(x))
        rnn = {
            "lstm": lambda: layers.LSTM(units, dropout=values.rate, recurrent_dropout=values.rate),
            "gru": lambda: layers.GRU(units, dropout=values.rate),
            "simple": lambda: layers.SimpleRNN(units, recurrent_dropout=values.rate),
            "bidirectional": lambda: layers.Bidirectional(layers.LSTM(units)),
        }
        return rnn[kind]()(x)

    return body


def _token_body(pick: random.Random, kinds: list[str]) -> Body:
    masked, rnn = pick.random() < 0.5, pick.random() < 0.5
    kinds += ["embedding", *(["mask zero"] if masked else [])]

    def body(x: Any, values: Values) -> Any:
        x = layers.Embedding(WORDS, values.units, mask_zero=masked)(x)
        return layers.LSTM(values.units)(x) if rnn else layers.GlobalAveragePooling1D()(x)

    return body


def _text_body(pick: random.Random, kinds: list[str]) -> Body:
    kinds.append("lookup")
    mode = pick.choice(["one_hot", "multi_hot", "count"])

    def body(x: Any, values: Values) -> Any:
        lookup = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode=mode if mode != "one_hot" else "multi_hot")
        return layers.Dense(values.units, activation="relu")(lookup(x))

    return body


_INPUTS: dict[str, tuple[Callable[[int, int], Any], Callable[[random.Random, list[str]], Body]]] = {
    "vector": (_shaped((3,)), _vector_body),
    "one column": (_shaped((1,)), _vector_body),
    "image": (_shaped((6, 6, 2)), _image_body),
    "sequence": (_shaped((8, 3)), _sequence_body),
    "tokens": (_tokens, _token_body),
    "texts": (_texts, _text_body),
}


def _loss(pick: random.Random, head: str, kinds: list[str]) -> Callable[[Values], Any]:
    lost = keras.losses
    own: dict[str, Callable[[Values], Any]] = {
        "own class": lambda values: OwnLoss(values.rate + 0.5),
        "own function": lambda _: batch_rows_loss,
        "lambda": lambda values: lambda y, p: (values.rate + 0.1) * ops.mean(ops.square(ops.cast(y, p.dtype) - p), -1),
        "partial": lambda values: functools.partial(lost.huber, delta=values.rate + 0.1),
    }
    binary: dict[str, Callable[[Values], Any]] = {
        "bce": lambda _: "binary_crossentropy",
        "bce smoothed": lambda values: lost.BinaryCrossentropy(label_smoothing=values.rate / 2),
        "focal": lambda values: lost.BinaryFocalCrossentropy(gamma=1 + values.rate, apply_class_balancing=True),
        "hinge": lambda _: "hinge",
        "dice": lambda _: lost.Dice(),
        "tversky": lambda values: lost.Tversky(alpha=values.rate + 0.1),
    }
    regression: dict[str, Callable[[Values], Any]] = {
        "mse": lambda _: "mse",
        "huber": lambda values: lost.Huber(delta=values.rate + 0.05),
        "cosine": lambda _: lost.CosineSimilarity(axis=0),
        "log cosh": lambda _: lost.LogCosh(reduction="sum"),
        "mape": lambda _: lost.MeanAbsolutePercentageError(reduction="mean_with_sample_weight"),
        "poisson": lambda _: lost.MeanSquaredLogarithmicError(),
    }
    multiclass: dict[str, Callable[[Values], Any]] = {
        "sparse": lambda _: "sparse_categorical_crossentropy",
        "sparse class": lambda _: lost.SparseCategoricalCrossentropy(axis=-1, ignore_class=2),
    }
    known = {"binary": {**binary, **own}, "regression": {**regression, **own}, "multiclass": multiclass}[head]
    name = pick.choice(sorted(known))
    kinds.append("loss " + name)
    return known[name]


def _metrics(pick: random.Random, head: str, kinds: list[str]) -> Callable[[], list[Any]]:
    of = keras.metrics
    known: dict[str, list[tuple[str, Callable[[], Any]]]] = {
        "binary": [
            ("name", lambda: "accuracy"),
            ("auc", lambda: of.AUC(name="auc")),
            ("precision", lambda: of.Precision(name="precision")),
            ("f1", lambda: of.F1Score(threshold=0.5, name="f1")),
            ("dice function", lambda: keras.losses.dice),
        ],
        "multiclass": [
            ("name", lambda: "accuracy"),
            ("top", lambda: of.SparseTopKCategoricalAccuracy(k=2, name="top")),
            ("iou", lambda: of.SparseCategoricalCrossentropy(axis=-1, name="ce")),
        ],
        "regression": [
            ("name", lambda: "mae"),
            ("rmse", lambda: of.RootMeanSquaredError(name="rmse")),
            ("r2", lambda: of.R2Score(name="r2")),
            ("cosine metric", lambda: of.CosineSimilarity(axis=0, name="cosine")),
            ("metric lambda", lambda: of.MeanMetricWrapper(lambda y, p: ops.abs(y - p) * 2.0, name="twice")),
        ],
    }
    chosen = pick.sample(known[head], pick.randint(0, 2))
    own = pick.random() < 0.2
    kinds += [f"metric {name}" for name, _ in chosen] + (["metric own"] if own else [])
    return lambda: [*(make() for _, make in chosen), *([OwnMetric()] if own else [])]


def _optimizer(pick: random.Random, kinds: list[str]) -> Callable[[Values], Any]:
    names = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl", "Lion", "Adafactor")
    name = pick.choice([*names, "Lamb", "Muon"])
    options = pick.choice(
        [
            {},
            {"clipnorm": 0.5},
            {"clipvalue": 0.1},
            {"global_clipnorm": 0.7},
            {"weight_decay": 0.01},
            {"use_ema": True, "ema_momentum": 0.8},
            {"use_ema": True, "ema_overwrite_frequency": 2},
            {"gradient_accumulation_steps": 2},
        ]
    )
    schedule = pick.choice(["", "", "cosine", "exponential", "piecewise", "own", "no config"])
    kinds += ["optimizer " + name, *(["options " + next(iter(options))] if options else [])]
    kinds += [f"schedule {schedule}"] if schedule else []
    rates = keras.optimizers.schedules

    def make(values: Values) -> Any:
        rate: Any = values.learning_rate
        if schedule == "cosine":
            rate = rates.CosineDecay(values.learning_rate, 5)
        elif schedule == "exponential":
            rate = rates.ExponentialDecay(values.learning_rate, 3, 0.7)
        elif schedule == "piecewise":
            rate = rates.PiecewiseConstantDecay([2, 4], [0.1, 0.05, 0.01])
        elif schedule:
            rate = NoConfigSchedule(values.learning_rate)
        return getattr(keras.optimizers, name)(learning_rate=rate, **options)

    return make


HOOKS = ("set_model", "on_train_begin", "on_epoch_begin", "on_epoch_end", "on_test_begin", "on_test_end")


class Changes(keras.callbacks.Callback):
    """Change something of the model at a hook, in one epoch."""

    def __init__(self, hook: str, change: Callable[[keras.Model], None], epoch: int) -> None:
        super().__init__()
        self.hook, self.change, self.epoch = hook, change, epoch
        self.now, self.done = 0, False
        self.steps: Any = None

    def _at(self, hook: str) -> None:
        if hook == self.hook and not self.done and (hook in HOOKS[:2] or self.now == self.epoch):
            self.done = True
            self.change(self.model)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._at("set_model")

    def on_train_begin(self, logs: Any = None) -> None:
        self.steps = self.params["steps"]
        self._at("on_train_begin")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch
        self._at("on_epoch_begin")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["steps"] = float(self.steps)
        self._at("on_epoch_end")

    def on_test_begin(self, logs: Any = None) -> None:
        self._at("on_test_begin")

    def on_test_end(self, logs: Any = None) -> None:
        self._at("on_test_end")


def _freeze(model: keras.Model) -> None:
    trained = list(model.trainable_variables)
    if len(trained) > 2:
        trained[0].trainable = False


def _frozen_layer(model: keras.Model) -> None:
    model.layers[-1].trainable = False


def _clip(model: keras.Model) -> None:
    model.optimizer.clipnorm = 1e-3


def _other_rate(model: keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.9


def _learning_rate(model: keras.Model) -> None:
    if not callable(model.optimizer._learning_rate):
        model.optimizer.learning_rate = 0.5


def _scheduled(model: keras.Model) -> None:
    model.optimizer._learning_rate = keras.optimizers.schedules.CosineDecay(0.4, 4)


def _anew(model: keras.Model) -> None:
    _freeze(model)
    _clip(model)
    model.make_train_function(force=True)
    model.make_test_function(force=True)


def _compiled(model: keras.Model) -> None:
    model.compile("sgd", model.loss if isinstance(model.loss, str) else "mse", metrics=["mae"])
    model.make_train_function()


def _stop(model: keras.Model) -> None:
    model.stop_training = True


def _train_on_batch(model: keras.Model) -> None:
    batch = [np.asarray(each) for each in keras.tree.flatten(model.example)]
    model.train_on_batch(*batch)


CHANGES = {
    "freeze a variable": _freeze,
    "freeze a layer": _frozen_layer,
    "clipnorm": _clip,
    "dropout's rate": _other_rate,
    "learning rate": _learning_rate,
    "schedule": _scheduled,
    "make functions anew": _anew,
    "compile": _compiled,
    "stop training": _stop,
}


def _callbacks(pick: random.Random, kinds: list[str], epochs: int) -> Callable[[], list[keras.callbacks.Callback]]:
    made: list[Callable[[], keras.callbacks.Callback]] = []
    if pick.random() < 0.5:
        hook, change, epoch = pick.choice(HOOKS), pick.choice(sorted(CHANGES)), pick.randrange(epochs)
        kinds += [f"hook {hook}", f"change {change}"]
        made.append(lambda: Changes(hook, CHANGES[change], epoch))
    other = pick.choice(["", "", "nan", "plateau", "early", "ema", "scheduler", "lambda"])
    of = keras.callbacks
    known: dict[str, Callable[[], keras.callbacks.Callback]] = {
        "nan": of.TerminateOnNaN,
        "plateau": lambda: of.ReduceLROnPlateau(monitor="loss", patience=0, min_delta=10.0),
        "early": lambda: of.EarlyStopping(monitor="loss", patience=1, restore_best_weights=True),
        "ema": lambda: of.SwapEMAWeights(swap_on_epoch=True),
        "scheduler": lambda: of.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        "lambda": lambda: of.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(more=1.0)),
    }
    if other and other not in ("ema", "plateau", "scheduler"):
        kinds.append("callback " + other)
        made.append(known[other])
    return lambda: [each() for each in made]


def _data(head: str, make: Callable[[int, int], Any], pick: random.Random, kinds: list[str], rows: int) -> Data:
    weighted = pick.random() < 0.25
    kinds += ["weighted rows"] if weighted else []

    def part(count: int, seed: int) -> Part:
        weights = np.random.default_rng(seed).uniform(0, 3, count).astype("float32") if weighted else None
        return Part(make(count, seed), _target(head, count, seed), weights)

    classes = {"binary": (0, 1), "multiclass": (0, 1, 2), "regression": ()}[head]
    return Data(head, classes, (), part(rows, 0), part(HELD_OUT, 1), part(HELD_OUT, 2), False, "made", "00000000")


def draw(seed: int) -> Drawn:
    """Return the model of a seed."""
    pick = random.Random(seed)
    kinds: list[str] = []
    settings: dict[str, Any] = {
        "epochs": 3,
        "batch_size": pick.choice([5, 8, 9, 12, 36, 37, 100]),
        "seed": pick.randrange(1000),
    }
    batches = {36: "one row left over", 37: "one batch", 100: "batch exceeds rows"}
    kinds.append(batches.get(settings["batch_size"], "batches"))
    return (_mlp if pick.random() < 0.15 else _own)(seed, pick, kinds, settings)


@dataclass(frozen=True)
class _Parts:
    """What a model of the user's own is made of."""

    form: str
    head: str
    body: Body
    loss: Callable[[Values], Any]
    second_loss: Callable[[Values], Any]
    metrics: Callable[[], list[Any]]
    optimizer: Callable[[Values], Any]
    compiled: dict[str, Any]
    on_variable: str
    example: Any

    def make(self, values: Values) -> keras.Model:
        """Return the model, compiled."""
        model = self._made(values)
        losses, told = self.loss(values), self.metrics()
        if self.form == "several outputs":
            losses, told = {"one": losses, "two": self.second_loss(values)}, {"one": told}
        model.compile(self.optimizer(values), losses, metrics=told, **self.compiled)
        kernel = (
            next((each for each in model.trainable_variables if len(each.shape) == 2), None) if model.built else None
        )
        if kernel is not None and self.on_variable == "trainable":
            kernel.trainable = False
        elif kernel is not None and self.on_variable:
            wanted = (
                keras.constraints.NonNeg() if self.on_variable == "constraint" else keras.regularizers.L2(values.rate)
            )
            setattr(kernel, self.on_variable, wanted)
        return model

    def _made(self, values: Values) -> keras.Model:
        outputs, activation = _OUTPUTS[self.head]
        if self.form == "subclassed":
            return Plain(values.units, outputs, activation)
        shape = self.example.shape[1:]
        given = {"batch_shape": (12, *shape)} if self.form == "fixed batch" else {"shape": shape}
        inputs = keras.Input(**given, dtype="string" if self.example.dtype == object else str(self.example.dtype))
        hidden = self.body(inputs, values)
        one = layers.Dense(outputs, activation=activation, dtype="float32")(hidden)
        if self.form == "several outputs":
            return keras.Model(inputs, {"one": one, "two": layers.Dense(1, dtype="float32")(hidden)})
        return keras.Model(inputs, one)


_OUTPUTS = {"binary": (1, "sigmoid"), "multiclass": (3, "softmax"), "regression": (1, None)}
_FORMS = ("functional", "functional", "several outputs", "fixed batch", "subclassed")
_COMPILED: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"steps_per_execution": 2},
    {"run_eagerly": True},
    {"jit_compile": True},
)


def _own(seed: int, pick: random.Random, kinds: list[str], settings: dict[str, Any]) -> Drawn:
    name = pick.choice(["vector", "vector", *_INPUTS])
    make_x, make_body = _INPUTS[name]
    head, form, compiled = pick.choice(HEADS), pick.choice(_FORMS), pick.choice(_COMPILED)
    if form == "subclassed" and name not in ("vector", "one column"):
        form = "functional"
    if name == "texts" and compiled.get("jit_compile"):
        compiled = {}
    rows = ROWS
    if form == "fixed batch":
        rows, settings["batch_size"] = 36, 12
    policy = pick.choice(["float32"] * 8 + ["mixed_float16", "mixed_bfloat16"])
    on_variable = pick.choice(["", "", "", "trainable", "regularizer", "constraint"])
    kinds += [name, form, head, *compiled, policy, *([f"variable's {on_variable}"] if on_variable else [])]
    body, data = make_body(pick, kinds), _data(head, make_x, pick, kinds, rows)
    if form == "several outputs":
        data = _twice(data)
    elif head == "binary" and data.train.sample_weight is None and pick.random() < 0.2:
        kinds.append("class weights")
        settings["class_weight"] = {0: 1.0, 1: 3.0}
    losses = _loss(pick, head, kinds), _loss(pick, "regression", kinds if form == "several outputs" else [])
    metrics, optimizer = _metrics(pick, head, kinds), _optimizer(pick, kinds)
    parts = _Parts(form, head, body, *losses, metrics, optimizer, compiled, on_variable, data.train.x)
    return Drawn(seed, kinds, parts.make, data, settings, _callbacks(pick, kinds, settings["epochs"]), policy=policy)


def _twice(data: Data) -> Data:
    """Return data with a second target."""

    def part(each: Part) -> Part:
        two = np.random.default_rng(len(each)).normal(size=(len(each), 1)).astype("float32")
        return Part(each.x, {"one": each.y, "two": two}, None)

    return Data(
        **{**vars(data), "train": part(data.train), "validation": part(data.validation), "test": part(data.test)}
    )


def _mlp(seed: int, pick: random.Random, kinds: list[str], settings: dict[str, Any]) -> Drawn:
    from types import SimpleNamespace

    from search.training.model import mlp

    head = pick.choice(HEADS)
    kinds += ["built-in mlp", head]
    data = _data(head, _shaped((pick.choice([1, 3, 7]),)), pick, kinds, ROWS)
    fixed: dict[str, Any] = {
        "depth": pick.randint(1, 3),
        "activation": pick.choice(["relu", "tanh", "swish", "gelu", "elu", "selu"]),
        "batch_norm": pick.random() < 0.2,
        "optimizer": pick.choice(["adam", "sgd", "rmsprop", "adamw", "nadam", "lion", "adagrad", "muon", "adafactor"]),
    }
    drops, decays = pick.random() < 0.7, pick.random() < 0.7

    def make(values: Values) -> keras.Model:
        more = {"width": values.units, "learning_rate": values.learning_rate}
        more |= {"dropout": values.rate} if drops else {}
        more |= {"weight_decay": values.rate / 100} if decays else {}
        return mlp(SimpleNamespace(params={}), data, **fixed, **more)

    return Drawn(seed, kinds, make, data, settings, list, built_in=True)
