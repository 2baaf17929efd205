"""What there is to learn: the task behind a target, stated or inferred, and the target as Keras takes it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from search.data.given import are_arrays
from search.errors import DataError
from search.studyfile.schema import DataDefinition, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW = 20  # so many whole numbers are classes; more are classes only when they are 0, 1, 2 …
_MANY = 1000  # more different numbers than this are no classes
_OFTEN = 20  # rows that each of more than a few classes has, on average
_DATES = ("date", "datetime", "time", "timedelta", "period")
# One amount, such as `1.234,5`, `$ 3.50`, `EUR 3`, `12 %`, `3 m²`, `12kg`, `< 5`; no code, date or address.
_AMOUNT = re.compile(
    r"[^\w.]*([A-Z]{3}\s)?[-+]?(\d{1,3}(?P<mark>[., '\u00a0\u202f])\d{3}((?P=mark)\d{3})*|\d*)([.,]\d+)?([eE][-+]?\d+)?"
    r"(\s?[^\w\s.,:/-]\D{0,3}|(?P<unit>\s[^\W\d]\D{0,4}|[^\W\d]{2}\D{0,3}))?"
)
_MENDED = (
    "give numbers: for csv say in options how they are written, such as options = {{ {} }}, or strip what is no number"
)

# Besides the tasks that a study file may state: several targets, or none at all.
AnyTask = Task | Literal["several", "none"]


@dataclass(frozen=True)
class Targets:
    """What there is to learn.

    Attributes:
        task: What kind of learning it is.
        classes: The labels behind the class indices 0, 1, …; empty where there are no classes.
        y: The targets as the model gets them.
        labels: The class index of each row, or a column of 0 and 1 for each label, by which rows are split; None where
            there are neither.
        encoded: Whether `y` holds class indices in place of the labels that were given.
    """

    task: AnyTask
    classes: tuple[Any, ...]
    y: Any
    labels: NDArray[Any] | None
    encoded: bool = False


def read(given: Any, settings: DataDefinition, *, encode: bool) -> Targets:
    """Return what there is to learn.

    Args:
        given: The targets as the source gave them: an array, a dictionary or list of arrays, or None.
        settings: May state the task and name the target.
        encode: Whether the model takes class indices and single precision. Otherwise it gets the targets as
            they are, text labels excepted: they become class indices, which a loss can be computed of.

    Raises:
        DataError: There is nothing to learn from these targets.
    """
    if encode:
        check_one(given)
    if given is None:
        return Targets("none", (), None, None)
    if isinstance(given, Mapping | list):
        return Targets("several", (), given, None)
    y = plain(given)
    text = y.ndim == 1 and y.dtype.kind in "OSU"
    if text and (about := numbers_as_text(y.tolist())):
        raise DataError(f"data.target: the target{_column(settings)} holds {about}")
    if text and not encode and not settings.targets and len(set(map(str, y.tolist()))) > max(_FEW, len(y) // 2):
        return Targets("none", (), given, None)  # sentences, which the model reads by itself
    if not encode and not text:
        return _as_given(given, y, settings)
    task, classes = task_of(y, settings)
    made = encoded(y, task, classes)
    by_class = task == "multilabel" or (task in ("binary", "multiclass") and made.ndim == 1)
    return Targets(task, classes, made, made if by_class else None, encoded=True)


def check_one(given: Any) -> None:
    """Refuse what the built-in model cannot learn: no targets, or several.

    Raises:
        DataError: Says so.
    """
    if not isinstance(given, np.ndarray):
        what = "no targets" if given is None else "several targets"
        raise DataError(
            f"data.source: there are {what}, but the built-in 'mlp' learns one; return (x, y), or name your own "
            "builder in model.build"
        )


def _as_given(given: NDArray[Any], y: NDArray[Any], settings: DataDefinition) -> Targets:
    """Return targets that the model gets as they are."""
    _check_values(y, _column(settings), constant=bool(settings.targets))
    task = settings.task or infer(y)
    kept = given if isinstance(given, np.ndarray) and given.dtype.kind != "O" else y.reshape(np.shape(given))
    if task in ("regression", "multilabel") or y.ndim > 2:
        labelled = task == "multilabel" and y.ndim == 2
        return Targets(task, tuple(range(y.shape[1])) if labelled else (), kept, y if labelled else None)
    classes = _classes(y, task, _column(settings)) if settings.task != "binary" or y.ndim > 1 else _two_classes(y)
    labels = index_of(y, classes)
    if task == "multiclass" and y.ndim == 1 and classes[0] >= 0 and classes[-1] <= _MANY:
        classes = tuple(range(int(classes[-1]) + 1))  # a class's number is its place among the model's outputs
    return Targets(task, classes, kept, labels if y.ndim == 1 else None)


def numbers_as_text(values: Iterable[Any]) -> str:
    """Return what to say of texts that hold numbers, such as `1.234,5` or `12 %`; nothing of others.

    A few texts such as `5 %` and `10 %` may be classes, so but for commas there are more of them.
    """
    texts = [str(text).strip() for text in itertools.islice((v for v in values if isinstance(v, str) and v), 1000)]
    bare = [text for text in texts if not any(map(str.isdigit, text))]
    gaps = sorted(set(bare)) if 5 * len(bare) <= len(texts) and len(set(bare)) <= 3 else []
    texts = [text for text in texts if text not in gaps]
    amounts = [_AMOUNT.fullmatch(text) for text in texts]
    with_commas = len(texts) > 1 and not set("".join(texts)) - set("0123456789.,+-") and "," in "".join(texts)
    if not texts or not all(amounts) or (len(set(texts)) <= _FEW and not with_commas):
        return ""
    if len({amount["unit"] for amount in amounts if amount}) > 3:  # 1st, 2nd, 3rd, 4th …
        return ""
    example = next((text for text in texts if not text.isdecimal()), texts[0])
    options = f"na_values = {json.dumps(gaps)}" if gaps else 'decimal = ",", thousands = "."'
    return f"numbers as texts, such as '{example}'; {_MENDED.format(options)}"


def _two_classes(y: NDArray[Any]) -> tuple[Any, ...]:
    """Return the classes of a target that is said to be binary; probabilities count as 0 and 1."""
    values = np.unique(y)
    return tuple(values.tolist()) if len(values) == 2 else (0, 1)


def index_of(y: NDArray[Any], classes: tuple[Any, ...]) -> NDArray[Any]:
    """Return the class index of each row of class labels, of shape (rows,), (rows, 1) or one-hot."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return np.asarray(y.argmax(axis=1), "int32")
    return np.searchsorted(np.asarray(classes), _labels(y.reshape(-1))).clip(0, len(classes) - 1).astype("int32")


