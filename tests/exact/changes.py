"""Callbacks: those that change something of the model at a hook, and those that studies use."""

from __future__ import annotations

import importlib.util
import random
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

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


def _stop_testing(model: keras.Model) -> None:
    model.stop_evaluating = True


def _smaller_weights(model: keras.Model) -> None:
    model.set_weights([each * 0.5 if each.dtype.kind == "f" else each for each in model.get_weights()])


def _forgetful(model: keras.Model) -> None:
    for each in model.optimizer.variables[2:]:
        each.assign(each * 0)


def _eagerly(model: keras.Model) -> None:
    model.run_eagerly = True


def _eagerly_anew(model: keras.Model) -> None:
    _eagerly(model)
    model.make_train_function(force=True)
    model.make_test_function(force=True)


def _regularized(model: keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            layer.kernel.regularizer = keras.regularizers.L2(0.5)


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
    "stop testing": _stop_testing,
    "weights": _smaller_weights,
    "optimizer's variables": _forgetful,
    "run_eagerly": _eagerly,
    "run_eagerly, functions anew": _eagerly_anew,
    "a variable's regularizer": _regularized,
}


class OnBatches(keras.callbacks.Callback):
    """Look at batches, and tell what they logged."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append((batch + 1) * float(logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["of batches"] = float(np.sum(self.losses))


class OnRows(keras.callbacks.Callback):
    """Train, test and predict on rows of its own at an epoch's end."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = rows

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        x, y = self.rows
        count = len(keras.tree.flatten(x)[0])
        if epoch == 0:
            self.model.train_on_batch(x, y)
        logs["of rows"] = float(self.model.evaluate(x, y, batch_size=count, verbose=0, return_dict=True)["loss"])
        predicted = self.model.predict(x, batch_size=count, verbose=0)
        logs["predicted"] = float(sum(each.mean() for each in keras.tree.flatten(predicted)))


def callbacks_of(
    pick: random.Random, kinds: list[str], epochs: int, rows: Any
) -> Callable[[], list[keras.callbacks.Callback]]:
    """Return what makes a model's callbacks.

    Args:
        pick: Chooses them.
        kinds: What the model has already; theirs are added.
        epochs: How many are trained.
        rows: Inputs and targets for a callback that trains by itself.
    """
    made: list[Callable[[], keras.callbacks.Callback]] = []
    if pick.random() < 0.5:
        hook, change, epoch = pick.choice(HOOKS), pick.choice(sorted(CHANGES)), pick.randrange(epochs)
        kinds += [f"hook {hook}", f"change {change}"]
        made.append(lambda: Changes(hook, CHANGES[change], epoch))
    of = keras.callbacks
    known: dict[str, Callable[[], keras.callbacks.Callback]] = {
        "nan": of.TerminateOnNaN,
        "plateau": lambda: of.ReduceLROnPlateau(monitor="loss", patience=0, min_delta=10.0),
        "early": lambda: of.EarlyStopping(monitor="loss", patience=1, restore_best_weights=True),
        "ema": lambda: of.SwapEMAWeights(swap_on_epoch=True),
        "scheduler": lambda: of.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        "lambda": lambda: of.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(more=1.0)),
        "batches": OnBatches,
        "rows": lambda: OnRows(rows),
        "backup": lambda: of.BackupAndRestore(tempfile.mkdtemp(prefix="exact-")),
        "checkpoint": lambda: of.ModelCheckpoint(
            tempfile.mkdtemp(prefix="exact-") + "/best.weights.h5", "loss", save_weights_only=True
        ),
        "tensorboard": lambda: of.TensorBoard(tempfile.mkdtemp(prefix="exact-"), histogram_freq=1),
    }
    cannot = set() if importlib.util.find_spec("tensorboard") else {"tensorboard"}
    cannot |= set() if "options use_ema" in kinds else {"ema"}
    cannot |= {"plateau", "scheduler"} if any("schedule" in each for each in kinds) else set()  # nobody sets the rate
    if pick.random() < 0.7:
        other = pick.choice(sorted(known.keys() - cannot))
        kinds.append("callback " + other)
        made.append(known[other])
    return lambda: [each() for each in made]
