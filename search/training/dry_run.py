"""What is tried before anything is created: one model, one batch, one save. It trains nothing that is kept."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna

from search.data import streams
from search.data.dataset import Data, Part
from search.data.loading import TrialData
from search.data.sources import parameters_read, reads_trial
from search.data.summary import DataSummary
from search.errors import DataError, ModelError, nearest_first, one_line, raised, without_numbers
from search.studyfile.checks import check_parameters, wrong_directions
from search.studyfile.objects import called
from search.studyfile.schema import TRIAL_METRICS, Definition
from search.training import callbacks, fit, metrics, own_fit
from search.training.description import answers, describe
from search.training.model import (
    Refused,
    exported,
    is_built_in,
    refuse_batches,
    refuse_trained,
    refusing,
    settings_of,
    try_build,
)
from search.training.probes import check_enqueued
from search.training.training import archive

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial


_MOST_TRIES, _FEWEST_TRIES, _TRY_SECONDS = 20, 5, 20.0
_ALIKE = 4  # configurations in a row that fail for the same reason end the tries
_QUICK = 1.0  # seconds; a model that takes longer is built once alone


@dataclass(frozen=True)
class DryRun:
    """The result of building one model.

    Attributes:
        data: What MLflow and the person are told of the data.
        archive: The model to register as the bytes of a `.keras` file; empty where all of it is built in, which
            can be saved and loaded.
        answers: What that model gives for its input example, as `Answers` writes it; None where it cannot be told.
    """

    data: DataSummary
    archive: bytes = b""
    answers: bytes | None = None


def dry_run(definition: Definition, every: Data | TrialData, trials: Iterable[BaseTrial], seconds: float) -> DryRun:
    """Build one model and run one batch through it, before anything is created.

    A builder may refuse some configurations: those trials fail and no more. It is a mistake of the study
    only when it refuses several in a row.

    Args:
        definition: The study file.
        every: The study's data, or those of each trial.
        trials: Trials like the search's first; the first one that works is enough.
        seconds: How long loading the data took.

    Returns:
        What is told of the data, and the untrained model where code of the user's own makes it.

    Raises:
        ModelError: The model cannot be built, take a batch of these data, be exported, or be saved and loaded.
        StudyFileError: The study's metric is not among the metrics that Keras will log, or `[[enqueue]]`
            gives the builder what it does not take.
        DataError: The class weights do not fit the data.
    """
    metrics.functions(definition)
    if definition.fit.function:
        own_fit.load(definition)
    check_enqueued(definition, every)
    tried = _first_that_works(definition, trials, every)
    data, model = tried.data, tried.to_register
    _refuse_without_effect(definition, data)
    endless = _look_for_ends(definition, data)
    _refuse_unknown_metrics(definition, tried.log_names)
    summary = describe(definition, data, model, log_names=tried.log_names, path=tried.path, seconds=seconds)
    doubts = (*summary.doubts, *endless, *wrong_directions(definition))
    scores = ", ".join(f"{name} {value:.4g}" for name, value in tried.trivial.items())
    facts = f"{summary.facts}; the same answer for every row has {scores}" if scores else summary.facts
    summary = replace(summary, doubts=doubts, trivial=tried.trivial, facts=facts)
    if definition.model.build == "mlp" and definition.model.export is None:
        return DryRun(summary)
    kept = None
    with suppress(Exception):  # whatever a model of the user's own raises: a trial does without
        kept = answers(definition, model, data)
    return DryRun(summary, _try_archive(definition, model), kept)


@dataclass(frozen=True)
class _Tried:
    """The first configuration that works: data, model to register, logs, training, and the trivial answer."""

    data: Data
    to_register: keras.Model
    log_names: tuple[str, ...]
    path: str
    trivial: dict[str, float]


def _first_that_works(definition: Definition, trials: Iterable[BaseTrial], every: Data | TrialData) -> _Tried:
    """Try configurations until one can be built, takes a batch, and gives a model to register."""
    errors: list[Refused] = []
    began = time.monotonic()
    for trial in trials:
        try:
            return _try_configuration(definition, trial, every)
        except Refused as error:
            errors.append(error)
        if _alike(errors[-_ALIKE:]):
            row = "" if len(errors) == _ALIKE else f", the last {_ALIKE}"
            why, mark = str(errors[-1]), "" if str(errors[-1]).endswith("?") else ";"
            told = f"{why}{mark} {len(errors)} configurations in a row failed{row} for this reason"
            raise ModelError(told) from errors[-1]
        late = time.monotonic() - began > _TRY_SECONDS
        if len(errors) >= _MOST_TRIES or (late and len(errors) >= _FEWEST_TRIES):
            break
    row = f"; {len(errors)} configurations in a row failed, the first of them like this" if len(errors) > 1 else ""
    raise ModelError(f"{errors[0]}{row}") from errors[0]


def _alike(errors: Sequence[Refused]) -> bool:
    """Return whether enough configurations failed for one reason, numbers aside; pruning is a builder's own choice."""
    pruned = any(isinstance(error.__cause__, optuna.TrialPruned) for error in errors)
    return len(errors) == _ALIKE and not pruned and len({without_numbers(str(error)) for error in errors}) == 1


