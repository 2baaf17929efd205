"""What a model gave for the rows of the test part: one small file, read without the data and without Keras."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.serving.meaning import Kind, Meaning

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "test_predictions.npz"
ONLY = "only"  # the name of an output or target that has none
_ABOUT = "about"
_BY_ROW = ("rows", "loss", "weight", "group", "baseline_loss")
_NAMED = ("targets", "outputs", "slices", "inputs")
_BASELINE = "baseline"


@dataclass(frozen=True)
class About:
    """What the numbers in a file of predictions are.

    Attributes:
        digest: The data's digest.
        split: How the data were split, as text that changes when the split does.
        task: `binary`, `multiclass`, `multilabel` or `regression`.
        classes: The labels behind the class indices.
        metric: The study's metric, without `val_`.
        direction: `minimize` or `maximize`.
        meanings: What each output means.
        loss: Keras's configuration of the loss as JSON; empty when it has none.
        metrics: The study file's `[metrics]` from scikit-learn: function, options, threshold.
        target: The target's columns; empty for arrays.
        group: The column that rows are split by; empty when rows are independent.
        trivial: What the trivial model has on these rows, by metric, where the numbers of each row do not tell it:
            of a loss that gives one number a batch, of metrics of the user's own.
    """

    digest: str
    split: str
    task: str
    classes: tuple[str, ...]
    metric: str
    direction: str
    meanings: tuple[Meaning, ...] = ()
    loss: str = ""
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    target: tuple[str, ...] = ()
    group: str = ""
    trivial: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> About:
        """Return what was kept as JSON; what a newer version added is left out."""
        known = {one.name: kept[one.name] for one in fields(cls) if one.name in kept}
        known |= {name: tuple(known[name]) for name in ("classes", "target")}
        if "meanings" in kept:
            return cls(**{**known, "meanings": tuple(map(Meaning.of, kept["meanings"]))})
        kind: Kind = "logits" if kept.get("logits") else "probabilities"  # written by an earlier release
        if known["task"] not in ("binary", "multiclass", "multilabel"):
            kind = "numbers"
        return cls(**known, meanings=(Meaning(kind, known["task"], known["classes"]),))


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for some rows, beside the targets.

    Attributes:
        about: What the numbers are.
        rows: The number of each row in the study's data, shape (n,).
        targets: Targets by output, each of shape (n, …); class indices for classes.
        outputs: Outputs by name, each of shape (n, …); empty where they are too large to keep.
        loss: The loss of each row, shape (n,); None where the model's loss is no sum over rows.
        weight: A weight for each row; None when all count alike.
        group: What rows that belong together have in common, shape (n,); None when they are independent.
        baseline: What the trivial model gives for every row, by output, in the output's unit: shares of the classes,
            or the mean of the training targets.
        baseline_loss: Its loss for each row.
        slices: The value of each row in columns with few values, by column.
        inputs: The rows themselves, by column or input, by which another version predicts them; empty where they are
            too large to keep.
    """

    about: About
    rows: NDArray[np.int64]
    targets: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    loss: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None
    group: NDArray[Any] | None = None
    baseline: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    baseline_loss: NDArray[Any] | None = None
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.intp]) -> Predictions:
        """Return the predictions for these rows, given by their position."""
        taken: dict[str, Any] = {
            kind: {name: array[rows] for name, array in getattr(self, kind).items()} for kind in _NAMED
        }
        for name in _BY_ROW:
            array = getattr(self, name)
            taken[name] = None if array is None else array[rows]
        return replace(self, **taken)

    @property
    def target(self) -> NDArray[Any] | None:
        """The targets of a model with one output; None for several."""
        return self.targets.get(ONLY)

    @property
    def output(self) -> NDArray[Any] | None:
        """The outputs of a model with one output; None for several, and where they were too large to keep."""
        return self.outputs.get(ONLY)

    @property
    def meaning(self) -> Meaning:
        """What the only output means."""
        return self.about.meanings[0] if self.about.meanings else Meaning("unknown", self.about.task)

    def to_bytes(self) -> bytes:
        """Return the content of a compressed NPZ file; equal predictions give equal bytes."""
        arrays = {name: value for name in _BY_ROW if (value := getattr(self, name)) is not None}
        for kind in (*_NAMED, _BASELINE):
            arrays |= {f"{kind}/{name}": value for name, value in getattr(self, kind).items()}
        arrays[_ABOUT] = np.asarray(json.dumps(asdict(self.about), default=str))
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Predictions:
        """Return the predictions that `to_bytes` wrote.

        Raises:
            ValueError: The content is no such file.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = About.of(json.loads(str(arrays[_ABOUT])))
            named = {
                kind: {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"{kind}/")}
                for kind in (*_NAMED, _BASELINE)
            }
            if _BASELINE in arrays:  # written by an earlier release
                named[_BASELINE] = {ONLY: arrays[_BASELINE]}
            return cls(about=about, **{name: arrays.get(name) for name in _BY_ROW}, **named)  # type: ignore[arg-type]
        except (KeyError, TypeError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"no file of predictions ({type(error).__name__})") from error


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the rows of several predictions behind one another, without the numbers that one of them lacks.

    Outputs go by their place: Keras may name those of another model otherwise.
    """
    found: dict[str, Any] = {}
    for kind in _NAMED:
        columns = zip(*(getattr(part, kind).values() for part in parts), strict=True)
        found[kind] = dict(zip(getattr(parts[0], kind), map(np.concatenate, columns), strict=True))
    for name in _BY_ROW:
        arrays = [getattr(part, name) for part in parts]
        found[name] = None if any(array is None for array in arrays) else np.concatenate(arrays)
    return replace(parts[0], **found)
