"""Random models of every kind, each a builder that makes models of other sizes, rates and seeds.

`draw(seed)` gives the same `Drawn` in every process, so that a fresh one can load its models.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers

from search.data.dataset import Data, Part
from search.training.fit import as_tensors
from tests.exact.bodies import INPUTS, Body, Values, shaped
from tests.exact.changes import callbacks_of
from tests.exact.compiled import loss_of, metrics_of, optimizer_of
from tests.exact.objects import OwnMeasures, OwnSteps, Plain

ROWS, HELD_OUT = 37, 12
HEADS = ("binary", "multiclass", "one hot", "regression")


@dataclass
class Drawn:
    """A model, its data and how it is trained.

    Attributes:
        kinds: Words that say what it has, to count by.
        make: Makes the model, compiled.
        callbacks: Makes its callbacks.
        mlp: Gives the parameters of the package's own `mlp`; None for a model of the user's own.
        policy: Of Keras's data types.
        epsilon: Whether the builder, or the data function of an `mlp`, sets Keras's epsilon.
    """

    seed: int
    kinds: list[str]
    make: Callable[[Values], keras.Model]
    data: Data
    settings: dict[str, Any]
    callbacks: Callable[[], list[keras.callbacks.Callback]]
    mlp: Callable[[Values], dict[str, Any]] | None = None
    policy: str = "float32"
    epsilon: bool = False


def _target(head: str, rows: int, seed: int) -> Any:
    generator = np.random.default_rng(seed + 100)
    if head in ("multiclass", "one hot"):
        classes = generator.integers(0, 3, rows)
        return classes.astype("float32") if head == "multiclass" else np.eye(3, dtype="float32")[classes]
    if head == "regression":
        return generator.normal(size=(rows, 1)).astype("float32")
    return generator.integers(0, 2, (rows, 1)).astype("float32")


def _data(head: str, make: Callable[[int, int], Any], pick: random.Random, kinds: list[str], rows: int) -> Data:
    weighted = pick.random() < 0.25
    shape = pick.choice([(), (1,)])
    kinds += ["weighted rows"] if weighted else []

    def part(count: int, seed: int) -> Part:
        weights = np.random.default_rng(seed).uniform(0, 3, (count, *shape)).astype("float32") if weighted else None
        return Part(make(count, seed), _target(head, count, seed), weights)

    task, classes = _TASKS[head]
    return Data(task, classes, (), part(rows, 0), part(HELD_OUT, 1), part(HELD_OUT, 2), False, "made", "00000000")


_TASKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "binary": ("binary", (0, 1)),
    "multiclass": ("multiclass", (0, 1, 2)),
    "one hot": ("multiclass", (0, 1, 2)),
    "regression": ("regression", ()),
}


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
    if pick.random() < 0.15:
        settings["validation_freq"] = 2
        kinds.append("validation_freq")
    if pick.random() < 0.1:
        settings["shuffle"] = False
        kinds.append("not shuffled")
    drawn = (_mlp if pick.random() < 0.15 else _own)(seed, pick, kinds, settings)
    drawn.epsilon = pick.random() < 0.1
    kinds += ["epsilon"] if drawn.epsilon else []
    if pick.random() < 0.1:
        kinds.append("no validation")
        drawn.data = replace(drawn.data, validation=None)
    return drawn


@dataclass(frozen=True)
class _Parts:
    """What a model of the user's own is made of."""

    form: str
    head: str
    body: Body
    loss: Callable[[Values], Any]
    second_loss: Callable[[Values], Any]
    metrics: Callable[[], list[Any]]
    weighted: Callable[[], list[Any]]
    optimizer: Callable[[Values], Any]
    compiled: dict[str, Any]
    on_variable: str
    example: Any

    def make(self, values: Values) -> keras.Model:
        """Return the model, compiled."""
        model = self._made(values)
        measured: dict[str, Any] = {
            "loss": self.loss(values),
            "metrics": self.metrics(),
            "weighted_metrics": self.weighted(),
        }
        if self.form == "several outputs":
            measured["loss"] = {"one": measured["loss"], "two": self.second_loss(values)}
            measured["metrics"] = {"one": measured["metrics"]}
            measured["weighted_metrics"] = {"one": measured["weighted_metrics"], "two": ["mae"]}
            measured["loss_weights"] = {"one": values.rate, "two": 2.0}
        model.compile(self.optimizer(values), **measured, **self.compiled)
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
        if self.form in _SUBCLASSED:
            return _SUBCLASSED[self.form](values.units, outputs, activation)
        last = layers.Dense(outputs, activation=activation, dtype="float32")
        if self.form == "sequential without Input":
            return keras.Sequential([layers.Dense(values.units, "relu"), layers.Dropout(values.rate), last])
        rows = 12 if self.form == "fixed batch" else None
        several = isinstance(self.example, dict)
        made = {
            name: _input(each, rows, name) for name, each in (self.example if several else {"x": self.example}).items()
        }
        inputs = made if several else made["x"]
        hidden = self.body(inputs, values)
        if self.form == "sequential":
            return keras.Sequential([inputs, keras.Model(inputs, hidden), last])
        one = last(hidden)
        if self.form == "several outputs":
            return keras.Model(inputs, {"one": one, "two": layers.Dense(1, dtype="float32")(hidden)})
        return keras.Model(inputs, one)


