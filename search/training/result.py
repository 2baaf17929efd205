"""The values that cross between where a trial is trained and where it is recorded: frozen, small."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from optuna.trial import FrozenTrial, TrialState

from search.data.summary import DataSummary, Interface
from search.errors import NewerVersionError
from search.study import attributes
from search.study.attributes import VERSION, read

Fate = Literal["complete", "pruned", "failed", "died"]  # died: with its worker, or stopped before its end


@dataclass(frozen=True)
class Epoch:
    """What Keras logged at the end of one epoch.

    Attributes:
        step: The epoch of its training, from 0.
        time: When it ended, in seconds since 1970.
        logs: Keras's log names and values; with folds or repeats each name begins with its
            training's, as in `fold_0/val_loss`, so that every training has curves of its own.
    """

    step: int
    time: float
    logs: dict[str, float]


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial, as its worker returns it.

    Attributes:
        number: The trial's number in the study.
        fate: How it ended.
        values: One value for each of the study's metrics, when complete.
        epochs: Each epoch's logs, in the order of time.
        metrics: `test_*`, `parameters`, `train_seconds` and further metrics of the finished trial;
            with folds or repeats the mean of each log and how it spreads. Where the model that is kept
            is not the last epoch's, its logs are here too, with `best_epoch` (the step of the epoch
            that it is from) when it is an epoch's.
        violations: How far it is beyond each constraint; at most 0 where met.
        model: The Keras archive (`.keras`) as bytes, when the trial was the best so far.
        predictions: That model's predictions for the test rows, as `Predictions.to_bytes` writes them.
        answers: What it gives for the rows of its input example, as `Answers.to_bytes` writes them.
        validated: What the trial's models give for the validation rows, as `Predictions.to_bytes` writes it.
        data: What the model takes and gives, with its data where they depend on the trial.
        training: What autologging would have recorded: optimizer, loss, `fit`'s arguments.
        summary: The model's layers as a table of text.
        path: How the model was trained: by `whole epochs`, by `batches`, or by `ordinary fit`.
        reason: One line that says why it was pruned or failed.
        traceback: The traceback of a failed trial.
        log: What the user's code printed.
        worker: Host and process that trained it.
        memory: The worker's resident size afterwards, in bytes.
        looks: What a kept model gives for validation rows, as `description.looks` tells it; empty for others.
    """

    number: int
    fate: Fate
    seed: int
    values: tuple[float, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    violations: tuple[float, ...] = ()
    model: bytes | None = field(default=None, repr=False)
    predictions: bytes | None = field(default=None, repr=False)
    answers: bytes | None = field(default=None, repr=False)
    validated: bytes | None = field(default=None, repr=False)
    data: DataSummary | Interface | None = field(default=None, repr=False)
    training: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    path: str = ""
    reason: str = ""
    traceback: str = ""
    log: str = ""
    worker: str = ""
    memory: int = 0
    looks: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def state(self) -> TrialState:
        """The state that the study has of the trial."""
        return {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(self.fate, TrialState.FAIL)

    @property
    def objectives(self) -> list[float] | None:
        """The values that the study is told: none unless the trial is complete."""
        return list(self.values) if self.state == TrialState.COMPLETE else None

    @property
    def step(self) -> int:
        """The step to record `metrics` at: the last epoch's, or the next when they hold the logs of another epoch.

        MLflow's autologging, too, records the metrics of a restored epoch as one step more.
        """
        if not self.epochs:
            return 0
        last = self.epochs[-1]
        return last.step + (1 if self.metrics.keys() & last.logs.keys() else 0)

    def step_of(self, name: str) -> int:
        """The step to record one of `metrics` at: 0 for what is measured once, which MLflow then draws as a bar."""
        return self.step if any(name in epoch.logs for epoch in self.epochs) else 0

    def as_text(self) -> str:
        """Return everything but the model, and what comes with it, as text that `from_text` reads: compressed JSON."""
        content = asdict(replace(self, model=None, predictions=None, answers=None, validated=None, data=None))
        return base64.b85encode(zlib.compress(json.dumps(content, default=str).encode())).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> TrialResult:
        """Return the result that `as_text` wrote, in this version of the package or another.

        Raises:
            NewerVersionError: It lacks what this version needs.
        """
        what = "what became of a trial"
        try:
            content = json.loads(zlib.decompress(base64.b85decode(text)))
            content["epochs"] = tuple(read(Epoch, epoch, what) for epoch in content["epochs"])
            content |= {name: tuple(content[name]) for name in ("values", "violations")}
            found = read(cls, content, what)
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise NewerVersionError(what, VERSION) from error
        if found.fate not in get_args(Fate):
            raise NewerVersionError(f"{what} ('{found.fate}')", VERSION)
        return found

    @property
    def recorded(self) -> dict[str, float]:
        """The metrics of the model that the trial has: its logs and its own metrics, without single folds' curves."""
        last = self.epochs[-1].logs if self.epochs else {}
        return {name: value for name, value in {**last, **self.metrics}.items() if "/" not in name}


def result_of(trial: FrozenTrial) -> TrialResult | None:
    """Return what a trial's worker told of it; None when it told nothing.

    Raises:
        NewerVersionError: A newer version of the package wrote it.
    """
    text = attributes.outcome_of(trial)
    return None if text is None else TrialResult.from_text(text)


def live_epochs(trial: FrozenTrial) -> list[Epoch]:
    """Return the epochs that a running trial has passed on, in the order of time."""
    prefix = f"{attributes.EPOCHS}:"
    parts = sorted((name, part) for name, part in trial.system_attrs.items() if name.startswith(prefix))
    epochs = [read(Epoch, epoch, "a trial's epochs") for _, part in parts for epoch in part]
    # A trial that went on from a checkpoint passes its first epochs on again.
    once = {(epoch.step, *sorted(epoch.logs)): epoch for epoch in epochs}
    return sorted(once.values(), key=lambda epoch: epoch.time)
