"""One trial: build, fit, score. It knows nothing of MLflow and nothing of where it runs."""

from __future__ import annotations

import io
import math
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from search import feed, results, study
from search.data import Data
from search.definition import TRIAL_METRICS, Definition
from search.errors import DataError, ModelError, StudyFileError, TrialFailed, did_you_mean, one_line
from search.model import build, load_callbacks, try_build

if TYPE_CHECKING:
    import keras

Report = Callable[[list[results.Epoch]], None]
IsBest = Callable[[tuple[float, ...]], bool]


@dataclass
class _Progress:
    """What is known of a trial while it runs; kept when it is pruned or fails."""

    epochs: list[results.Epoch] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    path: str = ""
    fit_seconds: float = 0.0


@dataclass(frozen=True)
class _Trained:
    """One trained model and the last logs of its training."""

    model: keras.Model
    logs: dict[str, float]


def seed_of(study_seed: int, number: int, repeat: int = 0) -> int:
    """Return the seed of a trial, the same wherever and whenever it runs."""
    return int(np.random.SeedSequence([study_seed, number, repeat]).generate_state(1)[0] % 2**31)


def run(
    definition: Definition, data: Data, trial: optuna.Trial, *, seed: int, is_best: IsBest, report: Report
) -> results.TrialResult:
    """Train a trial to its end and return what became of it; it never raises for the trial's own error.

    Args:
        definition: The study file.
        data: The study's data.
        trial: The Optuna trial, its `[space]` already sampled.
        seed: The study's seed; the trial's own is derived from it and the trial's number.
        is_best: Whether these values are the best so far, so that the model is worth keeping.
        report: Called after each epoch with all epochs so far.
    """
    progress = _Progress()
    own_seed = seed_of(seed, trial.number)
    ended = replace(_blank(trial.number, own_seed), fate="complete")
    try:
        values, model = _train(definition, data, trial, seed, progress, report)
        beyond = tuple(study.violations(definition, {**progress.metrics, **_last_logs(progress)}))
        ended = replace(ended, values=values, violations=beyond)
        if all(each <= 0 for each in beyond) and is_best(values):
            ended = replace(ended, model=archive(model))
    except optuna.TrialPruned as error:
        ended = replace(ended, fate="pruned", reason=str(error))
    except TrialFailed as error:
        ended = replace(ended, fate="failed", reason=error.reason, traceback=error.traceback)
    except Exception as error:
        ended = replace(ended, fate="failed", reason=one_line(error), traceback=traceback.format_exc())
    return replace(
        ended,
        epochs=tuple(progress.epochs),
        metrics=progress.metrics,
        training=progress.training,
        summary=progress.summary,
        path=progress.path,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        memory=resident_size(),
    )


def _blank(number: int, seed: int) -> results.TrialResult:
    return results.TrialResult(number=number, fate="failed", seed=seed)


def _train(
    definition: Definition, data: Data, trial: optuna.Trial, seed: int, progress: _Progress, report: Report
) -> tuple[tuple[float, ...], keras.Model]:
    """Return the trial's values and its model: one training, or several compared on their mean."""
    parts = [data.fold(i) for i in range(len(data.folds))] if data.folds else [data] * definition.search.repeats
    scores: list[tuple[float, ...]] = []
    best: _Trained | None = None
    for index, part in enumerate(parts):
        trained = _train_once(
            definition, part, trial, seed_of(seed, trial.number, index), progress, report, len(parts) == 1
        )
        score = _values(definition, trained.logs, progress, trained.model, data)
        if best is None or definition.better(
            score[0], min(s[0] for s in scores) if definition.directions[0] == "minimize" else max(s[0] for s in scores)
        ):
            best = trained
        scores.append(score)
        if len(parts) > 1:
            _score_so_far(definition, trial, scores, index, progress)
    assert best is not None
    values = tuple(float(np.mean(column)) for column in zip(*scores, strict=True))
    if len(parts) > 1:
        for metric, column in zip(definition.metrics, zip(*scores, strict=True), strict=True):
            progress.metrics[f"{metric}_std"] = float(np.std(column))
            for index, value in enumerate(column):
                kind = "fold" if data.folds else "repeat"
                progress.metrics[f"{metric}_{kind}_{index}"] = float(value)
    model = best.model
    if data.folds:
        longest = round(len(progress.epochs) / len(parts))
        model = _train_once(
            definition, data.refit(), trial, seed_of(seed, trial.number), progress, report, False, longest
        ).model
    started = time.perf_counter()
    for name, value in feed.evaluate(model, data.test).items():
        progress.metrics[f"test_{name}"] = value
    progress.metrics["test_seconds"] = time.perf_counter() - started
    return values, model


