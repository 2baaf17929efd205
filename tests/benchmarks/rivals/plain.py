"""The plain script: Optuna and Keras's own `fit` on NumPy arrays; nothing is tracked, nothing saved.

    python plain.py N_TRIALS [--prune]

`--prune` adds Optuna's median pruner and a callback that asks it after each epoch.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import optuna
from sklearn.datasets import make_blobs
from sklearn.model_selection import train_test_split

n_trials, prune = int(sys.argv[1]), "--prune" in sys.argv
optuna.logging.set_verbosity(optuna.logging.WARNING)
x, y = make_blobs(n_samples=1000, n_features=2, centers=2, random_state=42)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.33, random_state=42)
epochs_trained: list[int] = []


class Pruning(keras.callbacks.Callback):
    """Report each epoch's validation loss, and stop when the pruner says so."""

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.trial = trial

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Ask the pruner."""
        self.trial.report((logs or {})["val_loss"], epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


class Counting(keras.callbacks.Callback):
    """Count the epochs, to tell how much work was done."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Count one."""
        epochs_trained.append(1)


def objective(trial: optuna.Trial) -> float:
    """Train one configuration and return its last validation loss."""
    epochs = trial.suggest_int("epochs", 5, 30)
    batch_size = trial.suggest_categorical("batch_size", [16, 32, 64])
    width = trial.suggest_int("width", 8, 256, log=True)
    model = keras.Sequential(
        [keras.layers.Dense(width, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["binary_accuracy"])
    callbacks: list[Any] = [Counting(), *([Pruning(trial)] if prune else [])]
    history = model.fit(
        x_train, y_train, epochs=epochs, batch_size=batch_size, validation_split=0.1, callbacks=callbacks, verbose=0
    )
    model.evaluate(x_test, y_test, verbose=0)
    return float(history.history["val_loss"][-1])


study = optuna.create_study(
    direction="minimize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
)
for epochs, batch_size in ((10, 16), (20, 32), (30, 16)):
    study.enqueue_trial({"epochs": epochs, "batch_size": batch_size, "width": 128})
study.optimize(objective, n_trials=n_trials)
print(json.dumps({"trials": len(study.trials), "epochs": sum(epochs_trained), "best": study.best_value}))
