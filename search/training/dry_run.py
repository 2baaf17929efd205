"""What is tried before anything is created: one model, one batch, one save. It trains nothing that is kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.dataset import Data
from search.data.preprocessing import CATEGORICAL, MISSING, NUMERIC, Column
from search.data.summary import DataSummary, TensorSpec
from search.errors import ModelError, StudyFileError, did_you_mean, one_line
from search.studyfile.schema import TRIAL_METRICS, Definition
from search.training import callbacks, fit, metrics, own_fit, own_metrics
from search.training.model import Refused, exported, registered_example, try_build
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
    own_metrics.functions(definition)
    if definition.fit.function:
        own_fit.load(definition)
    model, log_names, trial = _first_that_works(definition, trials, data)
    with tempfile.TemporaryDirectory() as folder:
        made = callbacks.callbacks(definition, data, 1, trial, Path(folder))
    check_enqueued(definition, data)
    _check_metrics(definition, log_names)
    path = own_fit.OWN_FIT if definition.fit.function else fit.path_of(model, data, made)
    model = exported(definition, model, data)
    example = registered_example(definition, model, data)
    output = _output(definition, model, example)
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
        inputs=_inputs(example),
        example=_raw_example(data) if data.columns else example,
        output=output,
        log_names=log_names,
        path=path,
        seconds=seconds,
        optional=_incomplete(data),
    )


def _first_that_works(
    definition: Definition, trials: Iterable[BaseTrial], data: Data
) -> tuple[keras.Model, tuple[str, ...], BaseTrial]:
    """Return the first model that can be built and take a batch, what it logs, and its trial."""
    first, tries, began = None, 0, time.monotonic()
    for tries, trial in enumerate(trials, 1):
        try:
            model = try_build(definition, trial, data)
            return model, _try_batch(definition, model, data), trial
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
        names = fit.log_names(model, data) if model.compiled else ()
    except Exception as error:
        if definition.fit.function:  # only the user's own training knows how to train it
            return ()
        raise Refused(
            f"model.build: {definition.model.build}: the model cannot take a batch ({one_line(error)})"
        ) from error
    scheduled = ("learning_rate",) if definition.fit.learning_rate_schedule else ()
    return (*names, *scheduled)


def _check_metrics(definition: Definition, log_names: tuple[str, ...]) -> None:
    known = (*log_names, *(f"val_{name}" for name in definition.own_metrics), *TRIAL_METRICS)
    unknown = definition.fit.callbacks or definition.fit.function  # code that may log more
    for name in sorted(metrics.needed(definition)):
        if name not in known and not unknown:
            raise StudyFileError(
                str(definition.path),
                "metric" if name in definition.metrics else "search.constraints",
                f"'{name}' is not among the metrics of this model",
                f"it logs {', '.join(known)}{did_you_mean(name, known)}",
            )


def _output(definition: Definition, model: keras.Model, example: Any) -> tuple[TensorSpec, ...]:
    """Return what the model to register gives: one array, or several with their names."""
    import keras

    one = keras.tree.map_structure(lambda each: each[:1], example)
    try:
        predicted = model(fit.as_tensors(one), training=False)
    except NotImplementedError:
        raise ModelError(
            f"model.build: {definition.model.build}: the model has no `call`, so it cannot be registered; "
            "name a function in model.export that returns the model to register"
        ) from None
    named = _named(model, predicted)
    for name, each in named:
        if each.shape[0] != 1:
            what = f" in output '{name}'" if name else ""
            raise ModelError(
                f"model.build: {definition.model.build}: the model gave {each.shape[0]} predictions for 1 row{what}"
            )
    return tuple(TensorSpec(_dtype(each), (-1, *_open(each.shape[1:], model, name)), name) for name, each in named)


def _named(model: keras.Model, predicted: Any) -> list[tuple[str | None, Any]]:
    """Return each output with its name; a single one has none."""
    if isinstance(predicted, dict):
        return list(predicted.items())
    if not isinstance(predicted, list | tuple):
        return [(None, predicted)]
    names = list(getattr(model, "output_names", None) or ())
    if len(set(names)) != len(predicted):
        names = [f"output_{index}" for index in range(len(predicted))]
    return list(zip(names, predicted, strict=True))


def _open(shape: Any, model: keras.Model, name: str | None) -> tuple[int, ...]:
    """Return an output's shape with -1 where the model leaves a size open: lengths, sizes of pictures."""
    known = getattr(model, "output_shape", None)
    if isinstance(known, dict):
        known = known.get(name)
    elif isinstance(known, list):
        known = known[list(model.output_names).index(name)] if name in getattr(model, "output_names", ()) else None
    if not isinstance(known, tuple) or len(known) != len(shape) + 1:
        return tuple(shape)
    return tuple(-1 if open_size is None else size for size, open_size in zip(shape, known[1:], strict=True))


def _dtype(tensor: Any) -> str:
    """Return an output's type as NumPy knows it: bfloat16 is served as float32."""
    name = str(getattr(tensor.dtype, "name", tensor.dtype))
    return "float32" if name == "bfloat16" else name


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


def _inputs(x: Any) -> tuple[TensorSpec, ...]:
    listed = [(f"input_{index}", each) for index, each in enumerate(x)] if isinstance(x, list | tuple) else [(None, x)]
    named = x.items() if isinstance(x, dict) else listed
    return tuple(TensorSpec(str(each.dtype), (-1, *each.shape[1:]), name) for name, each in named)


def _incomplete(data: Data) -> tuple[str, ...]:
    """Return the columns of which the training part has missing values."""
    if not data.columns:
        return ()
    arrays = data.x if isinstance(data.x, dict) else {NUMERIC: data.x}
    gaps = {
        **_gaps([each for each in data.columns if each.numeric], arrays.get(NUMERIC), np.isnan),
        **_gaps([each for each in data.columns if not each.numeric], arrays.get(CATEGORICAL), lambda x: x == MISSING),
    }
    return tuple(column.name for column in data.columns if gaps[column.name])


def _gaps(columns: list[Column], array: Any, is_missing: Callable[[Any], Any]) -> dict[str, bool]:
    return {each.name: bool(is_missing(array[:, index]).any()) for index, each in enumerate(columns)}


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
