"""Ray Tune with Optuna's search and the MLflow logger, two trials at a time.

python tune.py N_TRIALS
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import optuna
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from sklearn.datasets import make_blobs
from sklearn.model_selection import train_test_split

n_trials = int(sys.argv[1])
uri = "sqlite:///mlflow.db"
optuna.logging.set_verbosity(optuna.logging.WARNING)


def trainable(config: dict[str, Any]) -> None:
    """Train one configuration, reporting each epoch."""
    import keras

    x, y = make_blobs(n_samples=1000, n_features=2, centers=2, random_state=42)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.33, random_state=42)
    model = keras.Sequential(
        [keras.layers.Dense(config["width"], activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["binary_accuracy"])

    class Reporting(keras.callbacks.Callback):  # type: ignore[misc]
        """Report each epoch but the last, which goes with the test metrics."""

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if epoch + 1 < config["epochs"]:
                tune.report(dict(logs or {}))

    history = model.fit(
        x_train, y_train, epochs=config["epochs"], batch_size=config["batch_size"],
        validation_split=0.1, callbacks=[Reporting()], verbose=0,
    )  # fmt: skip
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    last = {name: values[-1] for name, values in history.history.items()}
    tune.report({**last, "test_loss": loss, "test_binary_accuracy": accuracy})


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
first = [{"epochs": e, "batch_size": b, "width": 128} for e, b in ((10, 16), (20, 32), (30, 16))]
search = OptunaSearch(
    metric="val_loss", mode="min", sampler=optuna.samplers.TPESampler(seed=0), points_to_evaluate=first
)
tuner = tune.Tuner(
    tune.with_resources(trainable, {"cpu": 1}),
    param_space={
        "epochs": tune.randint(5, 31),
        "batch_size": tune.choice([16, 32, 64]),
        "width": tune.lograndint(8, 257),
    },
    tune_config=tune.TuneConfig(
        metric="val_loss", mode="min", num_samples=n_trials, search_alg=ConcurrencyLimiter(search, max_concurrent=2)
    ),
    run_config=tune.RunConfig(
        storage_path=os.path.abspath("ray"),
        verbose=0,
        callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="blobs")],
    ),
)
results = tuner.fit()
assert results.num_errors == 0, results.errors
epochs_trained = sum(result.metrics["training_iteration"] for result in results)
print(
    json.dumps(
        {"trials": len(results), "epochs": epochs_trained, "best": results.get_best_result().metrics["val_loss"]}
    )
)
