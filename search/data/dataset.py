"""The data of a study: loaded, checked, split. It knows nothing of models, trials or MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data import preprocessing as features
from search.data import splits, streams, targets
from search.data import table as rows
from search.data.preprocessing import Column, Preparation
from search.data.sources import read
from search.data.table import Rows
from search.errors import DataError
from search.studyfile.schema import DataDefinition, Definition, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """Some rows of the data.

    Attributes:
        x: An array whose first axis is the rows, a dictionary or list of such, or a stream:
            anything `model.fit` takes that yields batches.
        y: Targets, first axis the rows; None for a stream.
        sample_weight: A weight for each row, or for each output one; None when all rows count alike.
    """

    x: Any
    y: Any
    sample_weight: Any = None

    @property
    def streamed(self) -> bool:
        """Whether `x` yields batches of its own instead of holding rows."""
        return self.y is None

    def __len__(self) -> int:
        return 0 if self.y is None else len(self.y)

    def take(self, rows: Any) -> Part:
        """Return these rows as a part of their own."""
        if self.y is None:
            raise TypeError("a stream has no rows to take")
        weight = None if self.sample_weight is None else features.take(self.sample_weight, rows)
        return Part(features.take(self.x, rows), features.take(self.y, rows), weight)


@dataclass(frozen=True)
class Data:
    """What a model's builder is given.

    Attributes:
        task: `binary`, `multiclass`, `multilabel` or `regression`.
        classes: The labels behind the class indices 0, 1, …; empty for regression.
        columns: The columns of a table as the user sends them; empty for arrays.
        train: The rows to learn from.
        validation: The rows to choose by; None when a model is refitted on everything.
        test: The rows held out.
        normalize: Whether the preprocessing layers scale numbers.
        name: What to call the data in MLflow.
        digest: Eight hexadecimal digits that change when a value in the data changes.
        folds: Row numbers (training, validation) of each fold, counted in `rest`.
        rest: All rows but the test part; None without folds.
        test_rows: The number of each test row in the source; None for a stream.
        test_group: What test rows that belong together have in common; None when rows are independent.
    """

    task: Task
    classes: tuple[Any, ...]
    columns: tuple[Column, ...]
    train: Part
    validation: Part | None
    test: Part
    normalize: bool
    name: str
    digest: str
    folds: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = ()
    rest: Part | None = None
    test_rows: NDArray[Any] | None = field(default=None, repr=False)
    test_group: NDArray[Any] | None = field(default=None, repr=False)
    _first: tuple[Any, Any] | None = field(default=None, repr=False, compare=False)  # batch of a stream
    _fitted: list[Preparation] = field(default_factory=list, repr=False, compare=False)

    @property
    def x(self) -> Any:
        """The training inputs."""
        return self.train.x

    @property
    def y(self) -> Any:
        """The training targets, class indices for classes."""
        return self.train.y

    @property
    def input_shape(self) -> Any:
        """The shape of one example, without the batch axis; by name or position for several inputs."""
        x = self.example(1)
        if isinstance(x, dict):
            return {name: tuple(each.shape[1:]) for name, each in x.items()}
        if isinstance(x, list | tuple):
            return [tuple(each.shape[1:]) for each in x]
        return tuple(x.shape[1:])

    @property
    def outputs(self) -> int:
        """How many numbers the model's last layer gives: classes, labels or targets."""
        if self.task == "multiclass":
            return len(self.classes)
        y = self.example_targets()
        return 1 if y.ndim == 1 else int(y.shape[1])

    def inputs(self) -> tuple[Any, Any]:
        """Return the Keras inputs and the prepared tensor, ready for the model's first layer.

        The inputs take the user's raw arrays, or the columns of a table; the preprocessing layers
        behind them were fitted on the training part alone.
        """
        if not self._fitted and not self.train.streamed:
            self._fitted.append(
                features.fit_preparation(self.train.x, table=bool(self.columns), normalize=self.normalize)
            )
        preparation = self._fitted[0] if self._fitted else Preparation()
        return features.make_inputs(self.example(1), preparation)

    def example(self, rows: int = 3) -> Any:
        """Return the inputs of the first few training rows."""
        return features.take(self.train.x if self._first is None else self._first[0], slice(0, rows))

    def example_targets(self, rows: int = 3) -> NDArray[Any]:
        """Return the targets of the first few training rows."""
        y = self.train.y if self.train.y is not None or self._first is None else self._first[1]
        return np.asarray(y)[:rows]

    def fold(self, index: int) -> Data:
        """Return the data with training and validation rows of one fold."""
        training, validation = self.folds[index]
        rest = self._rest()
        return replace(self, train=rest.take(training), validation=rest.take(validation), _fitted=[])

    def refit(self) -> Data:
        """Return the data with everything but the test part as training rows."""
        return replace(self, train=self._rest(), validation=None, _fitted=[])

    def _rest(self) -> Part:
        if self.rest is None:
            raise TypeError("the data of a study without folds are split once")
        return self.rest


def load(definition: Definition) -> Data:
    """Load, check and split the data of a study.

    Raises:
        DataError: They cannot be read, have no such column, or hold nothing to learn.
    """
    settings = definition.data
    loaded = read(definition)
    name = settings.source.rpartition(":")[2] if settings.kind in ("sklearn", "python") else Path(settings.source).stem
    parts = list(loaded) if isinstance(loaded, tuple | list) else [loaded]
    if parts and streams.is_stream(parts[0]):
        return _streamed(parts, settings, name)
    together, lengths = _rows(loaded, settings)
    return _split(together, lengths, settings, name)