def _train_once(
    definition: Definition,
    data: Data,
    trial: optuna.Trial,
    seed: int,
    progress: _Progress,
    report: Report,
    prune: bool,
    epochs: int | None = None,
) -> _Trained:
    """Build and fit one model; `prune` asks the pruner after each epoch."""
    import keras

    keras.utils.set_random_seed(seed)
    model = build(definition, trial, data)
    parameters = {"epochs": definition.fit.epochs, "batch_size": definition.fit.batch_size, **trial.params}
    epochs = epochs or int(parameters["epochs"])
    batch_size = int(parameters["batch_size"])
    progress.metrics["parameters"] = float(model.count_params())
    if not progress.summary:
        progress.summary, progress.training = _summary(model), _training(model, epochs, batch_size, definition)
    watcher = _watcher(definition, trial, progress, report, prune and data.validation is not None)
    callbacks = [*load_callbacks(definition), *_schedules(definition, epochs, data.validation is not None)]
    stopper = _early_stopping(definition) if data.validation is not None else None
    callbacks += [stopper] if stopper else []
    started = time.perf_counter()
    first = len(progress.epochs)
    progress.path = feed.fit(
        model,
        data,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        callbacks=[*callbacks, watcher],
        class_weight=_class_weight(definition, data),
    )
    progress.fit_seconds += time.perf_counter() - started
    progress.metrics["train_seconds"] = progress.fit_seconds
    epoch_logs = [epoch.logs for epoch in progress.epochs[first:]]
    last = epoch_logs[stopper.best_epoch] if stopper and stopper.stopped_epoch else epoch_logs[-1]
    if stopper and not stopper.stopped_epoch:  # Keras restores the best weights at the end too
        last = epoch_logs[min(stopper.best_epoch, len(epoch_logs) - 1)]
    return _Trained(model, last)


def _watcher(
    definition: Definition, trial: optuna.Trial, progress: _Progress, report: Report, prune: bool
) -> keras.callbacks.Callback:
    import keras

    metric = definition.metrics[0]
    first = len(progress.epochs)

    class Watcher(keras.callbacks.Callback):  # type: ignore[misc]
        """Collects each epoch's logs and asks the pruner; the last of the callbacks."""

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            values = {name: float(value) for name, value in (logs or {}).items()}
            progress.epochs.append(results.Epoch(first + epoch, time.time(), values))
            for name in definition.metrics:
                if not math.isfinite(values.get(name, 0.0)):
                    raise TrialFailed(f"{name} is {values[name]} after epoch {epoch + 1}")
            report(progress.epochs)
            if prune and metric in values and len(definition.metrics) == 1:
                _prune(trial, values[metric], epoch, f"epoch {epoch + 1}")

    return Watcher()


def _score_so_far(
    definition: Definition, trial: optuna.Trial, scores: list[tuple[float, ...]], index: int, progress: _Progress
) -> None:
    if len(definition.metrics) == 1 and index + 1 < max(len(scores) + 1, 2):
        _prune(trial, float(np.mean([score[0] for score in scores])), index, f"training {index + 1}")


def _prune(trial: optuna.Trial, value: float, step: int, when: str) -> None:
    trial.report(value, step)
    if trial.should_prune():
        raise optuna.TrialPruned(f"pruned after {when}")


