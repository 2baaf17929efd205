"""What MLflow and the person are told of the data: frozen, small, without the data themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
        optional: Columns that may be missing when predicting: values of theirs were missing in training.
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
    facts: str = ""
    doubts: tuple[str, ...] = ()
