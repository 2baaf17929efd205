"""One trial: train, score, report. It knows nothing of MLflow and nothing of where it runs."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from search.comparison.outputs import Batch, predict
from search.data import streams
from search.data.dataset import Data, Part
from search.data.facts import one_valued
from search.data.loading import TrialData
from search.data.summary import DataSummary, Interface
from search.ensemble.outputs import mean_or_best, validated
from search.errors import SearchError, TrialFailed, one_line, printable
from search.study import ranking
from search.studyfile.schema import Definition
from search.system import machine
from search.training.checkpoint import CheckpointDamaged
from search.training.description import answers, describe, interface, looks
from search.training.epochs import Epochs, OnEpoch
from search.training.fit import as_tensors, held_out_rows
from search.training.metrics import (
    check_finite,
    check_known,
    mean,
    spread,
    tested,
    values_of,
    violations_of,
    with_trivial,
)
from search.training.model import exported, takes_rows
from search.training.result import Epoch, TrialResult
from search.training.training import Trained, Training, archive, parameter_count, summary

if TYPE_CHECKING:
    import keras

OnEpochs = Callable[[list[Epoch]], None]
IsKept = Callable[[tuple[float, ...]], bool]


_LONGEST_TRACEBACK = 100_000  # characters


class RetrainedTrial(optuna.trial.FixedTrial):
    """A finished trial that is trained once more: it gives its parameters, and nobody prunes it.

    Args:
        params: Its parameters, those of `[space]` and those that its builder suggested.
        number: Its number.
    """

    study = SimpleNamespace(pruner=optuna.pruners.NopPruner())

    def __init__(self, params: dict[str, Any], number: int) -> None:
        super().__init__(params, number)
        self._all = dict(params)

    @property
    def params(self) -> dict[str, Any]:
        """All parameters, asked for or not."""
        return dict(self._all)


class TrialStopped(Exception):
    """The search asked the trial to stop before its end."""


@dataclass(frozen=True)
class _Split:
    """One of a trial's trainings, when folds or repeats make it several.

    Attributes:
        name: For example `fold_0` or `repeat_2`; empty for the only one.
    """

    name: str
    data: Data
    seed: int


@dataclass
class _TrialLog:
    """What is known of a trial while it runs; kept when it is pruned or fails."""

    on_epochs: OnEpochs
    epochs: list[Epoch] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    path: str = ""
    folder: Path = Path()  # the trial's own, for what its callbacks write
    checkpoints: Path | None = None

    def begins(self, training: Training) -> None:
        """Note what is trained, before it is."""
        if not self.summary:
            self.metrics["parameters"] = float(parameter_count(training.model))
            self.summary, self.settings = summary(training.model), training.settings

    def saved(self, part: str) -> Path | None:
        """Return where the checkpoints of one of the trial's trainings are."""
        return None if self.checkpoints is None else self.checkpoints / (part or "only")

    def takes(self, path: str) -> None:
        """Note how the model is trained; of several, the first counts."""
        self.path = self.path or path

    def goes_on(self, epochs: Epochs, part: str) -> None:
        """Note the epochs that were trained before a kill."""
        for step, logs in epochs.logs.items():
            named = {f"{part}/{name}": value for name, value in logs.items()} if part else logs
            self.epochs.append(Epoch(step, epochs.ended[step], named))

    def ended(self, epoch: int, logs: dict[str, float], part: str) -> None:
        """Note an epoch, and pass all epochs on."""
        named = {f"{part}/{name}": value for name, value in logs.items()} if part else logs
        self.epochs.append(Epoch(epoch, time.time(), named))
        self.on_epochs(self.epochs)


@dataclass(frozen=True)
class _Finished:
    """A trial that trained to its end."""

    values: tuple[float, ...]
    violations: tuple[float, ...]
    model: keras.Model
    kept: bool
    rows: int | None
    validated: bytes | None


def seed_of(study_seed: int, number: int, repeat: int = 0) -> int:
    """Return the seed of a trial, the same wherever and whenever it runs."""
    return int(np.random.SeedSequence([study_seed, number, repeat]).generate_state(1)[0] % 2**31)


