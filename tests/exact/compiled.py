"""What a model is compiled with: losses, metrics and optimizers of every kind."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tests.exact.bodies import Values
from tests.exact.objects import NoConfigSchedule, OwnLoss, OwnMetric, batch_rows_loss, f1, in_batch_negatives

_OWN_OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True, "epsilon": 1e-3},
    "Adafactor": {"relative_step": False},
    "Ftrl": {"l1_regularization_strength": 0.01, "l2_shrinkage_regularization_strength": 0.1},
    "Muon": {"ns_steps": 2, "nesterov": False},
}


def loss_of(pick: random.Random, head: str, kinds: list[str]) -> Callable[[Values], Any]:
    """Return what makes the loss of a head's models."""
    lost = keras.losses
    own: dict[str, Callable[[Values], Any]] = {
        "own class": lambda values: OwnLoss(values.rate + 0.5),
        "own function": lambda _: batch_rows_loss,
        "lambda": lambda values: lambda y, p: (values.rate + 0.1) * ops.mean(ops.square(ops.cast(y, p.dtype) - p), -1),
        "partial": lambda values: functools.partial(lost.huber, delta=values.rate + 0.1),
        "negatives": lambda _: in_batch_negatives,
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
        "sparse logits": lambda _: lost.SparseCategoricalCrossentropy(from_logits=True),
        "sparse class": lambda _: lost.SparseCategoricalCrossentropy(axis=-1, ignore_class=2),
    }
    one_hot: dict[str, Callable[[Values], Any]] = {
        "categorical": lambda _: "categorical_crossentropy",
        "categorical smoothed": lambda values: lost.CategoricalCrossentropy(label_smoothing=values.rate / 2),
        "categorical focal": lambda values: lost.CategoricalFocalCrossentropy(gamma=1 + values.rate),
        "divergence": lambda _: "kl_divergence",
    }
    known = {"binary": binary | own, "regression": regression | own, "multiclass": multiclass, "one hot": one_hot}[head]
    name = pick.choice(sorted(known))
    kinds.append("loss " + name)
    return known[name]


def metrics_of(pick: random.Random, head: str, kinds: list[str], word: str = "metric") -> Callable[[], list[Any]]:
    """Return what makes the metrics of a head's models; their kinds begin with a word."""
    of = keras.metrics
    known: dict[str, list[tuple[str, Callable[[], Any]]]] = {
        "binary": [
            ("name", lambda: "accuracy"),
            ("auc", lambda: of.AUC(name="auc")),
            ("precision", lambda: of.Precision(name="precision")),
            ("f1", lambda: of.F1Score(threshold=0.5, name="f1")),
            ("dice function", lambda: keras.losses.dice),
            ("f1 function", lambda: f1),
            ("recall", lambda: of.Recall(thresholds=[0.3, 0.6], name="recall")),
            ("curve", lambda: of.AUC(curve="PR", num_thresholds=20, name="curve")),
            ("sensitivity", lambda: of.SensitivityAtSpecificity(0.5, name="sensitivity")),
            ("binary iou", lambda: of.BinaryIoU(name="iou")),
        ],
        "one hot": [
            ("name", lambda: "accuracy"),
            ("top", lambda: of.TopKCategoricalAccuracy(k=2, name="top")),
            ("f1", lambda: of.F1Score(average="macro", name="f1")),
            ("one hot iou", lambda: of.OneHotMeanIoU(3, name="iou")),
        ],
        "multiclass": [
            ("name", lambda: "accuracy"),
            ("top", lambda: of.SparseTopKCategoricalAccuracy(k=2, name="top")),
            ("sparse", lambda: of.SparseCategoricalCrossentropy(axis=-1, name="ce")),
        ],
        "regression": [
            ("name", lambda: "mae"),
            ("rmse", lambda: of.RootMeanSquaredError(name="rmse")),
            ("r2", lambda: of.R2Score(name="r2")),
            ("cosine metric", lambda: of.CosineSimilarity(axis=0, name="cosine")),
            ("metric lambda", lambda: of.MeanMetricWrapper(lambda y, p: ops.abs(y - p) * 2.0, name="twice")),
        ],
    }
    taken = [each for each in known[head] if (word, each[0]) != ("weighted_metrics", "f1")]  # Keras refuses weights
    chosen = pick.sample(taken, pick.randint(0, 2))
    own = pick.random() < 0.2
    kinds += [f"{word} {name}" for name, _ in chosen] + ([f"{word} own"] if own else [])
    return lambda: [*(make() for _, make in chosen), *([OwnMetric()] if own else [])]


def optimizer_of(pick: random.Random, kinds: list[str]) -> Callable[[Values], Any]:
    """Return what makes the optimizer."""
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
            {"loss_scale_factor": 8.0},
            *([_OWN_OPTIONS[name]] * 4 if name in _OWN_OPTIONS else []),
        ]
    )
    schedule = pick.choice(
        ["", "", "", "cosine", "warm-up", "restarts", "exponential", "inverse", "polynomial", "piecewise", "no config"]
    )
    kinds += ["optimizer " + name, *(["options " + next(iter(options))] if options else [])]
    kinds += [f"schedule {schedule}"] if schedule else []
    rates = keras.optimizers.schedules

    def make(values: Values) -> Any:
        rate: Any = values.learning_rate
        if schedule == "cosine":
            rate = rates.CosineDecay(values.learning_rate, 5)
        elif schedule == "warm-up":
            rate = rates.CosineDecay(0.0, 6, warmup_target=values.learning_rate, warmup_steps=3)
        elif schedule == "restarts":
            rate = rates.CosineDecayRestarts(values.learning_rate, 3)
        elif schedule == "inverse":
            rate = rates.InverseTimeDecay(values.learning_rate, 2, 0.5, staircase=True)
        elif schedule == "polynomial":
            rate = rates.PolynomialDecay(values.learning_rate, 5, power=2.0)
        elif schedule == "exponential":
            rate = rates.ExponentialDecay(values.learning_rate, 3, 0.7)
        elif schedule == "piecewise":
            rate = rates.PiecewiseConstantDecay([2, 4], [0.1, 0.05, 0.01])
        elif schedule:
            rate = NoConfigSchedule(values.learning_rate)
        return getattr(keras.optimizers, name)(learning_rate=rate, **options)

    return make
