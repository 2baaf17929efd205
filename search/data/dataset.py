"""The data of a study as a builder, a fit function and the training see them: values, without their sources."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import optree

from search.data import preprocessing as features
from search.data import streams, targets
from search.data.given import ALL
from search.data.preprocessing import Column, Preparation
from search.data.targets import AnyTask
from search.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from optuna.trial import BaseTrial


@dataclass(frozen=True)
class Part:
    """Some rows of the data.

    Attributes:
        x: An array whose first axis is the rows, a dictionary or list of such, or a stream:
            anything `model.fit` takes that yields batches.
        y: Targets, first axis the rows, nested as the model's outputs; None for a stream, or without targets.
        sample_weight: A weight for each row, or for each output one; None when all rows count alike.
    """

    x: Any
    y: Any
    sample_weight: Any = None

    @property
    def streamed(self) -> bool:
        """Whether `x` yields batches of its own instead of holding rows."""
        return streams.is_stream(self.x)

    def __len__(self) -> int:
        return 0 if self.streamed else len(features.leaves(self.x)[0])

    def take(self, rows: Any) -> Part:
        """Return these rows as a part of their own."""
        if self.streamed:
            raise TypeError("a stream has no rows to take")
        return Part(*(features.take(values, rows) for values in (self.x, self.y, self.sample_weight)))

    def joined(self, other: Part) -> Part:
        """Return the rows of this part and then those of another; weights that one alone has are 1 in the other."""
        one, two = self.sample_weight, other.sample_weight
        if one is None and two is not None:
            one = optree.tree_map(lambda array: np.ones((len(self), *array.shape[1:]), array.dtype), two)
        elif one is not None and two is None:
            two = optree.tree_map(lambda array: np.ones((len(other), *array.shape[1:]), array.dtype), one)
        return Part(features.joined(self.x, other.x), features.joined(self.y, other.y), features.joined(one, two))


@dataclass(frozen=True)
class Data:
    """What a model's builder is given.

    Attributes:
        task: `binary`, `multiclass`, `multilabel` or `regression`; `several` for several targets, `none`
            without any.
        classes: The labels behind the class indices 0, 1, …; empty where there are no classes.
        columns: The columns of a table as the user sends them; empty for arrays.
        train: The rows to learn from.
        validation: The rows to choose by; None when a model is refitted on everything.
        test: The rows held out; None where the source gives streams without a test part.
        normalize: Whether the preprocessing layers scale numbers.
        name: What to call the data in MLflow.
        digest: Eight hexadecimal digits that change when a value in the data changes.
        cut: What else the values of trials depend on: how many rows each part has that the source gave, or of
            streams eight hexadecimal digits of their first batches; empty where rows are cut here, or depend on
            the trial.
        encoded: Whether targets are class indices in place of the labels that were given.
        given: The names of the parts that the source gave; `all` for data that were split here.
        doubts: What in the data looks wrong, each with what mends it.
        folds: Row numbers (training, validation) of each fold, counted in `rest`.
        rest: All rows but the test part; None without folds.
        test_rows: The number of each test row in the source; None for a stream.
        test_group: What test rows that belong together have in common; None when rows are independent.
        validation_group: The same of validation rows; with folds of the rows of `rest`.
        epochs: How many epochs the builder's model is trained for; 0 before that is known.
        batch_size: Rows in its batches; 0 before that is known.
    """

    task: AnyTask
    classes: tuple[Any, ...]
    columns: tuple[Column, ...]
    train: Part
    validation: Part | None
    test: Part | None
    normalize: bool
    name: str
    digest: str
    cut: str = ""
    encoded: bool = False
    given: tuple[str, ...] = (ALL,)
    doubts: tuple[str, ...] = ()
    folds: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = ()
    rest: Part | None = None
    test_rows: NDArray[Any] | None = field(default=None, repr=False)
    test_group: NDArray[Any] | None = field(default=None, repr=False)
    validation_group: NDArray[Any] | None = field(default=None, repr=False)
    epochs: int = 0
    batch_size: int = 0
    _first: tuple[Any, Any] | None = field(default=None, repr=False, compare=False)  # batch of a stream
    _fitted: list[Preparation] = field(default_factory=list, repr=False, compare=False)

    @property
    def x(self) -> Any:
        """The training inputs."""
        return self.train.x

    @property
    def y(self) -> Any:
        """The training targets, as the model gets them."""
        return self.train.y

    @property
    def spent_by_reading(self) -> bool:
        """Whether a part is a generator, which gives its batches once."""
        parts = (self.train, self.validation, self.test)
        return any(part is not None and streams.is_spent_by_reading(part.x) for part in parts)

    def of(self, trial: BaseTrial) -> Data:  # noqa: ARG002 - as `TrialData.of`
        """Return these data: they are the same for all trials."""
        return self

    def class_indices(self, part: Part) -> NDArray[Any]:
        """Return the class index of each row of a part, of shape (rows,)."""
        if self.encoded and np.ndim(part.y) == 1:
            return np.asarray(part.y, dtype=int)
        return targets.index_of(part.y, self.classes)

    @property
    def input_shape(self) -> Any:
        """The shape of one example, without the batch axis; by name or position for several inputs."""
        return optree.tree_map(lambda array: tuple(array.shape[1:]), self.example(1))

    @property
    def outputs(self) -> int:
        """How many numbers the model's last layer gives: classes, labels or targets."""
        if self.task == "multiclass":
            return len(self.classes)
        y = self.example_targets()
        if not isinstance(y, np.ndarray):
            raise DataError(f"data: there are {self.task} targets; say in the builder how many numbers an output has")
        return 1 if y.ndim == 1 else int(y.shape[-1])

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

    def example_targets(self, rows: int = 3) -> Any:
        """Return the targets of the first few training rows; None when there are none."""
        return features.take(self.train.y if self._first is None else self._first[1], slice(0, rows))

    def target_moments(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return mean and variance of each target column in the training rows, or a stream's first batch."""
        y = self.train.y if self._first is None else self._first[1]
        mean, variance = features.moments(np.asarray(y, "float64").reshape(len(y), -1))
        return np.asarray(mean), np.asarray(variance)

    def fold(self, index: int) -> Data:
        """Return the data with training and validation rows of one fold."""
        training, validation = self.folds[index]
        rest, group = self._rest(), self.validation_group
        return replace(
            self,
            train=rest.take(training),
            validation=rest.take(validation),
            validation_group=None if group is None else group[validation],
            _fitted=[],
        )

    def refit(self) -> Data:
        """Return the data with everything but the test part as training rows."""
        return replace(self, train=self._rest(), validation=None, _fitted=[])

    def _rest(self) -> Part:
        if self.rest is not None:
            return self.rest
        return self.train if self.validation is None else self.train.joined(self.validation)