def _why_nan(reason: str, data: Data | TrialData) -> str:
    """Return what in the validation part makes a metric NaN; nothing of other failures."""
    known = data.same if isinstance(data, TrialData) else data
    part = known.validation if known is not None and " is nan " in reason else None
    one = "" if known is None or part is None else one_valued(known.task, part.y, known.classes)
    return f": {one} in the validation part" if one else ""


def run(
    definition: Definition,
    data: Data | TrialData,
    trial: optuna.Trial | RetrainedTrial,
    *,
    seed: int,
    is_kept: IsKept,
    on_epochs: OnEpochs,
    checkpoints: Path | None = None,
) -> TrialResult:
    """Train a trial to its end and return what became of it; it never raises for the trial's own error.

    Args:
        definition: The study file.
        data: The study's data, or those of each trial.
        trial: The Optuna trial, its `[space]` already sampled.
        seed: The study's seed; the trial's own is derived from it and the trial's number.
        is_kept: Whether these values are among the best so far, so that the model is kept.
        on_epochs: Called after each epoch with all epochs so far.
        checkpoints: The trial's folder of checkpoints; a trial that was
            killed goes on from what is there. None to keep none.
    """
    log = _TrialLog(on_epochs, checkpoints=checkpoints)
    fate: dict[str, Any]
    try:
        with tempfile.TemporaryDirectory(prefix="search-trial-") as folder:
            log.folder = Path(folder)
            own = data.of(trial)
            finished = _train(definition, own, trial, seed, is_kept, log)
        fate = {"fate": "complete", "values": finished.values, "violations": finished.violations}
        fate |= {"validated": finished.validated}
        if finished.kept:
            fate |= handed_over(definition, data, own, finished.model, log.metrics, finished.rows)
            fate |= {"looks": _looks(definition, finished.model, own)}
    except optuna.TrialPruned as error:
        fate = {"fate": "pruned", "reason": str(error)}
    except (TrialStopped, CheckpointDamaged) as error:
        fate = {"fate": "died", "reason": str(error)}
    except TrialFailed as error:
        trace = error.traceback or (traceback.format_exc() if error.__cause__ is not None else "")
        fate = {"fate": "failed", "reason": error.reason + _why_nan(error.reason, data), "traceback": trace}
    except BaseException as error:  # the user's own code may call sys.exit, or raise KeyboardInterrupt
        trace = printable(traceback.format_exc(), _LONGEST_TRACEBACK)
        reason = str(error) if isinstance(error, SearchError) else one_line(error)
        fate = {"fate": "died" if _disk_is_full(error) else "failed", "reason": reason, "traceback": trace}
    return TrialResult(
        number=trial.number,
        seed=seed_of(seed, trial.number),
        epochs=tuple(log.epochs),
        metrics=log.metrics,
        training=log.settings,
        summary=log.summary,
        path=log.path,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        memory=machine.resident_memory(),
        **fate,
    )


def _disk_is_full(error: BaseException) -> bool:
    """Return whether a trial ended for want of room, which says nothing of its configuration."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError) and (error.errno in full or os.strerror(errno.ENOSPC) in str(error))


def handed_over(
    definition: Definition,
    every: Data | TrialData,
    own: Data,
    model: keras.Model,
    metrics: Mapping[str, float],
    rows: int | None,
) -> dict[str, Any]:
    """Return the archive of a model to register and what goes with it, as `TrialResult` has them.

    Args:
        every: The study's data, or those of each trial.
        own: The data that the model was trained on.
        metrics: The model's metrics, `test_*` among them.
        rows: How many test rows were measured at once, as `evaluate` takes it.
    """
    kept = exported(definition, model, own)
    return {
        "model": archive(kept),
        "data": _described(definition, every, own, kept),
        "answers": _answers(definition, kept, own),
        "predictions": _predicted(definition, model, own, metrics, rows),
    }


def _described(
    definition: Definition, every: Data | TrialData, own: Data, model: keras.Model
) -> DataSummary | Interface:
    """Return what a model takes and gives, with its data where they are the trial's own: else the search has them."""
    if isinstance(every, Data) or every.same is not None:
        return interface(definition, own, model)
    return describe(definition, own, model)