def as_array(values: Any) -> Any:
    """Return targets as arrays of the shapes that were given, nested as they were; None stays None.

    Raises:
        DataError: They are no arrays: lists of different lengths, for example.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {str(name): as_array(value) for name, value in values.items()}
    if are_arrays(values):
        return [as_array(value) for value in values]
    if hasattr(values, "iloc"):
        shape = np.shape(values)
        return plain(values).reshape(shape)
    try:
        array = as_known(values.toarray() if hasattr(values, "toarray") else values)
    except Exception:  # rows of several shapes, and what an object of the user's own raises
        array = None
    if array is None or (array.dtype == object and array.ndim == 1 and _ragged(array)):
        raise DataError(
            "data.target: the targets are lists of different lengths; give a column of 0 and 1 for each label, "
            "as sklearn.preprocessing.MultiLabelBinarizer makes them"
        )
    if array.ndim == 0:
        raise DataError("data.source: the targets y are not an array; return (x, y), one target for each row")
    if array.dtype.kind in "cV":
        what = "complex numbers" if array.dtype.kind == "c" else "records"
        raise DataError(f"data.target: the targets are {what}; give numbers or classes")
    return array


def as_known(values: Any) -> NDArray[Any]:
    """Return values as an array of a kind that TensorFlow and the models' archives know.

    Masked values become missing ones, texts of any length objects, numbers of more than 64 bits such of 64, and
    small floats such as bfloat16 single precision.
    """
    array = _with_gaps(values) if np.ma.isMaskedArray(values) else np.asarray(values)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype("float64")
    if array.dtype.kind == "T":
        return array.astype(object)
    small = array.dtype.kind == "V" and array.dtype.type is not np.void
    return array.astype("float32") if small else array


def _with_gaps(values: np.ma.MaskedArray[Any, Any]) -> NDArray[Any]:
    """Return a masked array as a plain one whose masked values are missing."""
    if not np.ma.getmaskarray(values).any():
        return np.asarray(values.data)
    kind = "float64" if values.dtype.kind in "iub" else values.dtype if values.dtype.kind in "fc" else object
    return np.asarray(np.ma.filled(values.astype(kind), None if kind is object else np.nan))


def _ragged(array: NDArray[Any]) -> bool:
    return any(isinstance(value, list | tuple | set | dict | np.ndarray) for value in array[:100])


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
    column = _column(settings)
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


def _column(settings: DataDefinition) -> str:
    return f" '{settings.target}'" if isinstance(settings.target, str) else ""


def _check_values(y: NDArray[Any], column: str, *, constant: bool = True) -> None:
    import pandas as pd

    if y.dtype.kind in "mM" or (y.dtype == object and pd.api.types.infer_dtype(y.reshape(-1)) in _DATES):
        raise DataError(f"data.target: the target{column} holds dates; give numbers or classes")
    missing = np.atleast_1d(pd.isna(y)).any(axis=tuple(range(1, y.ndim)))
    if missing.any():
        rows = int(missing.sum())
        raise DataError(
            f"data.target: the target{column} is missing in {rows} row{'s' * (rows > 1)}; fill them or leave them out"
        )
    if y.dtype.kind == "f" and np.isinf(y).any():
        raise DataError(f"data.target: the target{column} holds infinite values; give finite numbers")
    if not y.size:
        raise DataError(f"data.target: the target{column} has no values; give one for each row")
    if constant and (len(y) < 2 or (y == y[0]).all()):
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
