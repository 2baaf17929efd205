"""Layers, models, losses, metrics and schedules as users write them."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

_register = keras.saving.register_keras_serializable("exact")


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
class OwnSteps(Plain):
    """A subclassed model with a training step of its own, which `fit` alone can run."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return {**super().train_step(data), "more": ops.convert_to_tensor(1.0)}


@_register
class OwnMeasures(Plain):
    """A subclassed model that computes loss and metrics in its own way."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 2.0 * super().compute_loss(*args, **kwargs)

    def compute_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().compute_metrics(*args, **kwargs), "rate": ops.convert_to_tensor(self.optimizer.learning_rate)}


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


def in_batch_negatives(y_true: Any, y_pred: Any) -> Any:
    """Compare each row with all others of its batch."""
    scores = ops.matmul(y_pred, ops.transpose(y_pred)) - ops.abs(y_true - ops.transpose(y_true))
    return ops.mean(ops.logsumexp(scores, axis=-1) - ops.diagonal(scores))


def f1(y_true: Any, y_pred: Any) -> Any:
    """F1 of one batch, as many write it."""
    both = ops.sum(y_true * y_pred)
    return 2.0 * both / (ops.sum(y_true) + ops.sum(y_pred) + 1e-7)


def scaled_tanh(x: Any, factor: float = 1.0) -> Any:
    return ops.tanh(factor * x)


def relu(x: Any) -> Any:
    """An activation that has the name of one of Keras's."""
    return ops.maximum(x, 0.1 * x)
