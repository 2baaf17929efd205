"""What `[fit]` of the study file means to Keras: callbacks, schedules and class weights."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from search.data.dataset import Data
from search.errors import DataError, ModelError, did_you_mean, raised
from search.studyfile.objects import called
from search.studyfile.references import load_object
from search.studyfile.schema import (
    TRIAL_METRICS,
    CallbackDefinition,
    Definition,
    EarlyStopping,
    LearningRateSchedule,
)
from search.training import metrics
from search.training.epochs import numbers
from search.training.model import refusing

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial

# Keras's callbacks that write files: the argument that says where, and what it is when the study file does not.
_WRITERS = {
    "ModelCheckpoint": ("filepath", "checkpoint.keras"),
    "TensorBoard": ("log_dir", "tensorboard"),
    "CSVLogger": ("filename", "log.csv"),
    "BackupAndRestore": ("backup_dir", "backup"),
}


def callbacks(
    definition: Definition, data: Data, epochs: int, trial: BaseTrial, folder: Path, model: keras.Model
) -> list[keras.callbacks.Callback]:
    """Return new instances of all callbacks that `[fit]` asks for: own metrics first, early stopping last.

    Args:
        definition: The study file.
        data: Without a validation part nothing can stop early.
        epochs: How many epochs a schedule spans.
        trial: What a function of callbacks is given.
        folder: The trial's own; where Keras's callbacks write.
        model: What is trained, for a function of callbacks that takes it.
    """
    import keras

    wanted = user_callbacks(definition, data, trial, folder, model)
    if data.validation is None:
        wanted = _without_validation(wanted)
    if definition.fit.learning_rate_schedule is not None:
        validated = data.validation is not None
        wanted.append(_schedule(definition, definition.fit.learning_rate_schedule, epochs, validated))
    if data.validation is not None:
        # They compare numbers, and a metric may be a vector.
        as_numbers = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logs.update(numbers(logs)))
        keeping = _keeping(definition, epochs)
        wanted += [as_numbers, *keeping] if keeping else []
    watched = {str(getattr(callback, "monitor", "")) for callback in wanted}
    return [*metrics.each_epoch(definition, data, watched), *wanted]


def user_callbacks(
    definition: Definition, data: Data, trial: BaseTrial, folder: Path, model: keras.Model
) -> list[keras.callbacks.Callback]:
    """Return new instances of the callbacks that the study file names.

    Raises:
        ModelError: One cannot be imported or made, or is no Keras callback.
        Refused: The function that makes them raised for this trial.
        optuna.TrialPruned: It prunes this trial.
    """
    wanted = definition.fit.callbacks
    if isinstance(wanted, str):
        return _from_function(definition, wanted, data, trial, model)
    return [_user_callback(definition, f"fit.callbacks[{index}]", entry, folder) for index, entry in enumerate(wanted)]


def _from_function(
    definition: Definition, name: str, data: Data, trial: BaseTrial, model: keras.Model
) -> list[keras.callbacks.Callback]:
    function = load_object(name, definition.folder, "fit.callbacks")
    right = "; it is called as callbacks(trial, data) or, by its parameters, callbacks(trial, data, model)"
    with refusing("fit.callbacks", name, right, optuna.TrialPruned):
        made = function(trial, data, model) if _takes_model(function) else function(trial, data)
    if not isinstance(made, list | tuple):
        raise ModelError(f"fit.callbacks: {called(name)} returned {type(made).__name__}; return a list of callbacks")
    return [_checked("fit.callbacks", called(name), callback) for callback in made]


def _takes_model(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return True
    return "model" in inspect.signature(function).parameters


def _user_callback(
    definition: Definition, key: str, wanted: CallbackDefinition, folder: Path
) -> keras.callbacks.Callback:
    import keras

    reference = wanted.kind if ":" in wanted.kind else f"keras.callbacks:{wanted.kind}"
    make = load_object(reference, definition.folder, key)
    options = {**_where(wanted.kind, wanted.options, folder)}
    if make is keras.callbacks.TensorBoard and importlib.util.find_spec("tensorboard") is None:
        raise ModelError(f"{key}: TensorBoard is not installed; pip install tensorboard, or use CSVLogger")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ModelError(
            f"{key}: {wanted.kind}: {error}; give its arguments in a table: {{ class = '{wanted.kind}', … }}"
        ) from None
    except ValueError:  # a class without a signature
        pass
    try:
        callback = make(**options)
    except (optuna.TrialPruned, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ModelError(f"{key}: {raised(wanted.kind, error)}") from error
    return _checked(key, wanted.kind, callback)


def _where(kind: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a callback's arguments; what Keras's own ones write goes into the trial's folder."""
    argument, default = _WRITERS.get(kind, ("", ""))
    if not argument:
        return options
    place = folder / options.get(argument, default)
    if place.is_relative_to(folder):  # a fold's or the refit's is a folder in the trial's
        place.parent.mkdir(parents=True, exist_ok=True)
    return {**options, argument: str(place)}