def _input(example: Any, rows: int | None, name: str) -> Any:
    dtype = "string" if example.dtype == object else str(example.dtype)
    return keras.Input(batch_shape=(rows, *example.shape[1:]), dtype=dtype, name=name)


_OUTPUTS = {"binary": (1, "sigmoid"), "multiclass": (3, "softmax"), "one hot": (3, "softmax"), "regression": (1, None)}
_SUBCLASSED = {"subclassed": Plain, "own train_step": OwnSteps, "own compute_loss and compute_metrics": OwnMeasures}
_FORMS = ("functional", "functional", "sequential", "several outputs", "several outputs", "fixed batch")
_FORMS_OF_VECTORS = (*_FORMS, "sequential without Input", *_SUBCLASSED)
_COMPILED: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"steps_per_execution": 2},
    {"run_eagerly": True},
    {"jit_compile": True},
)


def _own(seed: int, pick: random.Random, kinds: list[str], settings: dict[str, Any]) -> Drawn:
    name = pick.choice(["vector", "vector", "vector", "sequence", *INPUTS])
    make_x, make_body = INPUTS[name]
    head, compiled = pick.choice(HEADS), pick.choice(_COMPILED)
    form = pick.choice(_FORMS_OF_VECTORS if name in ("vector", "one column") else _FORMS)
    if name == "texts" and compiled.get("jit_compile"):
        compiled = {}
    if name == "two inputs" and form == "sequential":
        form = "functional"
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
    losses = loss_of(pick, head, kinds), loss_of(pick, "regression", kinds if form == "several outputs" else [])
    metrics = metrics_of(pick, head, kinds)
    weighted = metrics_of(pick, head, kinds, "weighted_metrics") if pick.random() < 0.3 else list
    optimizer = optimizer_of(pick, kinds)
    parts = _Parts(form, head, body, *losses, metrics, weighted, optimizer, compiled, on_variable, data.train.x)
    callbacks = callbacks_of(pick, kinds, settings["epochs"], (as_tensors(data.test.x), data.test.y))
    return Drawn(seed, kinds, parts.make, data, settings, callbacks, policy=policy)


def _twice(data: Data) -> Data:
    """Return data with a second target."""

    def part(each: Part) -> Part:
        two = np.random.default_rng(len(each)).normal(size=(len(each), 1)).astype("float32")
        weights = None if each.sample_weight is None else {"one": each.sample_weight, "two": each.sample_weight + 0.5}
        return Part(each.x, {"one": each.y, "two": two}, weights)

    parts = {"train": part(data.train), "validation": part(data.validation), "test": part(data.test)}
    return replace(data, task="several", classes=(), **parts)


def _mlp(seed: int, pick: random.Random, kinds: list[str], settings: dict[str, Any]) -> Drawn:
    from types import SimpleNamespace

    from search.training.model import mlp

    head = pick.choice([each for each in HEADS if each != "one hot"])
    kinds += ["built-in mlp", head]
    data = _data(head, shaped((pick.choice([1, 3, 7]),)), pick, kinds, ROWS)
    fixed: dict[str, Any] = {
        "depth": pick.randint(1, 3),
        "activation": pick.choice(["relu", "tanh", "swish", "gelu", "elu", "selu"]),
        "batch_norm": pick.random() < 0.2,
        "optimizer": pick.choice(["adam", "sgd", "rmsprop", "adamw", "nadam", "lion", "adagrad", "muon", "adafactor"]),
    }
    drops, decays = pick.random() < 0.7, pick.random() < 0.7

    def params(values: Values) -> dict[str, Any]:
        more = {"width": values.units, "learning_rate": values.learning_rate}
        more |= {"dropout": values.rate} if drops else {}
        more |= {"weight_decay": values.rate / 100} if decays else {}
        return {**fixed, **more}

    def make(values: Values) -> keras.Model:
        return mlp(SimpleNamespace(params={}), data, **params(values))

    return Drawn(seed, kinds, make, data, settings, list, mlp=params)
