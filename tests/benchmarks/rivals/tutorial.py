"""The tutorial's way: MLflow's autologging and Optuna's `MLflowCallback` around the plain script.

python tutorial.py N_TRIALS
"""

from __future__ import annotations

import json
import sys
import warnings

import keras
import mlflow
import optuna
from optuna_integration import MLflowCallback
from sklearn.datasets import make_blobs
from sklearn.model_selection import train_test_split

n_trials = int(sys.argv[1])
warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.WARNING)
x, y = make_blobs(n_samples=1000, n_features=2, centers=2, random_state=42)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.33, random_state=42)
epochs_trained: list[int] = []

mlflow.tensorflow.autolog()
callback = MLflowCallback(tracking_uri=mlflow.get_tracking_uri(), metric_name="objective")


@callback.track_in_mlflow()
def objective(trial: optuna.Trial) -> float:
    """Train one configuration inside its MLflow run and return its last validation loss."""
    epochs = trial.suggest_int("epochs", 5, 30)
    batch_size = trial.suggest_categorical("batch_size", [16, 32, 64])
    width = trial.suggest_int("width", 8, 256, log=True)
    model = keras.Sequential(
        [keras.layers.Dense(width, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["binary_accuracy"])
    history = model.fit(x_train, y_train, epochs=epochs, batch_size=batch_size, validation_split=0.1, verbose=0)
    epochs_trained.append(len(history.epoch))
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    mlflow.log_metrics({"test_loss": loss, "test_binary_accuracy": accuracy})
    return float(history.history["val_loss"][-1])


study = optuna.create_study(study_name="blobs", direction="minimize", sampler=optuna.samplers.TPESampler(seed=0))
for epochs, batch_size in ((10, 16), (20, 32), (30, 16)):
    study.enqueue_trial({"epochs": epochs, "batch_size": batch_size, "width": 128})
study.optimize(objective, n_trials=n_trials, callbacks=[callback])
print(json.dumps({"trials": len(study.trials), "epochs": sum(epochs_trained), "best": study.best_value}))