def _checked(key: str, name: str, callback: Any) -> keras.callbacks.Callback:
    import keras

    if not isinstance(callback, keras.callbacks.Callback):
        raise ModelError(f"{key}: {name} gave {type(callback).__name__}; give a keras.callbacks.Callback")
    return callback


def _without_validation(wanted: list[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """Give callbacks the training logs as `val_` logs, where there is no validation part."""
    import keras

    if not wanted:
        return []
    lent: list[str] = []

    def lend(logs: dict[str, Any]) -> None:
        lent[:] = [f"val_{name}" for name in logs if f"val_{name}" not in logs]
        logs.update({name: logs[name.removeprefix("val_")] for name in lent})

    def take_back(logs: dict[str, Any]) -> None:
        for name in lent:
            logs.pop(name, None)

    def lend_epoch(logs: dict[str, Any]) -> None:
        lend(logs)
        for callback in wanted:  # Keras validates before an epoch ends
            callback.on_test_begin({})
            callback.on_test_end({name.removeprefix("val_"): logs[name] for name in lent})

    def at_ends(
        epoch_ends: Callable[[dict[str, Any]], None], training_ends: Callable[[dict[str, Any]], None]
    ) -> keras.callbacks.Callback:
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: epoch_ends(logs),  # noqa: ARG005 - Keras passes both
            on_train_end=training_ends,
        )

    return [at_ends(lend_epoch, lend), *wanted, at_ends(take_back, take_back)]


def monitored(definition: Definition) -> tuple[str, str]:
    """Return the log that early stopping and `plateau` watch, and Keras's mode for it.

    It is the study's first metric that Keras logs; a study of trial metrics alone watches `val_loss`.
    """
    for metric, direction in zip(definition.metrics, definition.directions, strict=True):
        if metric not in TRIAL_METRICS:
            return metric, "min" if direction == "minimize" else "max"
    return "val_loss", "min"


def class_weight(definition: Definition, data: Data) -> dict[int, float] | None:
    """Return a weight for each class index; None when all count alike.

    Raises:
        DataError: The task has no classes, a class does not exist, or Keras cannot weigh those of such a stream.
    """
    wanted = definition.fit.class_weight
    if wanted is None:
        return None
    if data.train.streamed:
        return _not_all_zero(_class_weight_of_stream(wanted, data))
    if data.task not in ("binary", "multiclass"):
        told = {"several": "there are several targets", "none": "there are no targets"}
        what = told.get(data.task, f"these data are {data.task}")
        raise DataError(f"fit.class_weight: {what}; class weights need one target of classes")
    if isinstance(wanted, str):  # balanced
        labels, weights = data.class_indices(data.train), data.train.sample_weight
        weights = None if weights is None else np.asarray(weights, "float64").reshape(-1)
        counts = np.bincount(labels, weights, minlength=len(data.classes))
        total = float(counts.sum())
        return {i: total / (len(counts) * count) if count else 0.0 for i, count in enumerate(counts.tolist())}
    known_labels = [str(label) for label in data.classes]
    for label in wanted:
        if label not in known_labels:
            known = f"the classes are {', '.join(known_labels)}"
            raise DataError(f"fit.class_weight: no class '{label}'; {known}{did_you_mean(label, known_labels)}")
    return _not_all_zero({index: wanted.get(label, 1.0) for index, label in enumerate(known_labels)})


def _not_all_zero(given: dict[int, float]) -> dict[int, float]:
    if not any(given.values()):
        raise DataError("fit.class_weight: every class weighs 0, so nothing is learned; give one a weight above 0")
    return given


def _class_weight_of_stream(wanted: str | dict[str, float], data: Data) -> dict[int, float]:
    """Return a weight for each class index of a stream, which may have further classes than its first batches."""
    if isinstance(wanted, str):
        raise DataError(
            'fit.class_weight: the classes of a stream are not counted; give weights, as { "0" = 1, "1" = 5 }'
        )
    if data.spent_by_reading:
        raise DataError("fit.class_weight: Keras weighs no classes of a generator; yield (x, y, sample_weight) instead")
    wrong = next((label for label in wanted if not label.isdecimal() or len(label) > 6), None)
    if wrong is not None:
        raise DataError(f"fit.class_weight: no class '{wrong}'; the classes of a stream are 0, 1, 2 …")
    weights = {int(label): weight for label, weight in wanted.items()}
    return {index: weights.get(index, 1.0) for index in range(max((*weights, len(data.classes) - 1)) + 1)}


def _keeping(definition: Definition, epochs: int) -> list[keras.callbacks.Callback]:
    """Return the callbacks that stop early and restore the best epoch's weights."""
    stopping, keep = definition.fit.early_stopping, definition.fit.keep_epoch
    if stopping is None:
        return [_early_stopping(definition, EarlyStopping(patience=epochs), restore=True)] if keep == "best" else []
    return [_early_stopping(definition, stopping, restore=keep != "last")]


def _early_stopping(definition: Definition, wanted: EarlyStopping, *, restore: bool) -> keras.callbacks.Callback:
    import keras

    monitor, mode = monitored(definition)
    return keras.callbacks.EarlyStopping(
        monitor=monitor,
        mode=mode,
        patience=wanted.patience,
        min_delta=wanted.min_delta,
        start_from_epoch=wanted.start_from_epoch,
        restore_best_weights=restore,
    )


def _schedule(
    definition: Definition, wanted: LearningRateSchedule, epochs: int, validated: bool
) -> keras.callbacks.Callback:
    import keras

    if wanted.type == "plateau":
        monitor, mode = monitored(definition) if validated else ("loss", "min")
        return keras.callbacks.ReduceLROnPlateau(
            monitor=monitor, mode=mode, factor=wanted.factor, patience=wanted.patience, min_lr=wanted.minimum
        )

    class Schedule(keras.callbacks.LearningRateScheduler):  # type: ignore[misc]  # Keras ships no types
        first: float | None = None  # the rate of epoch 0

        def __init__(self) -> None:
            super().__init__(self.rate_of)

        def rate_of(self, epoch: int, rate: float) -> float:
            self.first = rate if self.first is None else self.first
            return learning_rate(wanted, self.first, epoch, epochs)

    return Schedule()


def learning_rate(schedule: LearningRateSchedule, first: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch under a `cosine` or `exponential` schedule.

    Args:
        schedule: What the study file says.
        first: The rate of epoch 0.
        epoch: From 0.
        epochs: After this many a cosine reaches `minimum`.
    """
    if schedule.type == "exponential":
        return max(schedule.minimum, first * schedule.factor**epoch)
    share = (1 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2
    return schedule.minimum + (first - schedule.minimum) * share


def settings_of(model: keras.Model, definition: Definition, epochs: int, batch_size: int) -> dict[str, Any]:
    """Return what MLflow's autologging would have recorded: optimizer, loss, and `fit`'s arguments."""
    optimizer = getattr(model, "optimizer", None)
    loss = getattr(model, "loss", None)
    return {
        "optimizer": {} if optimizer is None else _told(optimizer),
        "loss": loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", str(loss))),
        "fit": {
            "epochs": epochs,
            "batch_size": batch_size,
            **definition.fit.model_dump(exclude={"epochs", "batch_size"}, by_alias=True),
        },
        "dtype_policy": definition.fit.precision,
    }


def _told(optimizer: keras.Optimizer) -> dict[str, Any]:
    try:
        return {name: _plain(value) for name, value in optimizer.get_config().items()}
    except Exception:  # whatever a schedule of the user's own raises; most have no get_config
        return {"name": optimizer.name}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | dict | list | None) else str(value)
