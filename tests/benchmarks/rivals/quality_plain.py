"""A plain Optuna script: TPE, one trial at a time, `fit` on NumPy arrays, the last epoch's validation loss.

    python quality_plain.py TASK.npz SEED

Prints a line of JSON after each trial, without end. The environment's STARTED is when the command was given.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import optuna
from network import keep, network

arrays = np.load(sys.argv[1])
kind, x, y, x_test = str(arrays["kind"]), arrays["x_train"], arrays["y_train"], arrays["x_test"]
held_out = arrays["x_validation"], arrays["y_validation"]
outputs = int(y.max()) + 1 if kind == "multiclass" else 1
optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial: optuna.Trial) -> float:
    """Train one configuration."""
    params = {
        "depth": trial.suggest_int("depth", 1, 3),
        "width": trial.suggest_int("width", 8, 256, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64, 128]),
        "optimizer": trial.suggest_categorical("optimizer", ["adam", "rmsprop", "sgd"]),
        "activation": trial.suggest_categorical("activation", ["relu", "tanh", "swish"]),
    }
    model = network(params, x.shape[1], outputs, kind)
    history = model.fit(x, y, epochs=30, batch_size=params["batch_size"], validation_data=held_out, verbose=0)
    value = float(history.history["val_loss"][-1])
    keep(model, value, x_test)
    print(
        json.dumps({"seconds": time.time() - float(os.environ["STARTED"]), "params": params, "value": value}),
        flush=True,
    )
    return value


optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(sys.argv[2]))).optimize(objective)