def _try_configuration(definition: Definition, trial: BaseTrial, every: Data | TrialData) -> _Tried:
    data = _data_of(every, trial)
    class_weight = callbacks.class_weight(definition, data)
    began = time.monotonic()
    model = try_build(definition, trial, data)
    seconds = time.monotonic() - began
    batch_size = settings_of(definition, trial)["batch_size"]
    refuse_batches(definition, model, data, batch_size)
    log_names = _try_batch(definition, model, data, class_weight)
    refuse_trained(definition, model)
    if seconds < _QUICK and definition.model.build != "mlp":
        _refuse_shared_model(definition, trial, data)
    made = _try_callbacks(definition, data, trial, model)
    path = own_fit.OWN_FIT if definition.fit.function else fit.path_of(model, data, made)
    trivial = metrics.trivial_on_validation(definition, model, data, None if is_built_in(definition) else batch_size)
    with refusing("model.export", str(definition.model.export)):
        to_register = exported(definition, model, data)
    return _Tried(data, to_register, log_names, path, trivial)


def _refuse_shared_model(definition: Definition, trial: BaseTrial, data: Data) -> None:
    """Build once more, and refuse a builder that returns the same model: every trial would train it on."""
    with suppress(Refused):
        again = try_build(definition, trial, data)
        fit.ensure_built(again, data)
        refuse_trained(definition, again)


def _try_callbacks(
    definition: Definition, data: Data, trial: BaseTrial, model: keras.Model
) -> list[keras.callbacks.Callback]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            return callbacks.callbacks(definition, data, 1, trial, Path(folder), model)
    except optuna.TrialPruned as error:
        raise Refused(f"fit.callbacks: {raised(called(str(definition.fit.callbacks)), error)}") from error


def _data_of(every: Data | TrialData, trial: BaseTrial) -> Data:
    """Return a trial's data; a function that fails for a configuration may work for others."""
    try:
        return every.of(trial)
    except (DataError, optuna.TrialPruned) as error:
        raise Refused(one_line(error) if isinstance(error, optuna.TrialPruned) else str(error)) from error


def _look_for_ends(definition: Definition, data: Data) -> list[str]:
    """Return a warning for each stream of unknown length that does not end within a few seconds."""
    settings = definition.fit
    parts: dict[str, Part | None] = {} if settings.steps_per_epoch or settings.function else {"train": data.train}
    if not settings.validation_steps:
        parts |= {"validation": data.validation, "test": data.test}
    streamed = {name: part.x for name, part in parts.items() if part is not None and part.streamed}
    return [said for name, stream in streamed.items() if (said := streams.look_for_end(stream, name))]


def _refuse_without_effect(definition: Definition, data: Data) -> None:
    """Refuse settings that would have no effect.

    Raises:
        StudyFileError: Says which key.
    """
    held_out = [part for part in (data.train, data.validation) if part is not None]
    if definition.search.refit and any(part.streamed for part in held_out):
        what = "the training and validation parts are streams, which cannot be joined"
        raise definition.error("search.refit", what, "give arrays, or leave it out")
    given = parameters_read(definition)
    check_parameters(definition, given)
    if data.train.streamed and "batch_size" in definition.space and not reads_trial(definition):
        what = "has no effect: the data are streams, which come in batches already"
        right = "take it in the data function, as in 'def load(batch_size)', or leave it out"
        raise definition.error("space.batch_size", what, right)


