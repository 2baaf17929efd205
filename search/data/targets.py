"""What there is to learn: the task behind a target, stated or inferred, and the target as Keras takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import DataError
from search.studyfile.schema import DataDefinition, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW = 20  # so many whole numbers are classes; more are classes only when they are 0, 1, 2 …
_MANY = 1000  # more different numbers than this are no classes
_OFTEN = 20  # rows that each of more than a few classes has, on average


def plain(values: Any) -> NDArray[Any]:
    """Return targets as an array of truth values, numbers or objects, one axis when one is enough."""
    import pandas as pd

    if isinstance(values, pd.DataFrame):
        numeric = all(pd.api.types.is_numeric_dtype(kind) for kind in values.dtypes)
        array = values.to_numpy(dtype="float64", na_value=np.nan) if numeric else values.to_numpy(dtype=object)
    else:
        array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
        values = array
    if array.dtype.kind != "O" or array.ndim != 1:
        return array
    series = pd.Series(values).infer_objects()  # pandas keeps whole numbers of nullable kinds as objects
    if series.isna().any():
        return array
    kinds = ((pd.api.types.is_bool_dtype, "bool"), (pd.api.types.is_integer_dtype, "int64"))
    for is_kind, dtype in (*kinds, (pd.api.types.is_float_dtype, "float64")):
        if is_kind(series):
            return np.asarray(series.to_numpy(dtype=dtype))
    return array


def task_of(y: NDArray[Any], settings: DataDefinition) -> tuple[Task, tuple[Any, ...]]:
    """Return the task, stated or inferred, and the class labels.

    Raises:
        DataError: The target is missing in some rows, the same in all, or does not suit the stated task.
    """
    column = f" '{settings.target}'" if isinstance(settings.target, str) else ""
    _check_values(y, column)
    task = settings.task or infer(y)
    if task == "regression":
        _check_numbers(y, column)
        return task, ()
    if task == "multilabel":
        if y.ndim != 2 or not _zeros_and_ones(y):
            raise DataError("data.task: multilabel needs a target of 0 and 1 with a column for each label")
        return task, settings.targets or tuple(range(y.shape[1]))
    return task, _classes(y, task, column)


def _check_values(y: NDArray[Any], column: str) -> None:
    import pandas as pd

    if y.dtype.kind in "mM":
        raise DataError(f"data.target: the target{column} holds dates; give numbers or classes")
    missing = np.atleast_1d(pd.isna(y)).any(axis=tuple(range(1, y.ndim)))
    if missing.any():
        rows = int(missing.sum())
        raise DataError(
            f"data.target: the target{column} is missing in {rows} row{'s' * (rows > 1)}; fill them or leave them out"
        )
    if y.dtype.kind == "f" and np.isinf(y).any():
        raise DataError(f"data.target: the target{column} holds infinite values; give finite numbers")
    if len(y) < 2 or (y == y[0]).all():
        raise DataError(f"data.target: the target{column} is the same in every row; there is nothing to learn")


def _check_numbers(y: NDArray[Any], column: str) -> None:
    if y.dtype.kind not in "fiub":
        raise DataError(f"data.task: regression needs numbers; the target{column} is text, so leave task out")
    if not np.isfinite(np.asarray([y.max(), y.min()], "float64").astype("float32")).all():
        raise DataError(f"data.target: the target{column} has values beyond single precision; scale it down")


def _classes(y: NDArray[Any], task: Task, column: str) -> tuple[Any, ...]:
    if y.ndim > 1:
        classes: tuple[Any, ...] = tuple(range(y.shape[1]))
    else:
        values = np.unique(_labels(y))
        if values.dtype.kind == "f":
            if not _whole(values):
                raise DataError(f"data.task: {task} needs classes; the target{column} holds fractions")
            values = values.astype("int64")
        classes = tuple(values.tolist())
    if task == "binary" and len(classes) != 2:
        raise DataError(f"data.task: binary needs two classes; the target{column} has {len(classes)}")
    return classes


def _labels(y: NDArray[Any]) -> NDArray[Any]:
    return y.astype(str) if y.dtype == object else y


def _whole(values: NDArray[Any]) -> bool:
    return bool((values == np.round(values)).all())


def _zeros_and_ones(y: NDArray[Any]) -> bool:
    return bool(np.isin(y, (0, 1)).all())


def infer(y: NDArray[Any]) -> Task:
    """Return the task that a target looks like.

    Text and truth values are classes. So are whole numbers when there are at most 20 different ones,
    or 0, 1, 2 … without a gap and each often enough; all other numbers are regression. Several
    columns of 0 and 1 are labels, or one-hot classes when each row has exactly one 1.
    """
    if y.ndim > 1:
        if y.ndim > 2 or not _zeros_and_ones(y):
            return "regression"
        return "multiclass" if (y.sum(axis=1) == 1).all() else "multilabel"
    values = np.unique(_labels(y))
    if values.dtype.kind in "fiu" and (not _whole(values) or not _numbers_of_classes(values, len(y))):
        return "regression"
    return "binary" if len(values) == 2 else "multiclass"


def _numbers_of_classes(values: NDArray[Any], rows: int) -> bool:
    count = len(values)
    if count <= _FEW:
        return True
    from_zero = values[0] == 0 and values[-1] == count - 1
    return bool(from_zero and count <= _MANY and rows >= _OFTEN * count)


def encoded(y: NDArray[Any], task: Task, classes: tuple[Any, ...]) -> NDArray[Any]:
    """Return targets as Keras takes them: float32, or class indices as int32."""
    if task == "multiclass" and y.ndim == 2:
        return np.asarray(y.argmax(axis=1), "int32")
    if task in ("binary", "multiclass") and y.ndim == 1:
        index = np.searchsorted(np.asarray(classes), _labels(y))
        return index.astype("float32" if task == "binary" else "int32")
    return y.astype("float32")
