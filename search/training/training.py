"""One training: a model built, fitted and measured under one seed on one split of the data."""

from __future__ import annotations

import io
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.dataset import Data
from search.studyfile.schema import Definition
from search.training import callbacks, fit, metrics
from search.training.model import build, has_user_code

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial

OnEpoch = Callable[[int, dict[str, float]], None]
_WARM_UP_CALLS, _TIMED_CALLS = 3, 30


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        metrics: Keras's logs of the epoch whose weights the model has, and its trial metrics.
        best_epochs: How many epochs those weights were trained for.
    """

    model: keras.Model
    metrics: dict[str, float]
    best_epochs: int


class Training:
    """A model that is about to be trained.

    Args:
        definition: The study file.
        data: The training part, and the validation part if there is one.
        trial: Its parameters build the model, and may say `epochs` and `batch_size`.
        seed: Of the model's weights, of its random layers, and of the order of the rows.
        epochs: How many to train for, when it is not for the study file or the trial to say; a
            schedule still spans as many as they say.
    """

    def __init__(
        self, definition: Definition, data: Data, trial: BaseTrial, seed: int, epochs: int | None = None
    ) -> None:
        _set_seeds(seed, definition, data)
        self.model = build(definition, trial, data)
        fit.ensure_built(self.model, data)
        settings = {"epochs": definition.fit.epochs, "batch_size": definition.fit.batch_size, **trial.params}
        self.batch_size = int(settings["batch_size"])
        self.epochs = epochs or int(settings["epochs"])
        self._definition, self._data, self._seed = definition, data, seed
        self._callbacks = callbacks.callbacks(definition, data, int(settings["epochs"]))
        self.settings = callbacks.settings_of(self.model, definition, self.epochs, self.batch_size)

    def fit(self, on_epoch: OnEpoch, on_path: Callable[[str], None] = lambda _: None) -> Trained:
        """Train the model.

        Args:
            on_epoch: Called with each epoch, from 0, and its logs; what it raises ends the training.
            on_path: Called with how the model is trained, as by `fit.fit`.
        """
        logs: list[dict[str, float]] = []

        def remember(epoch: int, epoch_logs: dict[str, float]) -> None:
            logs.append(epoch_logs)
            on_epoch(epoch, epoch_logs)

        started = time.perf_counter()
        fit.fit(
            self.model,
            self._data,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self._seed,
            callbacks=[*self._callbacks, _watcher(remember)],
            class_weight=callbacks.class_weight(self._definition, self._data),
            on_path=on_path,
        )
        seconds = time.perf_counter() - started
        kept = callbacks.kept_epoch(self._callbacks, len(logs))
        return Trained(self.model, {**logs[kept], **self._trial_metrics(seconds)}, kept + 1)

    def _trial_metrics(self, seconds: float) -> dict[str, float]:
        measured = {"parameters": float(self.model.count_params()), "train_seconds": seconds}
        if "latency_ms" in metrics.needed(self._definition):
            measured["latency_ms"] = latency_ms(self.model, self._data)
        return measured


def _set_seeds(seed: int, definition: Definition, data: Data) -> None:
    """Seed every generator that the trial may draw from.

    TensorFlow's own is left alone where nothing draws from it: seeding it makes TensorFlow forget
    every function that it has optimised, 0.1 s of a small trial.
    """
    import keras

    if has_user_code(definition) or data.train.streamed or keras.backend.backend() != "tensorflow":
        keras.utils.set_random_seed(seed)
    else:
        random.seed(seed)  # where Keras draws the seeds of its layers
        np.random.seed(seed)


def _watcher(on_epoch: OnEpoch) -> keras.callbacks.Callback:
    import keras

    class Watcher(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        """Passes each epoch's logs on, after all other callbacks."""

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            on_epoch(epoch, {name: float(value) for name, value in (logs or {}).items()})

    return Watcher()


def latency_ms(model: keras.Model, data: Data) -> float:
    """Return the median time of predicting one row, in milliseconds, after a warm-up."""
    one = fit.as_tensors(data.example(1))
    times = []
    for _ in range(_WARM_UP_CALLS + _TIMED_CALLS):
        started = time.perf_counter()
        model.predict_on_batch(one)
        times.append(time.perf_counter() - started)
    return float(np.median(times[_WARM_UP_CALLS:]) * 1000)


def summary(model: keras.Model) -> str:
    """Return the model's layers as a table of text."""
    text = io.StringIO()
    model.summary(print_fn=lambda line, **_: text.write(f"{line}\n"), line_length=100)
    return text.getvalue()


def archive(model: keras.Model) -> bytes:
    """Return the model as the bytes of a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()
