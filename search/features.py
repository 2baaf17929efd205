"""What the model is fed: raw arrays or columns, and the Keras layers that prepare them.

Everything here is fitted on the training part alone. Keras is imported only when a model is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from search.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Array = "NDArray[Any]"
Arrays = "NDArray[Any] | dict[str, NDArray[Any]]"
ColumnKind = Literal["double", "long", "boolean", "string"]

NUMERIC, CATEGORICAL = "numeric", "categorical"
MISSING = ""  # how a missing category is spelt in the categorical input


@dataclass(frozen=True)
class Column:
    """One column of a table, as the user sends it."""

    name: str
    kind: ColumnKind

    @property
    def numeric(self) -> bool:
        """Whether the column is a number or a truth value."""
        return self.kind != "string"


def columns_of(frame: pd.DataFrame) -> tuple[Column, ...]:
    """Return the columns of a table with their kinds.

    Raises:
        DataError: A column is neither a number, a truth value nor text.
    """
    from pandas.api import types

    columns = []
    for name in frame.columns:
        values = frame[name]
        kind: ColumnKind
        if types.is_bool_dtype(values):
            kind = "boolean"
        elif types.is_integer_dtype(values):
            kind = "long"
        elif types.is_float_dtype(values):
            kind = "double"
        elif types.is_datetime64_any_dtype(values) or types.is_timedelta64_dtype(values):
            raise DataError(f"data: column '{name}' holds dates; name it in data.drop or data.time")
        else:
            kind = "string"
        columns.append(Column(str(name), kind))
    return tuple(columns)


def to_arrays(frame: pd.DataFrame, columns: Sequence[Column]) -> dict[str, NDArray[Any]] | NDArray[Any]:
    """Return a table as the model takes it.

    Returns:
        Numbers of shape (rows, numeric columns), float32, missing as NaN; with text columns a
        dictionary of that and texts of shape (rows, text columns), missing as an empty text.
    """
    numbers = [c.name for c in columns if c.numeric]
    texts = [c.name for c in columns if not c.numeric]
    numeric = frame[numbers].astype("float64").to_numpy(dtype="float32", na_value=np.nan)
    if not texts:
        return numeric
    categorical = frame[texts].astype("object").where(frame[texts].notna(), MISSING).astype(str)
    arrays = {CATEGORICAL: categorical.to_numpy(dtype=object)}
    return {NUMERIC: numeric, **arrays} if numbers else arrays


def take(x: Any, rows: Any) -> Any:
    """Return these rows of an array or of each array of a dictionary or list."""
    if isinstance(x, dict):
        return {name: take(each, rows) for name, each in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(take(each, rows) for each in x)
    return x[rows]


def leaves(x: Any) -> list[Any]:
    """Return the arrays in `x`, in a fixed order."""
    if isinstance(x, dict):
        return [leaf for name in sorted(x) for leaf in leaves(x[name])]
    if isinstance(x, list | tuple):
        return [leaf for each in x for leaf in leaves(each)]
    return [x]


@dataclass(frozen=True)
class Preparation:
    """What the preprocessing layers learnt from the training part.

    Attributes:
        mean: Means of the numeric columns, or of an array's last axis; None to leave numbers alone.
        variance: Their variances.
        incomplete: Indices of numeric columns with missing values; each gets an indicator.
        vocabularies: The known texts of each text column.
    """

    mean: tuple[float, ...] | None = None
    variance: tuple[float, ...] | None = None
    incomplete: tuple[int, ...] = ()
    vocabularies: tuple[tuple[str, ...], ...] = ()


def fit_preparation(x: Any, normalize: bool) -> Preparation:
    """Learn means, variances and vocabularies from the training part."""
    table = isinstance(x, dict) and set(x) <= {NUMERIC, CATEGORICAL}
    numbers = x.get(NUMERIC) if table else x
    vocabularies = []
    if table:
        for index in range(x[CATEGORICAL].shape[1]):
            vocabularies.append(tuple(sorted(set(x[CATEGORICAL][:, index]) - {MISSING})))
    if not isinstance(numbers, np.ndarray) or not np.issubdtype(numbers.dtype, np.number):
        return Preparation(vocabularies=tuple(vocabularies))
    missing = np.isnan(numbers).any(axis=tuple(range(numbers.ndim - 1)))
    incomplete = tuple(int(i) for i in np.flatnonzero(missing)) if numbers.ndim == 2 else ()
    if not normalize:
        return Preparation(incomplete=incomplete, vocabularies=tuple(vocabularies))
    axes = tuple(range(numbers.ndim - 1))
    mean = np.nan_to_num(np.nanmean(numbers.astype("float64"), axis=axes))
    variance = np.nan_to_num(np.nanvar(numbers.astype("float64"), axis=axes))
    return Preparation(
        mean=tuple(map(float, mean)),
        variance=tuple(float(v) if v > 0 else 1.0 for v in variance),
        incomplete=incomplete,
        vocabularies=tuple(vocabularies),
    )


def make_inputs(x: Any, preparation: Preparation) -> tuple[Any, Any]:
    """Return the Keras inputs for arrays like `x`, and the tensor for the model's first layer.

    Missing numbers become their column's mean (0 without normalisation) and set an indicator;
    unknown and missing texts have a place of their own in the one-hot encoding.
    """
    import keras

    if isinstance(x, dict) and set(x) <= {NUMERIC, CATEGORICAL}:
        inputs: dict[str, Any] = {}
        parts = []
        if NUMERIC in x:
            inputs[NUMERIC] = keras.Input(x[NUMERIC].shape[1:], name=NUMERIC, dtype="float32")
            parts.append(_numbers(inputs[NUMERIC], preparation))
        inputs[CATEGORICAL] = keras.Input(x[CATEGORICAL].shape[1:], name=CATEGORICAL, dtype="string")
        for index, vocabulary in enumerate(preparation.vocabularies):
            lookup = keras.layers.StringLookup(
                vocabulary=list(vocabulary), mask_token=MISSING, output_mode="one_hot", num_oov_indices=1
            )
            parts.append(lookup(inputs[CATEGORICAL][:, index : index + 1]))
        return inputs, keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    if isinstance(x, dict):
        named = {name: keras.Input(a.shape[1:], name=name, dtype=str(a.dtype)) for name, a in x.items()}
        return named, named
    if isinstance(x, list | tuple):
        listed = [keras.Input(a.shape[1:], dtype=str(a.dtype)) for a in x]
        return listed, listed
    single = keras.Input(x.shape[1:], name="features", dtype=None if x.dtype.kind == "f" else str(x.dtype))
    return single, _numbers(single, preparation)


def _numbers(numbers: Any, preparation: Preparation) -> Any:
    import keras

    prepared = numbers
    if preparation.mean is not None:
        prepared = keras.layers.Normalization(
            mean=np.array(preparation.mean, "float32"), variance=np.array(preparation.variance, "float32")
        )(numbers)
    if not preparation.incomplete:
        return prepared
    missing = keras.ops.cast(keras.ops.isnan(numbers), "float32")
    indicators = keras.ops.take(missing, list(preparation.incomplete), axis=-1)
    return keras.layers.Concatenate()([keras.ops.nan_to_num(prepared), indicators])
