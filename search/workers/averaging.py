"""What a worker does for an averaged model: choose its members by the validation rows, then build and test it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.outputs import losses_of
from search.comparison.predictions import Predictions
from search.comparison.scores import score_of
from search.comparison.verdict import Verdict
from search.data.loading import TrialData
from search.data.summary import DataSummary, Interface
from search.ensemble import choice, model
from search.studyfile.schema import Definition
from search.training import trial
from search.training.fit import ensure_built
from search.training.metrics import needed, tested
from search.training.model import build, is_built_in, registered_example, settings_of
from search.training.training import latency_ms, parameter_count
from search.workers import worker

if TYPE_CHECKING:
    import keras

_TIMED = 3  # measurements of one row's time, of which the shortest counts


@dataclass(frozen=True)
class Chosen:
    """What the validation rows say of averaging.

    Attributes:
        counts: How often each candidate counts.
        verdict: Whether the mean is surely better than the best candidate alone.
        values: Metrics of the mean on these rows, as far as the kept outputs tell them.
        left_out: Candidates that give other outputs than the best one, or for other rows.
    """

    counts: tuple[int, ...]
    verdict: Verdict
    values: dict[str, float]
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class Averaged:
    """An averaged model.

    Attributes:
        model: The Keras archive.
        predictions: Its predictions for the test rows; None where they cannot be made.
        answers: What it gives for the rows of its input example, likewise.
        data: What it takes and gives, with its data where they depend on the trial.
        metrics: `test_*`, `parameters`, `latency_ms`.
        slower: How many times as long as one of its members it takes for a row.
    """

    model: bytes = field(repr=False)
    predictions: bytes | None = field(repr=False)
    answers: bytes | None = field(repr=False)
    data: DataSummary | Interface = field(repr=False)
    metrics: dict[str, float]
    slower: float


def choose(job: worker.Job, number: int, kept: Sequence[bytes], most: int) -> Chosen:
    """Return which models to average.

    Args:
        number: The best trial, whose loss counts.
        kept: The predictions of each candidate for the validation rows, the best one's first.
        most: How many different ones to average.

    Raises:
        ValueError: The best trial's outputs were not kept, or its loss gives no number for each row.
    """
    every = [Predictions.from_bytes(each) for each in kept]
    best = every[0]
    if not best.outputs:
        raise ValueError("their outputs for the validation rows are too large to keep")
    with worker.finished(job, number) as (definition, data, params):
        compiled = build(definition, params, data.of(params))
    usable = [at for at, each in enumerate(every) if at == 0 or _go_together(best, each)]
    candidates = choice.Candidates(
        [every[at] for at in usable],
        losses_of(compiled, best.targets),
        choice.activations(best),
    )
    greedy = choice.is_greedy(len(best), folds=bool(definition.data.folds))
    counts = choice.choose(candidates, most, np.arange(len(best)), greedy=greedy)
    mean = replace(best, outputs=candidates.averaged(counts), loss=candidates.losses(counts[None])[0])
    scores = {name: score_of(name, mean) for name in needed(definition)}
    found = np.zeros(len(every), int)
    found[usable] = counts
    return Chosen(
        tuple(map(int, found)),
        choice.judge(candidates, most, greedy=greedy),
        {name: score.value for name, score in scores.items() if score is not None and name.startswith("val_")},
        tuple(at for at in range(len(every)) if at not in usable),
    )


def _go_together(one: Predictions, other: Predictions) -> bool:
    """Return whether two models gave outputs of the same meaning for the same rows, prepared alike."""
    same = one.about.digest == other.about.digest and np.array_equal(one.rows, other.rows)
    known = zip(one.targets.values(), other.targets.values(), strict=False)
    same = same and all(np.array_equal(target, others) for target, others in known)
    shapes = [[output.shape for output in several.outputs.values()] for several in (one, other)]
    finite = all(np.isfinite(each).all() for each in other.outputs.values())
    kinds = [[(meaning.kind, meaning.independent) for meaning in several.about.meanings] for several in (one, other)]
    return same and shapes[0] == shapes[1] and kinds[0] == kinds[1] and finite


def make(
    job: worker.Job, number: int, archives: Mapping[str, bytes], counts: Sequence[int], kept: bytes
) -> Averaged | tuple[str, ...]:
    """Build an averaged model and test it, with the data and the code of a finished trial.

    Args:
        number: The best trial.
        archives: The Keras archive of each member by its name inside.
        counts: How often each counts.
        kept: The predictions of the best trial, which say what outputs mean.

    Returns:
        The model; or the names of members that take other inputs, or give other outputs, than the best trial's model.
    """
    with worker.finished(job, number) as (definition, every, params):
        return averaged(definition, every, params, archives, counts, kept)


def averaged(
    definition: Definition,
    every: TrialData,
    params: trial.RetrainedTrial,
    archives: Mapping[str, bytes],
    counts: Sequence[int],
    kept: bytes,
) -> Averaged | tuple[str, ...]:
    """Build and test as `make` does."""
    data = every.of(params)
    compiled = build(definition, params, data)
    ensure_built(compiled, data)
    members = {name: _loaded(content) for name, content in archives.items()}
    if unlike := tuple(name for name, each in members.items() if not model.alike(compiled, each)):
        return unlike
    first = next(iter(members.values()))
    best = Predictions.from_bytes(kept)
    example = registered_example(definition, first, data)
    mean = model.average(members, counts, choice.activations(best), example, compiled)
    rows = None if is_built_in(definition) else settings_of(definition, params)["batch_size"]
    metrics = tested(definition, mean, data, rows)
    timed = [(latency_ms(first, data), latency_ms(mean, data)) for _ in range(_TIMED)]
    alone, together = map(min, zip(*timed, strict=True))
    metrics |= {"parameters": float(parameter_count(mean)), "latency_ms": together}
    given = trial.handed_over(definition, every, data, mean, metrics, rows)
    return Averaged(**given, metrics=metrics, slower=together / alone)


def _loaded(content: bytes) -> keras.Model:
    """Return the model of an archive of this study's own, so that its layers may be the user's code."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        file.write_bytes(content)
        return keras.saving.load_model(file, compile=False, safe_mode=False)