def _try_batch(
    definition: Definition, model: keras.Model, data: Data, class_weight: dict[int, float] | None
) -> tuple[str, ...]:
    """Return every name that Keras will log."""
    try:
        names = fit.log_names(model, data, class_weight) if model.compiled else ()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if definition.fit.function:  # only the user's own training knows how to train it
            return ()
        told = one_line(error)
        raise Refused(
            f"model.build: {called(definition.model.build)}: the model cannot take a batch ({told})"
            f"{_shapes(data, model, told)}"
        ) from error
    scheduled = ("learning_rate",) if definition.fit.learning_rate_schedule else ()
    return (*names, *scheduled)


def _shapes(data: Data, model: keras.Model, told: str) -> str:
    """Return the shapes that may not go together, where an error is about the targets'."""
    y = data.train.y
    if y is None and not data.train.streamed:
        return "; the data have no targets"
    if "target" not in told or not isinstance(y, np.ndarray):
        return ""
    gives = getattr(model, "output_shape", None)
    return f"; y has the shape {y.shape}, the model gives {gives}: does the loss suit them?" if gives else ""


def _refuse_unknown_metrics(definition: Definition, log_names: tuple[str, ...]) -> None:
    known = (*log_names, *(f"val_{name}" for name in definition.own_metrics), *TRIAL_METRICS)
    unknown = definition.fit.callbacks or definition.fit.function  # code that may log more
    for name in sorted(metrics.needed(definition)):
        if name not in known and not unknown:
            key = "metric" if name in definition.metrics else "search.constraints"
            right = nearest_first(name, known, f"it logs {', '.join(known)}")
            raise definition.error(key, f"'{name}' is not among the metrics of this model", right)


def _try_archive(definition: Definition, model: keras.Model) -> bytes:
    """Save the user's model and load it again: the registered one must survive that. Returns the archive."""
    import keras

    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.keras"
            file.write_bytes(saved := archive(model))
            keras.saving.load_model(file)
            return saved
    except Exception as error:
        told, mended = reason_and_fix(one_line(_origin(error)))
        where = maker(definition)
        raise ModelError(f"{where}: the model cannot be saved and loaded again ({told}); {mended}") from error


_DECORATE = (
    "decorate own classes and functions with @keras.saving.register_keras_serializable(), and give a class that takes "
    "arguments a get_config that returns them"
)


def maker(definition: Definition) -> str:
    """Return what makes the model to register, as an error names it."""
    export = definition.model.export
    return f"model.export: {called(export)}" if export else f"model.build: {called(definition.model.build)}"


def reason_and_fix(reason: str) -> tuple[str, str]:
    """Return why a model cannot be loaded, and how to fix it."""
    unnamed = "lambda" if "lambda" in reason or "{'value': [" in reason else ""  # Keras's form of a lambda's code
    unnamed = "functools.partial" if "functools.partial" in reason else unnamed
    if unnamed:
        return f"it holds a Python {unnamed}", f"write a named function instead; {_DECORATE}"
    if "was created by passing" in reason:  # Keras's line ends here
        reason = f"{reason} arguments that Keras does not keep: it has no get_config"
    if "__init__() got an unexpected" in reason or "__init__() missing" in reason or "get_config" in reason:
        return reason, "its class needs an __init__ that takes **kwargs and a get_config that returns its arguments"
    if "FileNotFoundError" in reason or "ModuleNotFoundError" in reason:
        return reason, "with a model travel the Python files that its code imports, and nothing else"
    if "its predictions" in reason:
        told, _, mended = reason.partition("; ")
        return told, f"{mended}: keep what a layer needs in its weights or its get_config"
    return reason.partition(". Make sure")[0], _DECORATE


def _origin(error: BaseException) -> BaseException:
    """Return the first error in a chain: the later ones say less."""
    while error.__context__ is not None:
        error = error.__context__
    return error
