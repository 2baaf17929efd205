"""KerasTuner over the same space: BayesianOptimization or Hyperband, the best epoch's validation loss.

    python quality_tuner.py TASK.npz SEED bayesian|hyperband

Prints a line of JSON after each trial, without end. The environment's STARTED is when the command was given.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import keras
import keras_tuner
import numpy as np
from network import keep, network

arrays = np.load(sys.argv[1])
kind, x, y, x_test = str(arrays["kind"]), arrays["x_train"], arrays["y_train"], arrays["x_test"]
held_out = arrays["x_validation"], arrays["y_validation"]
outputs = int(y.max()) + 1 if kind == "multiclass" else 1


class Network(keras_tuner.HyperModel):
    """The space, the network, and what is noted of a trial."""

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return the model of a trial."""
        hp.Int("depth", 1, 3)
        hp.Int("width", 8, 256, sampling="log")
        hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
        hp.Float("dropout", 0.0, 0.5)
        hp.Float("weight_decay", 1e-6, 1e-1, sampling="log")
        hp.Choice("batch_size", [16, 32, 64, 128])
        hp.Choice("optimizer", ["adam", "rmsprop", "sgd"])
        hp.Choice("activation", ["relu", "tanh", "swish"])
        return network(hp.values, x.shape[1], outputs, kind)

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Train a trial."""
        best = keras.callbacks.ModelCheckpoint("epoch.weights.h5", save_best_only=True, save_weights_only=True)
        kwargs["callbacks"] = [*kwargs.get("callbacks", ()), best]
        history = model.fit(*args, batch_size=hp["batch_size"], **kwargs)
        params = {name: value for name, value in hp.values.items() if "/" not in name}
        value = float(np.min(history.history["val_loss"]))
        model.load_weights("epoch.weights.h5")  # as `get_best_models` gives them
        keep(model, value, x_test)
        print(
            json.dumps({"seconds": time.time() - float(os.environ["STARTED"]), "params": params, "value": value}),
            flush=True,
        )
        return history


common: dict[str, Any] = {"objective": "val_loss", "seed": int(sys.argv[2]), "directory": ".", "project_name": "x"}
if sys.argv[3] == "bayesian":
    tuner: Any = keras_tuner.BayesianOptimization(Network(), max_trials=10**6, **common)
    tuner.search(x, y, epochs=30, validation_data=held_out, verbose=0)
else:
    tuner = keras_tuner.Hyperband(Network(), max_epochs=30, hyperband_iterations=10**6, **common)
    tuner.search(x, y, validation_data=held_out, verbose=0)