def _train(
    definition: Definition, data: Data, trial: optuna.Trial | RetrainedTrial, seed: int, is_kept: IsKept, log: _TrialLog
) -> _Finished:
    """Train once, or once for each fold and repeat, and test the model to hand over.

    That one is trained on the validation rows too where there are folds, or where `refit` asks for it and the
    trial is among the best.
    """
    parts = list(_parts(definition, data, seed, trial.number))
    trained = _train_parts(definition, parts, trial, log)
    metrics = mean([each.metrics for each in trained])
    values = values_of(definition, metrics)
    violations = violations_of(definition, metrics)
    kept = all(each <= 0 for each in violations) and is_kept(values)
    models, model = [each.model for each in trained], _best(definition, trained).model
    outputs = None
    if takes_rows(definition, model, data):
        batches = partial(_batches, steps=definition.fit.validation_steps)
        model = mean_or_best(definition, data, models, model, batches)
        outputs = validated(definition, data, models if data.folds else [model], batches)
    if data.folds or (kept and definition.search.refit):
        log.metrics = {**metrics, **log.metrics}  # the refit's epochs now come last, and they have no `val_` metrics
        model = _refit(definition, data, trial, trained, seed_of(seed, trial.number), log).model
    log.metrics |= tested(definition, model, data, trained[0].test_rows)
    return _Finished(values, violations, model, kept, trained[0].test_rows, outputs)


def _answers(definition: Definition, model: keras.Model, data: Data) -> bytes | None:
    """Return what the model to register gives for its example; None where that cannot be told."""
    try:
        return answers(definition, model, data)
    except Exception as error:  # whatever a model of the user's own raises
        sys.stderr.write(f"the outputs for the input example are not kept: {one_line(error)}\n")
        return None


def _predicted(
    definition: Definition, model: keras.Model, data: Data, metrics: Mapping[str, float], rows: int | None
) -> bytes | None:
    """Return a model's predictions for the test rows; None where they cannot be made: the trial is done without."""
    known = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    if data.test is None:
        return None
    try:
        batches = _batches(model, data.test, definition.fit.validation_steps)
        found = predict(definition, data, model, batches, known)
        return with_trivial(definition, model, data, found, rows).to_bytes()
    except Exception as error:  # whatever a model or a loss of the user's own raises
        sys.stderr.write(f"the predictions for the test rows are not kept: {one_line(error)}\n")
        return None


def _looks(definition: Definition, model: keras.Model, data: Data) -> dict[str, Any]:
    """Return what is drawn of a kept model; nothing where it cannot be told, or has learned the validation rows."""
    if data.folds or definition.search.refit:
        return {}
    try:
        return looks(model, data)
    except Exception as error:  # whatever a model of the user's own raises
        sys.stderr.write(f"the model's outputs for validation rows are not drawn: {one_line(error)}\n")
        return {}


def _batches(model: keras.Model, part: Part, steps: int | None) -> Iterator[Batch]:
    """Yield the rows of a part in order, in batches of bounded memory."""
    if part.streamed:
        for x, y in itertools.islice(streams.batches(part.x), steps):
            yield as_tensors(x), y, None
        return
    size = held_out_rows(model, part)
    for start in range(0, len(part), size):
        some = part.take(slice(start, start + size))
        yield as_tensors(some.x), some.y, some.sample_weight


def _parts(definition: Definition, data: Data, seed: int, number: int) -> Iterator[_Split]:
    """Yield what a trial trains: each fold, or the same data under each repeat's seed."""
    repeats = definition.search.repeats
    for fold in range(len(data.folds)):
        yield _Split(f"fold_{fold}", data.fold(fold), seed_of(seed, number))
    if not data.folds:
        for repeat in range(repeats):
            yield _Split(f"repeat_{repeat}" if repeats > 1 else "", data, seed_of(seed, number, repeat))