def _values(
    definition: Definition, logs: dict[str, float], progress: _Progress, model: keras.Model, data: Data
) -> tuple[float, ...]:
    wanted = {*definition.metrics, *(study.parse_constraint(c)[0] for c in definition.search.constraints)}
    if "latency_ms" in wanted:
        progress.metrics["latency_ms"] = latency_ms(model, data)
    known = {**logs, **progress.metrics}
    missing = [name for name in definition.metrics if name not in known]
    if missing:
        raise TrialFailed(f"no metric '{missing[0]}' in the logs ({', '.join(known)})")
    values = tuple(known[name] for name in definition.metrics)
    for name, value in zip(definition.metrics, values, strict=True):
        if not math.isfinite(value):
            raise TrialFailed(f"{name} is {value}")
    return values


def _last_logs(progress: _Progress) -> dict[str, float]:
    return progress.epochs[-1].logs if progress.epochs else {}


def latency_ms(model: keras.Model, data: Data, calls: int = 30) -> float:
    """Return the median time of predicting one row, in milliseconds, after a warm-up."""
    one = data.example(1)
    times = []
    for _ in range(calls + 3):
        started = time.perf_counter()
        model.predict_on_batch(feed.as_tensors(one))
        times.append(time.perf_counter() - started)
    return float(np.median(times[3:]) * 1000)


def _mode(definition: Definition) -> str:
    return "min" if definition.directions[0] == "minimize" else "max"


def _monitored(definition: Definition) -> str:
    metric = definition.metrics[0]
    return "val_loss" if metric in TRIAL_METRICS else metric


def _early_stopping(definition: Definition) -> Any:
    import keras

    wanted = definition.fit.early_stopping
    if wanted is None:
        return None
    monitor = _monitored(definition)
    return keras.callbacks.EarlyStopping(
        monitor=monitor,
        mode="min" if monitor == "val_loss" else _mode(definition),
        patience=wanted.patience,
        min_delta=wanted.min_delta,
        start_from_epoch=wanted.start_from_epoch,
        restore_best_weights=True,
    )


def _schedules(definition: Definition, epochs: int, validated: bool) -> list[Any]:
    import keras

    wanted = definition.fit.learning_rate_schedule
    if wanted is None:
        return []
    if wanted.type == "plateau":
        monitor = _monitored(definition) if validated else "loss"
        mode = "min" if monitor in ("val_loss", "loss") else _mode(definition)
        return [
            keras.callbacks.ReduceLROnPlateau(
                monitor=monitor, mode=mode, factor=wanted.factor, patience=wanted.patience, min_lr=wanted.minimum
            )
        ]
    initial: list[float] = []

    def schedule(epoch: int, rate: float) -> float:
        initial.append(rate)
        if wanted.type == "exponential":
            return max(wanted.minimum, initial[0] * wanted.factor**epoch)
        share = (1 + math.cos(math.pi * epoch / epochs)) / 2
        return wanted.minimum + (initial[0] - wanted.minimum) * share

    return [keras.callbacks.LearningRateScheduler(schedule)]


def _class_weight(definition: Definition, data: Data) -> dict[int, float] | None:
    wanted = definition.fit.class_weight
    if wanted is None:
        return None
    if data.task not in ("binary", "multiclass") or data.train.streamed:
        raise DataError(f"fit.class_weight: needs classes held in memory; the task is {data.task}")
    if wanted == "balanced":
        counts = np.bincount(np.asarray(data.train.y, dtype=int), minlength=len(data.classes))
        return {i: float(len(data.train) / (len(counts) * max(1, count))) for i, count in enumerate(counts)}
    assert isinstance(wanted, dict)
    labels = [str(label) for label in data.classes]
    for label in wanted:
        if label not in labels:
            raise DataError(
                f"fit.class_weight: no class '{label}' (classes: {', '.join(labels)}){did_you_mean(label, labels)}"
            )
    return {index: wanted.get(label, 1.0) for index, label in enumerate(labels)}


