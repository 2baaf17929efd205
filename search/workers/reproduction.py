"""A trial trained once more from what MLflow keeps of it, and compared epoch by epoch with what was recorded."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
from pebble import ProcessExpired

from search.data.loading import TrialData
from search.ensemble.members import Ensemble
from search.errors import ModelError, UsageError
from search.study import space
from search.studyfile import objects
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.system import machine
from search.tracking import origin
from search.tracking.origin import Recorded
from search.tracking.pages import averaged
from search.training import trial
from search.training.result import Epoch, TrialResult
from search.workers import averaging
from search.workers.averaging import Averaged
from search.workers.devices import spread
from search.workers.process import Allotment, LocalSlot, reason_of, start_forkserver

TOLERANCE = 0.01  # relative, on other versions or another processor
_TIMES = ("train_seconds", "latency_ms")  # measured, so never the same
_VALUE = "objective"
T = TypeVar("T")


@dataclass(frozen=True)
class Reproduction:
    """What came of training a trial again.

    Attributes:
        run_id: The trial's run.
        what: What was trained: `trial 3`, or `the mean of trial_5, trial_1`.
        same: Whether every metric of every epoch agrees: to the last bit on the same versions and processor,
            within `TOLERANCE` otherwise.
        exact: Whether they agree to the last bit.
        metrics: Each metric's last value as recorded and as reproduced.
        differs: What differs: metrics with the first epoch at which they do, data, versions, code, processor.
        epochs: How many epochs were compared.
    """

    run_id: str
    what: str
    same: bool
    exact: bool
    metrics: dict[str, tuple[float, float | None]]
    differs: tuple[str, ...]
    epochs: int

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {name: getattr(self, name) for name in ("run_id", "same", "metrics", "differs")}


def reproduce(run_id: str) -> Reproduction:
    """Train a trial again in an empty folder, from its run and its search's run alone; of an average each member.

    Raises:
        UsageError: There is no such trial, or what it needs was not kept.
    """
    if (ensemble := averaged.ensemble_of(run_id)) is not None:
        return _average(run_id, ensemble)
    recorded = origin.recorded(run_id)
    with _rebuilt(recorded) as (definition, folder, changed):
        digest, result = _elsewhere(recorded, _train, definition, recorded, folder)
    return _compared(recorded, result, changed + _other_data(recorded, digest))


@contextmanager
def _rebuilt(recorded: Recorded) -> Iterator[tuple[Definition, str, list[str]]]:
    """Bring back what a trial was made of; give the study file, the folder, and how this machine and code differ."""
    with tempfile.TemporaryDirectory(prefix="search-reproduce-") as name:
        source = origin.fetch(recorded.search_run, Path(name))
        if source.missing:
            raise UsageError(f"the search did not keep {', '.join(source.missing)}: too large; it cannot be rebuilt")
        definition = load_definition(source.study_file)
        if any(each.startswith(f"{objects.PREFIX}:") for each in definition.references.values()):
            raise UsageError("the study's functions or data were given in Python, not in files, and were not kept")
        yield definition.averaging(recorded.ensemble), name, origin.changed(source)


def _other_data(recorded: Recorded, digest: str) -> list[str]:
    """Return in words that the data changed; of data that depend on the trial the digest tells those of another one."""
    changed = bool(recorded.digest) and digest not in ("", recorded.digest)
    return [f"data digest {recorded.digest}, now {digest}"] if changed else []


def _average(run_id: str, ensemble: Ensemble) -> Reproduction:
    """Train the members of an averaged model again, average them, and compare what was measured on the test part."""
    archives, kept, found = dict[str, bytes](), b"", list[Reproduction]()
    for member in ensemble.members:
        recorded = origin.recorded(member.run_id)
        with _rebuilt(recorded) as (definition, folder, changed):
            digest, result = _elsewhere(recorded, _train, definition, recorded, folder, member.seed, keep=True)
            differs = changed + _other_data(recorded, digest)
            found.append(_compared(recorded, result, differs, whole=member.seed is None))
            if result.model is None or result.validated is None:
                raise UsageError(f"trial {member.number} fails now: {result.reason}")
            archives[member.name], kept = result.model, kept or result.validated
            if len(archives) == len(ensemble.members):
                again = _elsewhere(recorded, _mean, definition, recorded, folder, ensemble, archives, kept)
    metrics = again.metrics if isinstance(again, Averaged) else {}
    pairs = {name: (value, metrics.get(name)) for name, value in ensemble.test.items()}
    exact = all(_equal(*pair) for pair in pairs.values()) and all(each.exact for each in found)
    return Reproduction(
        run_id=run_id,
        what=f"the mean of {', '.join(member.name for member in ensemble.members)}",
        same=all(_close(*pair) for pair in pairs.values()) and all(each.same for each in found),
        exact=exact,
        metrics=pairs,
        differs=tuple(dict.fromkeys(text for each in found for text in each.differs)),
        epochs=sum(each.epochs for each in found),
    )


def _elsewhere(recorded: Recorded, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call a function in a process like those of a trial's search.

    Raises:
        ModelError: The process ended.
    """
    start_forkserver()
    slot = LocalSlot(Allotment(max(1, machine.processors() // max(1, recorded.workers))))
    try:
        result: T = slot.submit(partial(function, **named), *arguments).result()
    except ProcessExpired as error:
        raise ModelError(f"training the trial again ended its process: {reason_of(error)}") from error
    finally:
        slot.stop()
    return result


def _mean(
    definition: Definition,
    recorded: Recorded,
    folder: str,
    ensemble: Ensemble,
    archives: Mapping[str, bytes],
    kept: bytes,
) -> Averaged | tuple[str, ...]:
    os.chdir(definition.path.parent)
    counts = [each.count for each in ensemble.members]
    trained = _trial(definition, recorded)
    with origin.unrecorded(Path(folder)), spread(definition):
        return averaging.averaged(definition, TrialData(definition), trained, archives, counts, kept)


def _train(
    definition: Definition, recorded: Recorded, folder: str, seed: int | None = None, *, keep: bool = False
) -> tuple[str, TrialResult]:
    """Train a trial as it was, or as it was confirmed under another seed; return the digest of its data too."""
    os.chdir(definition.path.parent)
    last = _epochs_recorded(recorded)

    def on_epochs(epochs: list[Epoch]) -> None:
        if recorded.status == "KILLED" and len(epochs) >= last:  # it was pruned there
            raise optuna.TrialPruned

    refitted = definition.search.refit and "refit_epochs" in recorded.metrics
    with origin.unrecorded(Path(folder)), spread(definition):  # what the user's own code logs goes nowhere
        every = TrialData(definition, fold_seed=seed if definition.data.folds else None)
        result = trial.run(
            definition,
            every,
            _trial(definition, recorded),
            seed=recorded.seed if seed is None else seed,
            is_kept=lambda _: keep or refitted,
            on_epochs=on_epochs,
        )
    return "" if every.same is None else every.same.digest, result


def _epochs_recorded(recorded: Recorded) -> int:
    """Return how many epochs the trial passed on: curves of folds follow one another."""
    curves: dict[str, int] = {}
    for name, values in recorded.metrics.items():
        part = name.rpartition("/")[0]
        if len(values) > 1 or part:
            curves[part] = max(curves.get(part, 0), len(values))
    return sum(curves.values()) or 1


def _trial(definition: Definition, recorded: Recorded) -> trial.RetrainedTrial:
    known = space.distributions(definition)
    params = {name: _value(known.get(name), text) for name, text in recorded.params.items()}
    return trial.RetrainedTrial(params, recorded.number)


def _value(distribution: optuna.distributions.BaseDistribution | None, text: str) -> Any:
    """Return a parameter's value from MLflow's text."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return next((each for each in distribution.choices if str(each) == text), text)
    if isinstance(distribution, optuna.distributions.FloatDistribution):
        return float(text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)


def _compared(recorded: Recorded, result: TrialResult, changed: list[str], *, whole: bool = True) -> Reproduction:
    """Return how a training compares with what was recorded; one under another seed is not compared as a `whole`."""
    ours = _by_step(result)
    metrics: dict[str, tuple[float, float | None]] = {}
    unequal, exact, within = list[str](), True, True
    for name, values in (recorded.metrics if whole else {}).items():
        if name in _TIMES or name.startswith((_VALUE, "system/")) or (name not in ours and not _trained(name)):
            continue
        again = ours.get(name, {})
        if len(values) == len(again) == 1:  # measured once; earlier releases recorded it at another step
            again = dict.fromkeys(values, next(iter(again.values())))
        first = next((step for step in sorted(values) if not _equal(values[step], again.get(step))), None)
        last = max(values)
        metrics[name] = (values[last], again.get(last))
        if first is not None:
            exact = False
            within = within and all(_close(values[step], again.get(step)) for step in values)
            unequal.append(f"{name}: {_shown(values[first])} in epoch {first + 1}, now {_shown(again.get(first))}")
    if result.fate == "failed":
        exact = within = False
        unequal.insert(0, f"it fails now: {result.reason}")
    return Reproduction(
        run_id=recorded.run_id,
        what=f"trial {recorded.number}",
        same=exact or (within and bool(changed)),
        exact=exact,
        metrics=metrics,
        differs=(*unequal, *changed),
        epochs=len(result.epochs),
    )


def _by_step(result: TrialResult) -> Mapping[str, dict[int, float]]:
    """Return every metric's values by step, as they are written to MLflow."""
    found: dict[str, dict[int, float]] = {}
    for epoch in result.epochs:
        for name, value in epoch.logs.items():
            found.setdefault(name, {})[epoch.step] = value
    for name, value in result.metrics.items():
        found.setdefault(name, {})[result.step_of(name)] = value
    return found


def _trained(name: str) -> bool:
    """Return whether a metric is one of training, rather than one that the user's code logged by itself."""
    return name.rpartition("/")[2].removeprefix("val_").removeprefix("test_") == "loss"


def _equal(one: float, other: float | None) -> bool:
    return other is not None and (one == other or (math.isnan(one) and math.isnan(other)))


def _close(one: float, other: float | None) -> bool:
    return other is not None and (_equal(one, other) or math.isclose(one, other, rel_tol=TOLERANCE))


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.9g}"
