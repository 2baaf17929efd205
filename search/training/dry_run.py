"""What is tried before anything is created: one model, one batch, one save. It trains nothing that is kept."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from search.data.dataset import Data
from search.data.loading import TrialData
from search.data.sources import parameters_read, reads_trial
from search.data.summary import DataSummary
from search.errors import DataError, ModelError, StudyFileError, did_you_mean, one_line
from search.studyfile.checks import check_parameters
from search.studyfile.schema import TRIAL_METRICS, Definition
from search.training import callbacks, fit, metrics, own_fit
from search.training.description import describe
from search.training.model import Refused, exported, try_build
from search.training.probes import check_enqueued

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial


_MOST_TRIES, _FEWEST_TRIES, _TRY_SECONDS = 20, 5, 20.0


def dry_run(
    definition: Definition, every: Data | TrialData, trials: Iterable[BaseTrial], seconds: float
) -> DataSummary:
    """Build one model and run one batch through it, before anything is created.

    A builder may refuse some configurations: those trials fail and no more. It is a mistake of the study
    only when it refuses several in a row.

    Args:
        definition: The study file.
        every: The study's data, or those of each trial.
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
    metrics.functions(definition)
    if definition.fit.function:
        own_fit.load(definition)
    model, log_names, trial, data = _first_that_works(definition, trials, every)
    _check_effects(definition, data)
    with tempfile.TemporaryDirectory() as folder:
        made = callbacks.callbacks(definition, data, 1, trial, Path(folder))
    check_enqueued(definition, every)
    _check_metrics(definition, log_names)
    path = own_fit.OWN_FIT if definition.fit.function else fit.path_of(model, data, made)
    model = exported(definition, model, data)
    summary = describe(definition, data, model, log_names=log_names, path=path, seconds=seconds)
    if definition.model.build != "mlp":
        _try_archive(definition, model)
    return summary


def _first_that_works(
    definition: Definition, trials: Iterable[BaseTrial], every: Data | TrialData
) -> tuple[keras.Model, tuple[str, ...], BaseTrial, Data]:
    """Return the first model that can be built and take a batch, what it logs, its trial and its data."""
    first, tries, began = None, 0, time.monotonic()
    for tries, trial in enumerate(trials, 1):
        try:
            data = _data_of(every, trial)
            callbacks.class_weight(definition, data)
            model = try_build(definition, trial, data)
            return model, _try_batch(definition, model, data), trial, data
        except Refused as error:
            first = first or error
        late = time.monotonic() - began > _TRY_SECONDS
        if tries >= _MOST_TRIES or (late and tries >= _FEWEST_TRIES):
            break
    row = f"; {tries} configurations in a row failed, the first of them like this" if tries > 1 else ""
    raise ModelError(f"{first}{row}") from first


def _data_of(every: Data | TrialData, trial: BaseTrial) -> Data:
    """Return a trial's data; a function that fails for a configuration may work for others."""
    try:
        return every.of(trial)
    except (DataError, optuna.TrialPruned) as error:
        raise Refused(one_line(error) if isinstance(error, optuna.TrialPruned) else str(error)) from error


def _check_effects(definition: Definition, data: Data) -> None:
    """Refuse what would be recorded and have no effect.

    Raises:
        StudyFileError: Says which key.
    """
    given = parameters_read(definition)
    check_parameters(definition, given)
    if data.train.streamed and "batch_size" in definition.space and not reads_trial(definition):
        raise StudyFileError(
            str(definition.path),
            "space.batch_size",
            "has no effect: the data are streams, which come in batches already",
            "take it in the data function, as in 'def load(batch_size)', or leave it out",
        )


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
