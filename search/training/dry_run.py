"""What is tried before anything is created: one model, one batch, one save. It trains nothing that is kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.data.dataset import Data
from search.data.preprocessing import CATEGORICAL, NUMERIC
from search.data.summary import DataSummary, TensorSpec
from search.errors import ModelError, StudyFileError, did_you_mean, one_line
from search.studyfile.schema import TRIAL_METRICS, Definition
from search.training import callbacks, fit, metrics
from search.training.model import Refused, try_build
from search.training.probes import check_enqueued

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial


_MOST_TRIES, _FEWEST_TRIES, _TRY_SECONDS = 20, 5, 20.0


def dry_run(definition: Definition, data: Data, trials: Iterable[BaseTrial], seconds: float) -> DataSummary:
    """Build one model and run one batch through it, before anything is created.

    A builder may refuse some configurations: those trials fail and no more. It is a mistake of the study
    only when it refuses several in a row.

    Args:
        definition: The study file.
        data: The study's data.
        trials: Trials like the search's first; the first one that works is enough.
        seconds: How long loading the data took.

    Returns:
        What MLflow and the person are told of the data.

    Raises:
        ModelError: The model cannot be built, take a batch of these data, or be saved and loaded.
        StudyFileError: The study's metric is not among the metrics that Keras will log, or `[[enqueue]]`
            gives the builder what it does not take.
        DataError: The class weights do not fit the data.
    """
    callbacks.class_weight(definition, data)
    callbacks.user_callbacks(definition)
    model, log_names = _first_that_works(definition, trials, data)
    check_enqueued(definition, data)
    _check_metrics(definition, log_names)
    output = _output(definition, model, data)
    if definition.model.build != "mlp":
        _try_archive(definition, model)
    return DataSummary(
        name=data.name,
        source=definition.data.source,
        digest=data.digest,
        task=data.task,
        classes=data.classes,
        rows={"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test)},
        columns=tuple((column.name, column.kind) for column in data.columns),
        inputs=_inputs(data),
        example=_raw_example(data),
        output=output,
        log_names=log_names,
        path=fit.path_of(model, data, callbacks.callbacks(definition, data, epochs=1)),
        seconds=seconds,
    )


def _first_that_works(
    definition: Definition, trials: Iterable[BaseTrial], data: Data
) -> tuple[keras.Model, tuple[str, ...]]:
    """Return the first model that can be built and take a batch, and what it logs."""
    first, tries, began = None, 0, time.monotonic()
    for tries, trial in enumerate(trials, 1):
        try:
            model = try_build(definition, trial, data)
            return model, _try_batch(definition, model, data)
        except Refused as error:
            first = first or error
        late = time.monotonic() - began > _TRY_SECONDS
        if tries >= _MOST_TRIES or (late and tries >= _FEWEST_TRIES):
            break
    row = f"; {tries} configurations in a row failed, the first of them like this" if tries > 1 else ""
    raise ModelError(f"{first}{row}") from first


def _try_batch(definition: Definition, model: keras.Model, data: Data) -> tuple[str, ...]:
    """Return every name that Keras will log."""
    try:
        names = fit.log_names(model, data)
    except Exception as error:
        raise Refused(
            f"model.build: {definition.model.build}: the model cannot take a batch ({one_line(error)})"
        ) from error
    scheduled = ("learning_rate",) if definition.fit.learning_rate_schedule else ()
    return (*names, *scheduled)


def _check_metrics(definition: Definition, log_names: tuple[str, ...]) -> None:
    known = (*log_names, *TRIAL_METRICS)
    for name in sorted(metrics.needed(definition)):
        if name not in known:
            raise StudyFileError(
                str(definition.path),
                "metric" if name in definition.metrics else "search.constraints",
                f"'{name}' is not among the metrics of this model",
                f"it logs {', '.join(known)}{did_you_mean(name, known)}",
            )


def _output(definition: Definition, model: keras.Model, data: Data) -> TensorSpec:
    predicted = model(fit.as_tensors(data.example(1)), training=False)
    if isinstance(predicted, dict | list | tuple):  # MLflow's signature has room for one
        return TensorSpec("float32", (-1, data.outputs))
    rows = predicted.shape[0]
    if rows != 1:
        raise ModelError(f"model.build: {definition.model.build}: the model gave {rows} predictions for 1 row")
    return TensorSpec(str(predicted.dtype.name), (-1, *predicted.shape[1:]))


def _try_archive(definition: Definition, model: keras.Model) -> None:
    """Save the user's model and load it again: the registered one must survive that."""
    import keras

    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.keras")
            keras.saving.load_model(Path(folder) / "model.keras")
    except Exception as error:
        reason = one_line(_origin(error)).partition(". Make sure")[0]
        raise ModelError(
            f"model.build: {definition.model.build}: the model cannot be saved and loaded again ({reason}); decorate "
            "own classes and functions with @keras.saving.register_keras_serializable()"
        ) from error


def _origin(error: BaseException) -> BaseException:
    """Return the error that Keras met first; it raises less telling ones on the way."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _inputs(data: Data) -> tuple[TensorSpec, ...]:
    x = data.example(1)
    listed = [(f"input_{index}", each) for index, each in enumerate(x)] if isinstance(x, list | tuple) else [(None, x)]
    named = x.items() if isinstance(x, dict) else listed
    return tuple(TensorSpec(str(each.dtype), (-1, *each.shape[1:]), name) for name, each in named)


def _raw_example(data: Data) -> Any:
    """Return a few rows as the user sends them."""
    x = data.example()
    if not data.columns:
        return x
    arrays = x if isinstance(x, dict) else {NUMERIC: x}
    numbers = iter(arrays[NUMERIC].T if NUMERIC in arrays else ())
    texts = iter(arrays[CATEGORICAL].T if CATEGORICAL in arrays else ())
    return {
        column.name: [_raw_value(value, column.kind) for value in next(numbers if column.numeric else texts)]
        for column in data.columns
    }


def _raw_value(value: Any, kind: str) -> Any:
    if kind == "string":
        return str(value)
    if kind != "double" and math.isnan(value):  # a missing whole number
        return None
    return {"long": int, "boolean": bool, "double": float}[kind](value)
