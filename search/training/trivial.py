"""What the trivial answer, the same for every row, has in a model's loss and metrics: what each trial must beat."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison import outputs
from search.comparison.predictions import ONLY, Predictions
from search.comparison.scores import score_of, trivial
from search.data.dataset import Data, Part
from search.errors import TrialFailed
from search.serving.meaning import named
from search.studyfile.schema import Definition
from search.training.fit import as_tensors, held_out_rows, packed
from search.training.metrics import functions, value_of

if TYPE_CHECKING:
    import keras

_ROWS = 4096  # validation rows that the trivial answer is measured on


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
    some = None if part is None else part.take(slice(0, _ROWS))
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

    few = as_tensors(data.example(1))
    given = model(few, training=False)
    given_by = {name or ONLY: keras.ops.convert_to_numpy(each) for name, each in named(model, given)}
    meanings = outputs.meanings(model, few, data)
    known = outputs.constants(meanings, given_by, data)
    if len(known) < len(given_by):
        return {}

    def answers(count: int) -> Any:
        of = {
            name: np.tile(known[name].reshape(each.shape), (count, *[1] * (each.ndim - 1)))
            for name, each in given_by.items()
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
    for name, each in own.items():
        with suppress(TrialFailed):
            found[name] = value_of(name, each, functions_of[name], meaning, part.y, answers(len(part)))
    return {**found, "loss": sum(losses) / len(part)}
