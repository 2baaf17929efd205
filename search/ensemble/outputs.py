"""What a trial's models give for the validation rows, by which models are compared and averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.outputs import Batch, predict
from search.comparison.predictions import Predictions, joined
from search.data.dataset import Data, Part
from search.data.preprocessing import leaves
from search.data.table import digest_of
from search.ensemble.choice import activations
from search.ensemble.model import average
from search.errors import told
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import keras

Batches = Callable[["keras.Model", Part], Iterable[Batch]]  # the rows of a part in order
_MOST_ROWS = 20_000  # of which outputs are kept
_COMPARED = 100  # training rows by which data that were prepared otherwise are told
_LARGEST = 2**22  # bytes of outputs beyond which only the losses of the rows are kept


def validated(definition: Definition, data: Data, models: Sequence[keras.Model], batches: Batches) -> bytes | None:
    """Return what a trial's models give for validation rows, as `Predictions.to_bytes` writes it; None without any.

    Args:
        definition: The study file.
        data: With folds, each model is asked for the rows that it has not learned.
        models: The model of each fold; without folds the one that is kept.
        batches: Gives rows to a model.
    """
    with told("the outputs for the validation rows are not kept"):
        parts = list(_each(definition, data, models, batches))
        if not parts:
            return None
        whole = _joined(parts)
        if not data.train.streamed:  # each trial's own rows tell how they were prepared
            prepared = digest_of(*leaves(data.example(_COMPARED)))
            whole = replace(whole, about=replace(whole.about, digest=prepared))
        return whole.to_bytes()
    return None


def mean_or_best(
    definition: Definition, data: Data, models: Sequence[keras.Model], best: keras.Model, batches: Batches
) -> keras.Model:
    """Return the mean of a trial's repeats if `[search] ensemble` allows that many, without a refit; else the best."""
    if data.folds or definition.search.refit or not 1 < len(models) <= definition.search.ensemble:
        return best
    with told("the repeats are not averaged"):
        given = next(_each(definition, data, models[:1], batches))
        members = {f"repeat_{index}": model for index, model in enumerate(models)}
        return average(members, [1] * len(models), activations(given), data.example(), best)
    return best


def _each(definition: Definition, data: Data, models: Sequence[keras.Model], batches: Batches) -> Iterator[Predictions]:
    known = dict.fromkeys([definition.metrics[0].removeprefix("val_")], 0.0)
    for index, model in enumerate(models):
        own = data.fold(index) if data.folds else data
        if own.validation is None:
            return
        rows, part, group = data.folds[index][1] if data.folds else None, own.validation, own.validation_group
        if len(part) > _MOST_ROWS // len(models):
            few = np.linspace(0, len(part) - 1, _MOST_ROWS // len(models)).astype(int)
            rows, part = few if rows is None else rows[few], part.take(few)
            group = None if group is None else group[few]
        own = replace(own, test=part, test_rows=rows, test_group=group)
        given = predict(definition, own, model, batches(model, part), known)
        yield replace(given, slices={}, inputs={}, baseline_loss=None)


def _joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the rows of all folds in the order of the data."""
    whole = joined(parts)
    whole = whole.take(np.argsort(whole.rows, kind="stable"))
    large = sum(output.nbytes for output in whole.outputs.values()) > _LARGEST
    return replace(whole, targets={}, outputs={}) if large else whole
