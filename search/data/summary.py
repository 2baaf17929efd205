"""What MLflow and the person are told of the data: frozen, small, without the data themselves."""

from __future__ import annotations

import io
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

import numpy as np

from search.serving.meaning import Meaning

ANSWERS = "example_answers.npz"


@dataclass(frozen=True)
class TensorSpec:
    """The dtype and shape of one input or output; the batch axis is -1.

    Attributes:
        name: The input's name; None when the model takes a single array.
    """

    dtype: str
    shape: tuple[int, ...]
    name: str | None = None


@dataclass(frozen=True)
class DataSummary:
    """What MLflow and the person are told of the data; everything but the data themselves.

    Attributes:
        rows: Rows of the training, validation and test part; 0 where a stream hides them.
        columns: Names and kinds of a table's columns; empty for arrays.
        inputs: The arrays that the registered model takes.
        example: A few rows as the user sends them: an array, or a dictionary of columns or arrays.
        output: What the model gives: one array without a name, or several by name.
        log_names: Every metric that Keras logs for this study's model.
        seconds: How long loading took.
        facts: What the data are, in a line.
        doubts: What in the data looks wrong, each with what mends it.
        profile: Statistics of the training data, see `profile.profile_of`; empty for streams.
        cut: Of which parts the source gave the data, as `Data.cut` tells it.
        optional: Columns that may be missing when predicting: values of theirs were missing in training.
        trivial: What the trivial answer scores on the validation part, by metric; empty where it is not known.
        centers: What is subtracted of columns in double precision, by name.
        reading: Options of the study's file that other files for the model are read with too.
        meanings: What each output means.
        code: Digests of the user's code that defines a trial, by the key that names it.
        seen: Hashes of the rows that trained or chose the model, see `comparison.seen`.
    """

    name: str
    source: str
    digest: str
    task: str
    classes: tuple[Any, ...]
    rows: dict[str, int]
    columns: tuple[tuple[str, str], ...]
    inputs: tuple[TensorSpec, ...]
    example: Any
    output: tuple[TensorSpec, ...]
    log_names: tuple[str, ...]
    path: str
    seconds: float
    backend: str = "tensorflow"
    optional: tuple[str, ...] = ()
    trivial: dict[str, float] = field(default_factory=dict)
    centers: dict[str, float] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict, repr=False)
    facts: str = ""
    doubts: tuple[str, ...] = ()
    cut: str = ""
    meanings: tuple[Meaning, ...] = ()
    code: dict[str, str] = field(default_factory=dict)
    seen: bytes = field(default=b"", repr=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled, also by an earlier release, which lacks the newer fields."""
        newer = {new.name: new.default_factory() for new in fields(self) if new.default_factory is not MISSING}
        vars(self).update(newer | state)


@dataclass(frozen=True)
class Interface:
    """What one trial's model takes and gives; it may depend on the trial's parameters.

    Attributes:
        inputs: As in `DataSummary`, like the others.
    """

    inputs: tuple[TensorSpec, ...]
    example: Any
    output: tuple[TensorSpec, ...]
    meanings: tuple[Meaning, ...]
    centers: dict[str, float] = field(default_factory=dict)

    def instead(self, summary: DataSummary) -> DataSummary:
        """Return a summary with this model's inputs and outputs."""
        return replace(summary, **vars(self))


@dataclass(frozen=True)
class Answers:
    """What a trained model gave for the rows of its input example, and those rows as it got them.

    Attributes:
        inputs: An array, or arrays by name or in a list.
        outputs: Each output by name, a single one under an empty name; none where inference draws at random.
    """

    inputs: Any
    outputs: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the content of an NPZ file."""
        listed = list(self.inputs) if isinstance(self.inputs, list | tuple) else None
        kind = "list/" if listed is not None else "dict/" if isinstance(self.inputs, dict) else "only/"
        arrays = dict(enumerate(listed)) if listed is not None else self.inputs if kind == "dict/" else {0: self.inputs}
        plain = {name: np.asarray(array) for name, array in arrays.items()}
        named: dict[str, Any] = {
            f"{kind}{name}": array.astype(str) if array.dtype == object else array for name, array in plain.items()
        }
        file = io.BytesIO()
        np.savez_compressed(file, **named, **{f"output/{name}": output for name, output in self.outputs.items()})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Answers:
        """Return what `to_bytes` wrote."""
        found: dict[str, dict[str, Any]] = {"list": {}, "dict": {}, "only": {}, "output": {}}
        with np.load(io.BytesIO(content)) as file:
            for key in file:
                kind, _, name = key.partition("/")
                found[kind][name] = file[key]
        inputs = found["dict"] or list(found["list"].values()) or found["only"]["0"]
        return cls(inputs, found["output"])
