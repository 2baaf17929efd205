"""One trial: train, score, report. It knows nothing of MLflow and nothing of where it runs."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
from search.ensemble.outputs import mean_or_best, validated
from search.errors import SearchError, TrialFailed, one_line, printable, told
from search.study import ranking
from search.studyfile.schema import Definition
from search.system import machine
from search.training.checkpoint import CheckpointDamaged
from search.training.description import answers, describe, interface, looks
from search.training.epochs import Epochs, OnEpoch
from search.training.fit import as_tensors, held_out_rows
from search.training.metrics import (
    fail_unless_finite,
    fail_unless_logged,
    mean,
    spread,
    tested,
    values_of,
    violations_of,
    with_trivial,
)
from search.training.model import exported, takes_rows
from search.training.result import Epoch, TrialResult
from search.training.training import Trained, Training, archive, latency_ms, parameter_count, summary

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


AnyTrial = optuna.Trial | RetrainedTrial


class TrialStopped(Exception):
    """The search asked the trial to stop before its end."""


class _Trainings:
    """The trainings of one trial: one, or one for each fold or repeat. What they logged stays when the trial fails.

    Args:
        definition: The study file.
        trial: The Optuna trial.
        seed: The study's seed.
        on_epochs: Called after each epoch with all epochs so far.
        checkpoints: The trial's folder of checkpoints; None to keep none.
    """

    def __init__(
        self, definition: Definition, trial: AnyTrial, seed: int, on_epochs: OnEpochs, checkpoints: Path | None
    ) -> None:
        self._definition, self._trial, self._seed = definition, trial, seed
        self._on_epochs, self._checkpoints = on_epochs, checkpoints
        self.folder = Path()  # the trial's own, for what its callbacks write
        self.epochs: list[Epoch] = []
        self.metrics: dict[str, float] = {}
        self.settings: dict[str, Any] = {}
        self.summary = self.path = ""

    def run(self, data: Data) -> list[Trained]:
        """Train once, or once for each fold or repeat; the pruner may end the trial between two of them."""
        parts, trained = list(self._parts(data)), list[Trained]()
        for index, (name, part, seed) in enumerate(parts):
            single = len(parts) == 1
            trained.append(self._train(name, part, seed, self._watch(name, prune=single)))
            values_of(self._definition, trained[-1].metrics)
            measured = {parts[at][0]: training.metrics for at, training in enumerate(trained)}
            if single:
                known = self.epochs[-1].logs if trained[0].last else {}
                self.metrics |= {metric: value for metric, value in measured[name].items() if metric not in known}
            else:
                self.metrics |= mean(list(measured.values())) | spread(self._definition, measured)
                self._report(trained, index, last=index + 1 == len(parts))
        return trained

    def refit(self, data: Data, trained: list[Trained]) -> Trained:
        """Train on all rows but the test part, for as many epochs as the trial's models were best after."""
        epochs = max(1, round(float(np.mean([training.best_epochs for training in trained]))))
        self.metrics["refit_epochs"] = float(epochs)
        seed = seed_of(self._seed, self._trial.number)

        def on_epoch(step: int, ended: float, logs: dict[str, float], _: bool) -> None:
            self._note(step, ended, logs, "refit")

        return self._train("refit", data.refit(), seed, on_epoch, epochs)

    def _parts(self, data: Data) -> Iterator[tuple[str, Data, int]]:
        """Yield name, data and seed of each training: each fold, or the same data under each repeat's seed."""
        repeats, number = self._definition.search.repeats, self._trial.number
        for fold in range(len(data.folds)):
            yield f"fold_{fold}", data.fold(fold), seed_of(self._seed, number)
        for repeat in range(0 if data.folds else repeats):
            yield f"repeat_{repeat}" if repeats > 1 else "", data, seed_of(self._seed, number, repeat)

    def _train(self, name: str, data: Data, seed: int, on_epoch: OnEpoch, epochs: int | None = None) -> Trained:
        checkpoints = None if self._checkpoints is None else self._checkpoints / (name or "only")
        training = Training(self._definition, data, self._trial, seed, self.folder / name, epochs, checkpoints)
        if not self.summary:
            self.metrics["parameters"] = float(parameter_count(training.model))
            self.summary, self.settings = summary(training.model), training.settings
        return training.fit(on_epoch, self._note_path, partial(self._note_restored, part=name))

    def _note_path(self, path: str) -> None:
        """Note how the model is trained; of several trainings the first counts."""
        self.path = self.path or path

    def _note_restored(self, epochs: Epochs, part: str) -> None:
        """Note the epochs that were trained before a kill."""
        self.epochs += [_epoch(step, epochs.ended[step], logs, part) for step, logs in epochs.logs.items()]

    def _note(self, step: int, ended: float, logs: dict[str, float], part: str) -> None:
        """Note an epoch, and pass all epochs on."""
        self.epochs.append(_epoch(step, ended, logs, part))  # the same moment as in a checkpoint: MLflow shows it once
        self._on_epochs(self.epochs)

    def _watch(self, part: str, *, prune: bool) -> OnEpoch:
        """Return what follows each epoch of a training; nothing is pruned after the last one."""
        definition, metric = self._definition, self._definition.metrics[0]
        asks = prune and len(definition.metrics) == 1
        reported, known = self._reported(), dict[int, float]()

        def on_epoch(epoch: int, ended: float, logs: dict[str, float], last: bool) -> None:
            self._note(epoch, ended, logs, part)
            if epoch + 1 == definition.fit.validation_freq:
                fail_unless_logged(definition, logs)
            fail_unless_finite(definition, logs, f"after epoch {epoch + 1}" + (f" of {part}" if part else ""))
            if asks and metric in logs:
                if epoch not in reported:
                    self._trial.report(logs[metric], epoch)
                known[epoch] = logs[metric]
                if not last and self._trial.should_prune():
                    raise ranking.pruned(metric, self._trial, f"epoch {epoch + 1}", known)

        return on_epoch

    def _reported(self) -> set[int]:
        """Return the steps that were reported already: a trial that goes on from a checkpoint comes to them again."""
        if self._checkpoints is None:
            return set()
        kept = (trial for trial in self._trial.study.get_trials(deepcopy=False) if trial.number == self._trial.number)
        return {step for trial in kept for step in trial.intermediate_values}

    def _report(self, trained: list[Trained], index: int, *, last: bool) -> None:
        """Report the mean of the trainings so far, and ask the pruner unless this was the last one.

        The Wilcoxon pruner compares training by training, so it gets the value of this one.
        """
        if len(self._definition.metrics) > 1:
            return
        scores = [training.metrics[self._definition.metrics[0]] for training in trained]
        paired = isinstance(self._trial.study.pruner, optuna.pruners.WilcoxonPruner)
        value = scores[-1] if paired else float(np.mean(scores))
        if index not in self._reported():
            self._trial.report(value, index)
        if not last and self._trial.should_prune():
            raise ranking.pruned(self._definition.metrics[0], self._trial, f"training {index + 1}", {index: value})


