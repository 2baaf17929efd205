"""What a trial's models give for the validation rows, by which models are compared and averaged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.outputs import Batch, predict
from search.comparison.predictions import Predictions
from search.data.dataset import Data, Part
from search.ensemble.choice import activations
from search.ensemble.model import average
from search.errors import one_line
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import keras

Batches = Callable[["keras.Model", Part], Iterable[Batch]]  # the rows of a part in order
_MOST_ROWS = 20_000  # of which outputs are kept
_LARGEST = 2**22  # bytes of outputs beyond which only the losses of the rows are kept


def validated(definition: Definition, data: Data, models: Sequence[keras.Model], batches: Batches) -> bytes | None:
    """Return what a trial's models give for validation rows, as `Predictions.to_bytes` writes it; None without any.

    Args:
        definition: The study file.
        data: With folds, each model is asked for the rows that it has not learned.
        models: The model of each fold; without folds the one that is kept.
        batches: Gives rows to a model.
    """
    try:
        parts = list(_each(definition, data, models, batches))
        whole = _joined(parts) if parts else None
    except Exception as error:  # whatever a model or a loss of the user's own raises
        sys.stderr.write(f"the outputs for the validation rows are not kept: {one_line(error)}\n")
        return None
    return None if whole is None else whole.to_bytes()


def mean_or_best(
    definition: Definition, data: Data, models: Sequence[keras.Model], best: keras.Model, batches: Batches
) -> keras.Model:
    """Return the mean of a trial's repeats where that many may be averaged; else the best one."""
    if data.folds or not 1 < len(models) <= definition.search.ensemble:
        return best
    try:
        given = next(_each(definition, data, models[:1], batches))
        logits = activations(given)
        members = {f"repeat_{index}": model for index, model in enumerate(models)}
        return average(members, [1] * len(models), logits, data.example(), best)
    except Exception as error:  # whatever a model of the user's own raises
        sys.stderr.write(f"the repeats are not averaged: {one_line(error)}\n")
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
        yield replace(given, slices={}, baseline_loss=None)


def _joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the rows of all folds in the order of the data."""
    first = parts[0]
    rows = np.concatenate([each.rows for each in parts])
    order = np.argsort(rows, kind="stable")

    def whole(arrays: Sequence[Any]) -> Any:
        return None if any(each is None for each in arrays) else np.concatenate(arrays)[order]

    outputs = {at: whole([list(each.outputs.values())[at] for each in parts]) for at in range(len(first.outputs))}
    large = sum(each.nbytes for each in outputs.values()) > _LARGEST
    return replace(
        first,
        rows=rows[order],
        targets={} if large else {name: whole([each.targets[name] for each in parts]) for name in first.targets},
        outputs={} if large else dict(zip(first.outputs, outputs.values(), strict=True)),
        loss=whole([each.loss for each in parts]),
        weight=whole([each.weight for each in parts]),
        group=whole([each.group for each in parts]),
    )
