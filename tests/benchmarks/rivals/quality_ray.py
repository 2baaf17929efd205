"""Ray Tune over the same space: Optuna's search, ASHA, a trial for each core, the last epoch's validation loss.

    python quality_ray.py TASK.npz SEED

Prints a line of JSON after each trial, without end. The environment's STARTED is when the command was given.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

FILE, EPOCHS, HERE = sys.argv[1], 30, str(Path(__file__).parent)
CORES = len(os.sched_getaffinity(0))


def trainable(config: dict[str, Any]) -> None:
    """Train one configuration, reporting each epoch."""
    sys.path.insert(0, HERE)
    import keras
    import numpy as np
    from network import network

    arrays = np.load(FILE)
    kind, x, y = str(arrays["kind"]), arrays["x_train"], arrays["y_train"]
    model = network(config, x.shape[1], int(y.max()) + 1 if kind == "multiclass" else 1, kind)

    class Reporting(keras.callbacks.Callback):  # type: ignore[misc]
        """Reports each epoch."""

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            tune.report({"val_loss": (logs or {})["val_loss"], "epochs": epoch + 1})

    held_out = arrays["x_validation"], arrays["y_validation"]
    model.fit(
        x, y, epochs=EPOCHS, batch_size=config["batch_size"], validation_data=held_out, verbose=0,
        callbacks=[Reporting()],
    )  # fmt: skip


class Printing(tune.Callback):  # type: ignore[misc]
    """Prints what became of each trial; one that ASHA stopped has no value."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result
        value = last["val_loss"] if last.get("epochs") == EPOCHS else None
        told = {"seconds": time.time() - float(os.environ["STARTED"]), "params": trial.config, "value": value}
        print(json.dumps(told), flush=True)


ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
tune.Tuner(
    tune.with_resources(trainable, {"cpu": 1}),
    param_space={
        "depth": tune.randint(1, 4),
        "width": tune.lograndint(8, 257),
        "learning_rate": tune.loguniform(1e-4, 1e-1),
        "dropout": tune.uniform(0.0, 0.5),
        "weight_decay": tune.loguniform(1e-6, 1e-1),
        "batch_size": tune.choice([16, 32, 64, 128]),
        "optimizer": tune.choice(["adam", "rmsprop", "sgd"]),
        "activation": tune.choice(["relu", "tanh", "swish"]),
    },
    tune_config=tune.TuneConfig(
        metric="val_loss",
        mode="min",
        num_samples=10**6,
        search_alg=ConcurrencyLimiter(OptunaSearch(seed=int(sys.argv[2])), max_concurrent=CORES),
        scheduler=ASHAScheduler(max_t=EPOCHS),
    ),
    run_config=tune.RunConfig(storage_path=os.path.abspath("ray"), verbose=0, callbacks=[Printing()]),
).fit()