def _epoch(step: int, ended: float, logs: dict[str, float], part: str) -> Epoch:
    """Return an epoch; of several trainings with the training's name before each log."""
    return Epoch(step, ended, {f"{part}/{name}": value for name, value in logs.items()} if part else logs)


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
    """Return which classes of the validation part make a metric NaN; empty for other failures."""
    known = data.same if isinstance(data, TrialData) else data
    part = known.validation if known is not None and " is nan " in reason else None
    one = "" if known is None or part is None else one_valued(known.task, part.y, known.classes)
    return f": {one} in the validation part" if one else ""


def run(
    definition: Definition,
    data: Data | TrialData,
    trial: AnyTrial,
    *,
    seed: int,
    is_kept: IsKept,
    on_epochs: OnEpochs,
    checkpoints: Path | None = None,
) -> TrialResult:
    """Train a trial and return its result; an error of the trial is part of the result.

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
    trainings = _Trainings(definition, trial, seed, on_epochs, checkpoints)
    ended: dict[str, Any]
    try:
        with tempfile.TemporaryDirectory(prefix="search-trial-") as folder:
            trainings.folder = Path(folder)
            of_trial = data.of(trial)
            finished = _train(definition, of_trial, trainings, is_kept)
        ended = {"fate": "complete", "values": finished.values, "violations": finished.violations}
        ended |= {"validated": finished.validated}
        if finished.kept:
            ended |= handed_over(definition, data, of_trial, finished.model, trainings.metrics, finished.rows)
            if not of_trial.folds and not definition.search.refit:  # else the model has learned the validation rows
                with told("the model's outputs for validation rows are not drawn"):
                    ended["looks"] = looks(finished.model, of_trial)
    except optuna.TrialPruned as error:
        ended = {"fate": "pruned", "reason": str(error)}
    except (TrialStopped, CheckpointDamaged) as error:
        ended = {"fate": "died", "reason": str(error)}
    except TrialFailed as error:
        trace = error.traceback or (traceback.format_exc() if error.__cause__ is not None else "")
        ended = {"fate": "failed", "reason": error.reason + _why_nan(error.reason, data), "traceback": trace}
    except BaseException as error:  # the user's own code may call sys.exit, or raise KeyboardInterrupt
        trace = printable(traceback.format_exc(), _LONGEST_TRACEBACK)
        reason = str(error) if isinstance(error, SearchError) else one_line(error)
        ended = {"fate": "died" if _disk_is_full(error) else "failed", "reason": reason, "traceback": trace}
    return TrialResult(
        number=trial.number,
        seed=seed_of(seed, trial.number),
        epochs=tuple(trainings.epochs),
        metrics=trainings.metrics,
        training=trainings.settings,
        summary=trainings.summary,
        path=trainings.path,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        memory=machine.resident_memory(),
        **ended,
    )


def _disk_is_full(error: BaseException) -> bool:
    """Return whether a trial ended because the disk is full, which says nothing about its configuration."""
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
    of_trial = isinstance(every, TrialData) and every.same is None
    found: dict[str, Any] = {
        "model": archive(kept),
        "data": describe(definition, own, kept) if of_trial else interface(definition, own, kept),
        "answers": None,
        "predictions": None,
    }
    with told("the outputs for the input example are not kept"):
        found["answers"] = answers(definition, kept, own)
    if own.test is not None:
        known = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
        with told("the predictions for the test rows are not kept"):
            batches = _batches(model, own.test, definition.fit.validation_steps)
            predicted = predict(definition, own, model, batches, known)
            found["predictions"] = with_trivial(definition, model, own, predicted, rows).to_bytes()
    return found


def _train(definition: Definition, data: Data, trainings: _Trainings, is_kept: IsKept) -> _Finished:
    """Train once, or once for each fold and repeat, and test the model to hand over.

    That model is trained on the validation rows too where there are folds, or where `refit` asks for it and the trial
    is among the best.
    """
    trained = trainings.run(data)
    metrics = mean([training.metrics for training in trained])
    models, model = [training.model for training in trained], _best(definition, trained).model
    outputs = None
    if takes_rows(definition, model, data):
        batches = partial(_batches, steps=definition.fit.validation_steps)
        model = mean_or_best(definition, data, models, model, batches)
        outputs = validated(definition, data, models if data.folds else [model], batches)
    if all(model is not training for training in models):  # what it costs is that of the whole
        whole = {"parameters": float(parameter_count(model))}
        whole |= {"latency_ms": latency_ms(model, data)} if "latency_ms" in metrics else {}
        metrics, trainings.metrics = metrics | whole, trainings.metrics | whole
    values = values_of(definition, metrics)
    violations = violations_of(definition, metrics)
    kept = all(violation <= 0 for violation in violations) and is_kept(values)
    if data.folds or (kept and definition.search.refit):
        trainings.metrics = {**metrics, **trainings.metrics}  # the refit's epochs come last and have no `val_` metrics
        model = trainings.refit(data, trained).model
    trainings.metrics |= tested(definition, model, data, trained[0].test_rows)
    return _Finished(values, violations, model, kept, trained[0].test_rows, outputs)


def _best(definition: Definition, trained: list[Trained]) -> Trained:
    """Return the training that did best in the study's first metric; the first of equals."""
    metric = definition.metrics[0]
    best = trained[0]
    for training in trained[1:]:
        if definition.better(training.metrics[metric], best.metrics[metric]):
            best = training
    return best


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