def _rows(loaded: Any, settings: DataDefinition) -> tuple[Rows, list[int]]:
    """Return all rows, and how many each part has that was given as a part of its own."""
    if rows.is_table(loaded):
        return rows.from_table(loaded, settings), [len(loaded)]
    parts = list(loaded) if isinstance(loaded, tuple | list) else []
    if settings.target and parts and all(map(rows.is_table, parts)):
        return rows.from_table(_joined(parts), settings), [len(part) for part in parts]
    if _are_pairs(parts):
        xs, ys = [part[0] for part in parts], [part[1] for part in parts]
        return rows.from_arrays(_joined(xs), _joined(ys), settings), [len(y) for y in ys]
    if len(parts) == 2:
        return rows.from_arrays(parts[0], parts[1], settings), [len(parts[1])]
    raise DataError(
        f"data.source: {settings.source} returned {type(loaded).__name__}; return (x, y), "
        "((x_train, y_train), (x_test, y_test)), a data frame, or streams (train, test)"
    )


def _are_pairs(parts: Sequence[Any]) -> bool:
    """Return whether these are two or three of (x, y), and not one (x, y)."""
    pairs = all(isinstance(part, tuple | list) and len(part) == 2 for part in parts)
    return len(parts) in (2, 3) and pairs and all(np.ndim(y) > 0 and not np.isscalar(x) for x, y in parts)


def _joined(parts: Sequence[Any]) -> Any:
    """Return the rows of several parts behind one another."""
    import pandas as pd

    first = parts[0]
    try:
        if isinstance(first, dict):
            return {name: _joined([part[name] for part in parts]) for name in first}
        if isinstance(first, pd.DataFrame | pd.Series):
            return pd.concat(parts, ignore_index=True)
        if isinstance(first, list | tuple) and first and isinstance(first[0], np.ndarray):
            return [_joined(inputs) for inputs in zip(*parts, strict=True)]
        return np.concatenate([np.asarray(part) for part in parts])
    except (ValueError, KeyError, TypeError):
        raise DataError("data.source: the given parts have different shapes; give each the same columns") from None


def _split(together: Rows, lengths: Sequence[int], settings: DataDefinition, name: str) -> Data:
    task, classes = targets.task_of(together.y, settings)
    if settings.stratify and task not in ("binary", "multiclass"):
        raise DataError(f"data.stratify: keeps the shares of classes, and the task is {task}; leave it out")
    y = targets.encoded(together.y, task, classes)
    by_class = task in ("binary", "multiclass") and y.ndim == 1 and settings.stratify is not False
    chosen = splits.split(together, lengths, settings, y if by_class else None)
    whole = replace(together, y=y)

    def part(numbers: NDArray[np.intp]) -> Part:
        taken = whole.take(numbers)
        return Part(taken.x, taken.y)

    return Data(
        task=task,
        classes=classes,
        columns=together.columns,
        train=part(chosen.training),
        validation=part(chosen.validation),
        test=part(chosen.test),
        normalize=bool(together.columns) if settings.normalize is None else settings.normalize,
        name=name,
        digest=together.digest,
        folds=chosen.folds,
        rest=part(chosen.rest) if chosen.folds else None,
        test_rows=chosen.test,
        test_group=None if whole.group is None else whole.group[chosen.test],
    )


def _streamed(parts: list[Any], settings: DataDefinition, name: str) -> Data:
    """Return the data behind streams, (train, test) or (train, validation, test), never copied."""
    for key in ("target", "features", "drop", "group", "time", "folds", "stratify", "normalize"):
        if getattr(settings, key):
            raise DataError(f"data.{key}: streams yield batches as they are; leave it out")
    if len(parts) > 3 or not all(map(streams.is_stream, parts)):
        raise DataError("data.source: streams beside other values; return a stream, (train, test), or with validation")
    if len(parts) == 1:
        parts = [*streams.cut(parts[0], settings.test_size, "test_size")]
    if len(parts) == 2:
        parts = [*streams.cut(parts[0], settings.validation_size, "validation_size"), parts[1]]
    first = streams.first_batch(parts[0])
    y = targets.plain(streams.targets(parts[0]))
    task = settings.task or targets.infer(y)
    train, validation, test = (Part(part, None) for part in parts)
    return Data(
        task=task,
        classes=_classes_of_stream(y, task),
        columns=(),
        train=train,
        validation=validation,
        test=test,
        normalize=False,
        name=name,
        digest=rows.digest_of(*first, *(np.asarray([streams.length(part) or 0]) for part in parts)),
        _first=first,
    )


def _classes_of_stream(y: NDArray[Any], task: Task) -> tuple[int, ...]:
    """Return the class indices of a stream, whose targets must be indices, one-hot or labels already."""
    if task == "regression":
        return ()
    if task == "binary":
        return (0, 1)
    if y.dtype.kind not in "fiub":
        raise DataError("data.source: a stream's targets must be numbers; yield class indices 0, 1, 2 …")
    return tuple(range(y.shape[1] if y.ndim == 2 else int(y.max()) + 1))
