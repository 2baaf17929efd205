"""What the trivial answer, the same for every row, scores on the validation part: what a trial must beat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.outputs import constants, meanings
from search.comparison.predictions import ONLY
from search.data.dataset import Data
from search.serving.meaning import named
from search.training import fit

if TYPE_CHECKING:
    import keras

_ROWS = 4096  # validation rows that are looked at


def answer(model: keras.Model, data: Data) -> dict[str, float]:
    """Return the loss and the metrics of the trivial answer by their names in the logs, `val_` before them.

    It is the share of each class, or the mean, in the training rows, measured by the model's own loss and metrics.
    Nothing where it is not known: without a validation part or targets, for streams, and for other losses.
    """
    part = data.validation
    if part is None or part.streamed or data.train.streamed or part.y is None or not model.compiled:
        return {}
    try:
        found = _measured(model, data)
    except Exception:  # whatever a model, loss or metric of the user's own raises
        return {}
    return {f"val_{name}": value for name, value in found.items() if math.isfinite(value)}


def _measured(model: keras.Model, data: Data) -> dict[str, float]:
    import keras

    assert data.validation is not None  # noqa: S101 - for the type checker: `answer` looked
    part = data.validation.take(slice(0, _ROWS))
    few = fit.as_tensors(data.example(1))
    given = model(few, training=False)
    outputs = {name or ONLY: keras.ops.convert_to_numpy(each) for name, each in named(model, given)}
    known = constants(meanings(model, few, data), outputs, data)
    if len(known) < len(outputs):
        return {}
    tensor = keras.ops.convert_to_tensor
    answers = {
        name: tensor(np.tile(known[name].reshape(each.shape), (len(part), *[1] * (each.ndim - 1))))
        for name, each in outputs.items()
    }
    listed = list(answers.values())
    x, y, weight = (*keras.tree.map_structure(tensor, fit.packed(part)), None)[:3]
    answered = answers if isinstance(given, dict) else listed if isinstance(given, list | tuple) else listed[0]
    batch = (x, y, answered, weight)
    model.reset_metrics()
    loss = float(model.compute_loss(*batch, training=False))
    found = {**{name: float(value) for name, value in model.compute_metrics(*batch).items()}, "loss": loss}
    model.reset_metrics()
    return found