def _train_parts(
    definition: Definition, parts: list[_Split], trial: optuna.Trial | RetrainedTrial, log: _TrialLog
) -> list[Trained]:
    """Train each part, and give the trial up between two when the pruner finds it hopeless."""
    trained: list[Trained] = []
    for index, part in enumerate(parts):
        training = Training(
            definition, part.data, trial, part.seed, log.folder / part.name, checkpoints=log.saved(part.name)
        )
        log.begins(training)
        single = len(parts) == 1
        on_epoch = _on_epoch(definition, trial, log, part.name, prune=single)
        trained.append(training.fit(on_epoch, log.takes, partial(log.goes_on, part=part.name)))
        values_of(definition, trained[-1].metrics)
        so_far = [each.metrics for each in trained]
        if single:
            known = log.epochs[-1].logs if trained[0].last else {}
            log.metrics |= {name: value for name, value in so_far[0].items() if name not in known}
        else:
            names = [each.name for each in parts[: len(trained)]]
            log.metrics |= mean(so_far) | spread(definition, dict(zip(names, so_far, strict=True)))
            _report_training(definition, trial, log, trained, index, last=index + 1 == len(parts))
    return trained


def _on_epoch(
    definition: Definition, trial: optuna.Trial | RetrainedTrial, log: _TrialLog, part: str, *, prune: bool
) -> OnEpoch:
    """Return what happens after each epoch of a training; after its last one nothing is left to prune."""
    metric = definition.metrics[0]
    asks = prune and len(definition.metrics) == 1
    reported, known = _reported(trial, log), dict[int, float]()

    def on_epoch(epoch: int, logs: dict[str, float], last: bool) -> None:
        log.ended(epoch, logs, part)
        if epoch + 1 == definition.fit.validation_freq:
            check_known(definition, logs)
        check_finite(definition, logs, f"after epoch {epoch + 1}" + (f" of {part}" if part else ""))
        if asks and metric in logs:
            if epoch not in reported:
                trial.report(logs[metric], epoch)
            known[epoch] = logs[metric]
            if not last and trial.should_prune():
                raise ranking.pruned(metric, trial, f"epoch {epoch + 1}", known)

    return on_epoch


def _reported(trial: optuna.Trial | RetrainedTrial, log: _TrialLog) -> set[int]:
    """Return the steps that the study has of a trial already, which a killed trial reports again."""
    if log.checkpoints is None:
        return set()
    kept = (each for each in trial.study.get_trials(deepcopy=False) if each.number == trial.number)
    return {step for each in kept for step in each.intermediate_values}


def _report_training(
    definition: Definition,
    trial: optuna.Trial | RetrainedTrial,
    log: _TrialLog,
    trained: list[Trained],
    index: int,
    *,
    last: bool,
) -> None:
    """Tell the pruner the mean of the trainings so far, and ask it unless this was the last.

    The Wilcoxon pruner compares training by training, so it is told each one's own value.
    """
    if len(definition.metrics) > 1:
        return
    scores = [each.metrics[definition.metrics[0]] for each in trained]
    paired = isinstance(trial.study.pruner, optuna.pruners.WilcoxonPruner)
    value = scores[-1] if paired else float(np.mean(scores))
    if index not in _reported(trial, log):
        trial.report(value, index)
    if not last and trial.should_prune():
        raise ranking.pruned(definition.metrics[0], trial, f"training {index + 1}", {index: value})


def _best(definition: Definition, trained: list[Trained]) -> Trained:
    """Return the training that did best in the study's first metric; the first of equals."""
    metric = definition.metrics[0]
    best = trained[0]
    for each in trained[1:]:
        if definition.better(each.metrics[metric], best.metrics[metric]):
            best = each
    return best


def _refit(
    definition: Definition,
    data: Data,
    trial: optuna.Trial | RetrainedTrial,
    trained: list[Trained],
    seed: int,
    log: _TrialLog,
) -> Trained:
    """Train on all rows but the test part, for as many epochs as the trial's models were best after."""
    epochs = max(1, round(float(np.mean([each.best_epochs for each in trained]))))
    training = Training(definition, data.refit(), trial, seed, log.folder / "refit", epochs, log.saved("refit"))
    log.metrics["refit_epochs"] = float(epochs)
    return training.fit(lambda epoch, logs, _: log.ended(epoch, logs, "refit"))
