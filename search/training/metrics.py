"""Metrics: the user's own, measured on predictions; and from a training's metrics to a trial's values.

It also says how far a trial is from the study's constraints, and what the trivial answer scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from search.comparison import outputs
from search.comparison.predictions import ONLY, Predictions
from search.comparison.scores import applied, score_of, trivial
from search.data import streams
from search.data.dataset import Data, Part
from search.errors import TrialFailed, did_you_mean, raised
from search.serving.meaning import Meaning, named
from search.studyfile.objects import called
from search.studyfile.references import load_object
from search.studyfile.schema import TRIAL_METRICS, Definition, MetricDefinition, parse_constraint
from search.training.fit import as_tensors, devices, evaluate, first_rows, held_out_rows, packed
from search.training.model import takes_rows

if TYPE_CHECKING:
    import keras

Metrics = Mapping[str, float]

_TRIVIAL_ROWS = 4096  # validation rows that the trivial answer is measured on


def needed(definition: Definition) -> set[str]:
    """Return the metrics that the study optimizes or constrains."""
    return {*definition.metrics, *(parse_constraint(text)[0] for text in definition.search.constraints)}


def fail_unless_finite(definition: Definition, metrics: Metrics, when: str) -> None:
    """Fail the trial when a metric of the study is not finite, or the training loss is no number.

    Raises:
        TrialFailed: Says which, and when.
    """
    for name in definition.metrics:
        if not math.isfinite(metrics.get(name, 0.0)):
            raise TrialFailed(f"{name} is {metrics[name]} {when}")
    if math.isnan(metrics.get("loss", 0.0)):  # so are the weights, whatever an accuracy says
        raise TrialFailed(f"loss is nan {when}")


def fail_unless_logged(definition: Definition, logs: Metrics) -> None:
    """Fail the trial after its first validated epoch if a metric of the study is not in the logs.

    What is only known at the end is not looked for: metrics of the trial, of `[metrics]`, of the user's own
    training, and of the validation part where there is none.

    Raises:
        TrialFailed: Says which, and what was logged.
    """
    late = {*TRIAL_METRICS, *(f"val_{name}" for name in definition.own_metrics)}
    for name in definition.metrics:
        if name not in logs and name not in late and not definition.fit.function:
            epoch, known = definition.fit.validation_freq, ", ".join(logs)
            raise TrialFailed(f"no metric '{name}' in the logs after epoch {epoch} ({known}){did_you_mean(name, logs)}")


def values_of(definition: Definition, metrics: Metrics) -> tuple[float, ...]:
    """Return one value for each of the study's metrics.

    Raises:
        TrialFailed: A metric is missing or not finite.
    """
    for name in definition.metrics:
        if name not in metrics:
            raise TrialFailed(f"no metric '{name}' in the logs ({', '.join(metrics)})")
    fail_unless_finite(definition, metrics, "at the end of training")
    return tuple(metrics[name] for name in definition.metrics)


def violations_of(definition: Definition, metrics: Metrics) -> tuple[float, ...]:
    """Return how far these metrics are beyond each constraint, at most 0 where it is met.

    A metric that is missing or no number is infinitely far beyond.
    """
    beyond = []
    for text in definition.search.constraints:
        metric, operator, bound = parse_constraint(text)
        value = metrics.get(metric, math.nan)
        distance = value - bound if operator == "<=" else bound - value
        beyond.append(math.inf if math.isnan(distance) else distance)
    return tuple(beyond)


def mean(trainings: Sequence[Metrics]) -> dict[str, float]:
    """Return the mean of each metric that all these trainings have."""
    shared = [name for name in trainings[0] if all(name in training for training in trainings)]
    return {name: float(np.mean([training[name] for training in trainings])) for name in shared}


def spread(definition: Definition, trainings: Mapping[str, Metrics]) -> dict[str, float]:
    """Return each of the study's metrics in each training, and its standard deviation.

    Args:
        definition: The study file.
        trainings: The metrics of each training by its name.

    Returns:
        For example `val_loss_fold_0`, `val_loss_fold_1`, …, `val_loss_std`.
    """
    shown: dict[str, float] = {}
    for metric in definition.metrics:
        column = [training[metric] for training in trainings.values()]
        shown |= {f"{metric}_{name}": value for name, value in zip(trainings, column, strict=True)}
        shown[f"{metric}_std"] = float(np.std(column))
    return shown


def functions(definition: Definition) -> dict[str, Callable[..., Any]]:
    """Return the functions that `[metrics]` names.

    Raises:
        ModelError: One cannot be imported.
    """
    return {
        name: load_object(metric.function, definition.folder, f"metrics.{name}.function")
        for name, metric in definition.own_metrics.items()
    }


def measure(
    definition: Definition,
    model: keras.Model,
    data: Data,
    part: Part,
    names: set[str] | None = None,
    meanings: Sequence[Meaning] = (),
) -> dict[str, float]:
    """Return the own metrics of a model on a part, by their names in `[metrics]`.

    Args:
        definition: The study file.
        model: Its predictions are measured.
        data: The data that it learned.
        part: What to predict.
        names: Only these metrics; all when left out.
        meanings: What the model's outputs mean, where that is known already.

    Raises:
        TrialFailed: A function raised, or returned no number.
    """
    wanted = {n: metric for n, metric in definition.own_metrics.items() if names is None or n in names}
    if not wanted:
        return {}
    known, (y_true, y_pred) = functions(definition), _predicted(model, part, definition.fit.validation_steps)
    meaning = None
    if isinstance(y_pred, np.ndarray) and isinstance(y_true, np.ndarray):
        meaning = next(iter(meanings or outputs.meanings(model, first_rows(model, data), data)))
    return {name: _value(name, metric, known[name], meaning, y_true, y_pred) for name, metric in wanted.items()}


def tested(definition: Definition, model: keras.Model, data: Data, rows: int | None) -> dict[str, float]:
    """Return every metric of a model on the test part; none where it takes other inputs than the study's rows.

    Args:
        definition: The study file.
        model: The model.
        data: The data.
        rows: How many are measured at once, as `evaluate` takes it.
    """
    if data.test is None or not takes_rows(definition, model, data):
        return {}
    steps = definition.fit.validation_steps
    found = evaluate(model, data.test, rows, steps=steps) if model.compiled else {}
    found |= measure(definition, model, data, data.test)
    return {f"test_{name}": value for name, value in found.items()}


def each_epoch(definition: Definition, data: Data, watched: set[str]) -> list[keras.callbacks.Callback]:
    """Return a callback that logs the metrics measured after each epoch, to stand before all others.

    Args:
        definition: The study file.
        data: Without a validation part nothing is measured.
        watched: Names that a callback of `[fit]` watches, so that they are needed after each epoch.
    """
    import keras

    held_out = data.validation
    names = {n for n, metric in definition.own_metrics.items() if metric.every_epoch or f"val_{n}" in watched}
    if not names or held_out is None:
        return []

    part = held_out

    class OwnMetrics(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        meanings: Sequence[Meaning] = ()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's own
            self.meanings = self.meanings or outputs.meanings(self.model, first_rows(self.model, data), data)
            measured = measure(definition, self.model, data, part, names, self.meanings)
            if logs is not None:
                logs.update({f"val_{name}": value for name, value in measured.items()})

    return [OwnMetrics()]


def _predicted(model: keras.Model, part: Part, steps: int | None) -> tuple[Any, Any]:
    """Return targets and predictions of a part; of a stream those of its first `steps` batches."""
    if not part.streamed:
        return part.y, model.predict(as_tensors(part.x), batch_size=held_out_rows(model, part), verbose=0)
    # On several devices `predict_on_batch` gives all of a batch for each.
    give = model.predict_on_batch if devices() == 1 else partial(model.predict, verbose=0)
    pairs = [(y, give(x)) for x, y in streams.batches(part.x, steps)]
    y_true, y_pred = ([pair[i] for pair in pairs] for i in (0, 1))
    return _joined(y_true), _joined(y_pred)


def _joined(batches: list[Any]) -> Any:
    import keras

    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *batches)


def _value(
    name: str, wanted: MetricDefinition, function: Any, meaning: Meaning | None, y_true: Any, y_pred: Any
) -> float:
    """Return an own metric of these outputs.

    Args:
        name: Its name in `[metrics]`.
        wanted: What the study file says of it.
        function: It.
        meaning: What the outputs mean; None for several outputs.
        y_true: Targets.
        y_pred: Outputs.

    Raises:
        TrialFailed: The function raised, or returned no number.
    """
    y_true, y_pred = _one_axis(y_true), _one_axis(y_pred)
    library = wanted.function.startswith("sklearn.")
    try:
        value = applied(function, meaning, y_true, y_pred, wanted.options, wanted.threshold, scores=library)
    except optuna.TrialPruned:
        raise
    except Exception as error:
        raise TrialFailed(f"metrics.{name}: {raised(called(wanted.function), error)}") from error
    try:
        if np.ndim(value) == 0 and not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TrialFailed(f"metrics.{name}: {called(wanted.function)} returned {type(value).__name__}; return a number")


def _one_axis(values: Any) -> Any:
    """Return numbers of shape (rows, 1) as (rows,), in single precision at least; anything else as it is."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind not in "fiubOUS":  # bfloat16, which NumPy's functions do not know
        values = values.astype("float32")
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def trivial_answer(
    definition: Definition, model: keras.Model, data: Data, part: Part | None, rows: int | None = None
) -> dict[str, float]:
    """Return the loss and the metrics of the trivial answer on a part, by their names in Keras and in `[metrics]`.

    It is the share of each class, or the mean, in the training rows, measured by the model's own loss and metrics.
    Nothing where it is not known: without targets, for streams, and for outputs of unknown meaning.

    Args:
        definition: The study file.
        model: Says what is measured.
        data: Its training part tells the answer.
        part: The rows that are answered.
        rows: How many are measured at once, as `evaluate` takes it.
    """
    if part is None or part.streamed or data.train.streamed or part.y is None or not model.compiled:
        return {}
    try:
        found = _of_trivial(definition, model, data, part, rows or held_out_rows(model, part))
    except Exception:  # whatever a model, loss or metric of the user's own raises
        return {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def trivial_on_validation(
    definition: Definition, model: keras.Model, data: Data, rows: int | None = None
) -> dict[str, float]:
    """Return what the trivial answer has on the first validation rows, by name, `val_` before it."""
    part = None if data.validation is None or data.validation.streamed else data.validation
    some = None if part is None else part.take(slice(0, _TRIVIAL_ROWS))
    return {f"val_{name}": value for name, value in trivial_answer(definition, model, data, some, rows).items()}


def with_trivial(
    definition: Definition, model: keras.Model, data: Data, found: Predictions, rows: int | None
) -> Predictions:
    """Return predictions for the test rows with what the trivial answer has there, where they do not tell it."""
    baseline, metric = trivial(found), found.about.metric
    if baseline is not None and score_of(metric, found) is not None and score_of(metric, baseline) is not None:
        return found
    known = trivial_answer(definition, model, data, data.test, rows)
    return replace(found, about=replace(found.about, trivial=known))


def _of_trivial(definition: Definition, model: keras.Model, data: Data, part: Part, rows: int) -> dict[str, float]:
    import keras

    few = first_rows(model, data)
    given = model(few, training=False)
    given_by = {name or ONLY: keras.ops.convert_to_numpy(output)[:1] for name, output in named(model, given)}
    meanings = outputs.meanings(model, few, data)
    known = outputs.constants(meanings, given_by, data)
    if len(known) < len(given_by):
        return {}

    def answers(count: int) -> Any:
        of = {
            name: np.tile(known[name].reshape(output.shape), (count, *[1] * (output.ndim - 1)))
            for name, output in given_by.items()
        }
        listed = list(of.values())
        return of if isinstance(given, dict) else listed if isinstance(given, list | tuple) else listed[0]

    model.reset_metrics()
    losses, found = [], dict[str, float]()
    for start in range(0, len(part), rows):
        some = part.take(slice(start, start + rows))
        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, (packed(some), answers(len(some))))
        (x, y, weight), answered = (*tensors[0], None)[:3], tensors[1]
        loss = float(model.compute_loss(x, y, answered, weight, training=False))
        losses.append(loss * len(some))
        found = {name: float(value) for name, value in model.compute_metrics(x, y, answered, weight).items()}
    model.reset_metrics()
    own, functions_of = definition.own_metrics, functions(definition)
    meaning = meanings[0] if len(given_by) == 1 else None
    for name, metric in own.items():
        with suppress(TrialFailed):
            found[name] = _value(name, metric, functions_of[name], meaning, part.y, answers(len(part)))
    return {**found, "loss": sum(losses) / len(part)}