def _training(model: keras.Model, epochs: int, batch_size: int, definition: Definition) -> dict[str, Any]:
    """Return what MLflow's autologging would have recorded."""
    optimizer = getattr(model, "optimizer", None)
    config = optimizer.get_config() if optimizer is not None else {}
    loss = getattr(model, "loss", None)
    return {
        "optimizer": {key: _plain(value) for key, value in config.items()},
        "loss": loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", str(loss))),
        "fit": {
            "epochs": epochs,
            "batch_size": batch_size,
            **definition.fit.model_dump(exclude={"epochs", "batch_size"}),
        },
        "dtype_policy": definition.fit.precision,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | dict | list | type(None)) else str(value)


def _summary(model: keras.Model) -> str:
    text = io.StringIO()
    model.summary(print_fn=lambda line, **_: text.write(f"{line}\n"), line_length=100)
    return text.getvalue()


def archive(model: keras.Model) -> bytes:
    """Return the model as the bytes of a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def resident_size() -> int:
    """Return this process's resident size in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def check(definition: Definition, data: Data, trial: optuna.trial.BaseTrial, seconds: float) -> results.DataSummary:
    """Build one model and run one batch through it, before anything is created.

    Returns:
        What MLflow and the person are told of the data.

    Raises:
        ModelError: The model cannot be built or take a batch of these data.
        StudyFileError: The study's metric is not among the metrics that Keras will log.
        DataError: The class weights do not fit the data.
    """
    model = try_build(definition, trial, data)
    _class_weight(definition, data)
    load_callbacks(definition)
    try:
        names = feed.dry_run(model, data)
    except Exception as error:
        raise ModelError(
            f"model.build: {definition.model.build}: the model cannot take a batch ({one_line(error)})"
        ) from error
    log_names = (*names, *(f"val_{name}" for name in names))
    known = (*log_names, *TRIAL_METRICS)
    for name in definition.metrics:
        if name not in known:
            raise StudyFileError(
                str(definition.path),
                "metric",
                f"'{name}' is not among the metrics of this model",
                f"it logs {', '.join(known)}{did_you_mean(name, known)}",
            )
    for constraint in definition.search.constraints:
        metric = study.parse_constraint(constraint)[0]
        if metric not in known:
            raise StudyFileError(
                str(definition.path), "search.constraints", f"no metric '{metric}'", f"use one of {', '.join(known)}"
            )
    output = model.output_shape if not isinstance(model.output_shape, list | dict) else (None, data.outputs)
    return results.DataSummary(
        name=data.name,
        source=definition.data.source,
        digest=data.digest,
        task=data.task,
        classes=data.classes,
        rows={"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test)},
        columns=tuple((column.name, column.kind) for column in data.columns),
        inputs=_specs(data),
        example=_raw_example(data),
        output=results.TensorSpec("float32", tuple(-1 if size is None else size for size in output)),
        log_names=log_names,
        path=feed.path_of(model, data),
        seconds=seconds,
    )


def _specs(data: Data) -> tuple[results.TensorSpec, ...]:
    x = data.example(1)
    named = x.items() if isinstance(x, dict) else [(None, x)]
    return tuple(results.TensorSpec(str(each.dtype), (-1, *each.shape[1:]), name) for name, each in named)


def _raw_example(data: Data) -> Any:
    """Return a few rows as the user sends them."""
    from search.features import CATEGORICAL, NUMERIC

    x = data.example()
    if not data.columns:
        return x
    numeric = x.get(NUMERIC) if isinstance(x, dict) else x
    rows: dict[str, list[Any]] = {}
    counts = {True: 0, False: 0}
    for column in data.columns:
        source = numeric if column.numeric else x[CATEGORICAL]
        values = source[:, counts[column.numeric]]
        counts[column.numeric] += 1
        cast = {"long": int, "boolean": bool, "double": float, "string": str}[column.kind]
        rows[column.name] = [cast(value) for value in values]
    return rows
