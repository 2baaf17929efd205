"""KerasTuner: Bayesian optimisation over the same space; nothing is tracked.

    python tuner.py N_TRIALS

The first trial takes the defaults below; KerasTuner takes no further configurations to try first.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import keras_tuner
from sklearn.datasets import make_blobs
from sklearn.model_selection import train_test_split

n_trials = int(sys.argv[1])
x, y = make_blobs(n_samples=1000, n_features=2, centers=2, random_state=42)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.33, random_state=42)
epochs_trained: list[int] = []


class Blobs(keras_tuner.HyperModel):
    """The study: what is built, and how it is fitted."""

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return the model of a trial."""
        width = hp.Int("width", 8, 256, sampling="log", default=128)
        model = keras.Sequential(
            [keras.layers.Dense(width, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
        )
        model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["binary_accuracy"])
        return model

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Train a trial, and evaluate it on the test part."""
        epochs = hp.Int("epochs", 5, 30, default=10)
        batch_size = hp.Choice("batch_size", [16, 32, 64])
        history = model.fit(*args, epochs=epochs, batch_size=batch_size, **kwargs)
        model.evaluate(x_test, y_test, verbose=0)
        epochs_trained.append(len(history.epoch))
        return float(history.history["val_loss"][-1])


tuner = keras_tuner.BayesianOptimization(Blobs(), max_trials=n_trials, seed=0, directory=".", project_name="blobs")
tuner.search(x_train, y_train, validation_split=0.1, verbose=0)
best = tuner.oracle.get_best_trials(1)[0].score
print(json.dumps({"trials": len(tuner.oracle.trials), "epochs": sum(epochs_trained), "best": best}))
