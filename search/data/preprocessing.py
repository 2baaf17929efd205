"""What the model is fed: raw arrays or columns, and the Keras layers that prepare them.

Everything here is fitted on the training part alone. Keras is imported only when a model is built.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optree

from search.errors import DataError
from search.serving.rows import CATEGORICAL, MISSING, NUMERIC, spelt

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ColumnKind = Literal["double", "long", "boolean", "string"]

_UNKNOWN = "[UNK]"  # Keras's word for a text that training did not see
_VOCABULARY = 1000  # texts of a column that get a place of their own; rarer ones share the unknown's
_NONE = "[none]"  # the vocabulary of a column whose texts are all missing
_CHUNK = 65_536  # rows
_LOOKED_AT = 20_000  # rows that tell whether values merge
_NUMBERS = ("floating", "mixed-integer-float", "decimal", "empty")


@dataclass(frozen=True)
class Column:
    """One column of a table, as the user sends it.

    Attributes:
        center: What is subtracted in double precision before the cast to single precision; 0 where that tells the
            column's values apart.
    """

    name: str
    kind: ColumnKind
    center: float = 0.0

    @property
    def numeric(self) -> bool:
        """Whether the column is a number or a truth value."""
        return self.kind != "string"


def columns_of(frame: pd.DataFrame, *, centered: bool = True) -> tuple[Column, ...]:
    """Return the columns of a table with their kinds.

    Args:
        frame: The table.
        centered: Whether columns may be centred, as they are normalised later.

    Raises:
        DataError: A column holds neither numbers, truth values nor text.
    """
    found = (Column(str(name), _kind(frame[name])) for name in frame.columns)
    return tuple(
        replace(column, center=_center(numbers(frame[column.name]))) if centered and column.numeric else column
        for column in found
    )


def _center(values: NDArray[Any]) -> float:
    """Return the mean where single precision tells more values apart after it was subtracted, else 0.

    It is rounded to a power of two below the deviation: whole numbers stay whole.
    """
    many, few = told_apart(values)
    if few == many:
        return 0.0
    step = 2.0 ** np.floor(np.log2(np.nanstd(values)))
    center = float(np.round(np.nanmean(values) / step) * step)
    return center if told_apart(values - center)[1] > few else 0.0


def told_apart(values: NDArray[Any]) -> tuple[int, int]:
    """Return how many different numbers some rows hold, and how many of them single precision tells apart.

    Up to 1 in 100 that merge are chance, in columns of many different fractions.
    """
    some = values[:: max(1, len(values) // _LOOKED_AT)]
    known = np.unique(some[np.isfinite(some)])
    with np.errstate(over="ignore"):
        few = len(np.unique(known.astype("float32")))
    return len(known), len(known) if few > 0.99 * len(known) else few


def _kind(values: pd.Series[Any]) -> ColumnKind:
    from pandas.api import types

    inferred = types.infer_dtype(values, skipna=True)
    refused = {"timedelta64": "durations", "timedelta": "durations", "complex": "complex", "bytes": "bytes"}
    if inferred in refused or types.is_timedelta64_dtype(values):
        what = refused.get(inferred, "durations")
        raise DataError(f"data: column '{values.name}' holds {what}, which cannot be learned; {left_out(values.name)}")
    some = values if inferred == "mixed" else values.dropna().iloc[:1]
    held = next((one for one in some if isinstance(one, dict | list | tuple | set | frozenset | np.ndarray)), None)
    if held is not None:
        raise DataError(
            f"data: column '{values.name}' holds {type(held).__name__}; give each value a column, or "
            f"{left_out(values.name)}"
        )
    if isinstance(values.dtype, types.CategoricalDtype):
        return "string"
    if inferred == "boolean" or types.is_bool_dtype(values):
        return "boolean"
    if inferred == "integer" or types.is_integer_dtype(values):
        return "double" if values.isna().any() else "long"  # MLflow's whole numbers have no missing value
    numeric = types.is_float_dtype(values) or types.is_numeric_dtype(values)
    return "double" if inferred in _NUMBERS or numeric else "string"


def left_out(column: Any) -> str:
    """Return the words that leave a column out."""
    return f"use drop = [{json.dumps(str(column), ensure_ascii=False)}] in [data]"


def to_arrays(frame: pd.DataFrame, columns: Sequence[Column]) -> dict[str, NDArray[Any]] | NDArray[Any]:
    """Return a table as the model takes it; `serving` does the same with what it is sent.

    Returns:
        Numbers of shape (rows, numeric columns), float32, missing as NaN; with text columns a
        dictionary of that and texts of shape (rows, text columns), missing as an empty text.
    """
    known = [c for c in columns if c.numeric]
    texts = [c.name for c in columns if not c.numeric]
    numeric = np.empty((len(frame), len(known)), "float32")
    for index, column in enumerate(known):
        with np.errstate(over="ignore"):  # too large a number becomes infinite, which is told with its column
            numeric[:, index] = numbers(frame[column.name]) - column.center
    if not texts:
        return numeric
    categorical = frame[texts].astype("object").where(frame[texts].notna(), MISSING).map(spelt)
    arrays = {CATEGORICAL: categorical.to_numpy(dtype=object)}
    return {NUMERIC: numeric, **arrays} if known else arrays


def numbers(values: pd.Series[Any]) -> NDArray[Any]:
    """Return a column of numbers in double precision, missing ones as NaN."""
    values = values if values.dtype != object else values.where(values.notna(), np.nan)
    return np.asarray(values.to_numpy(dtype="float64", na_value=np.nan))


def raw(x: Any, columns: Sequence[Column]) -> Iterator[tuple[Column, NDArray[Any]]]:
    """Yield the columns of a table with their values as they were sent, from the arrays that the model takes."""
    arrays = x if isinstance(x, dict) else {NUMERIC: x}
    values = {kind: iter(array.T) for kind, array in arrays.items()}
    for column in columns:
        taken = next(values[NUMERIC if column.numeric else CATEGORICAL])
        yield column, taken.astype("float64") + column.center if column.center else taken


def gaps(x: Any, columns: Sequence[Column]) -> dict[str, NDArray[np.bool_]]:
    """Return by column of a table which rows have no value there."""
    return {c.name: np.isnan(v) if c.numeric else np.asarray(v == MISSING) for c, v in raw(x, columns)}


def named_inputs(x: Any) -> dict[str, Any]:
    """Return a model's inputs by name: those of a list by their places, a single one as `x`."""
    if isinstance(x, dict):
        return x
    return {f"input_{at}": array for at, array in enumerate(x)} if isinstance(x, list | tuple) else {"x": x}


def take(x: Any, rows: Any) -> Any:
    """Return these rows of an array or of each array of a dictionary or list; None stays None."""
    return optree.tree_map(lambda array: array[rows], x)


def joined(x: Any, more: Any) -> Any:
    """Return the rows of an array, or of each array of a dictionary or list, followed by those of another."""
    return optree.tree_map(lambda *both: np.concatenate(both), x, more)


def leaves(x: Any) -> list[Any]:
    """Return the arrays in `x`, those of a dictionary by their names' order; none in None."""
    return list(optree.tree_leaves(x))


@dataclass(frozen=True)
class Preparation:
    """What the preprocessing layers learnt from the training part.

    Attributes:
        table: Whether the arrays are the columns of a table, in which values may be missing.
        mean: Means of the numeric columns, or of an array's last axis; None to leave numbers alone.
        variance: Their variances.
        incomplete: Indices of numeric columns with missing values; each gets an indicator.
        vocabularies: The known texts of each text column.
    """

    table: bool = False
    mean: tuple[float, ...] | None = None
    variance: tuple[float, ...] | None = None
    incomplete: tuple[int, ...] = ()
    vocabularies: tuple[tuple[str, ...], ...] = ()


def fit_preparation(x: Any, *, table: bool, normalize: bool) -> Preparation:
    """Learn means, variances and vocabularies from the training part."""
    named = x if isinstance(x, dict) else {NUMERIC: x}
    texts = named.get(CATEGORICAL) if table else None
    vocabularies = () if texts is None else tuple(_vocabulary(column) for column in texts.T)
    numbers = named.get(NUMERIC) if table or not isinstance(x, dict) else None
    if not isinstance(numbers, np.ndarray) or not np.issubdtype(numbers.dtype, np.number):
        return Preparation(table, vocabularies=vocabularies)
    incomplete = tuple(int(i) for i in np.flatnonzero(np.isnan(numbers).any(axis=0))) if table else ()
    mean, variance = moments(numbers) if normalize else (None, None)
    return Preparation(table, mean, variance, incomplete, vocabularies)


def _vocabulary(texts: NDArray[Any]) -> tuple[str, ...]:
    """Return the most frequent texts of a column, sorted; never none at all, which Keras refuses."""
    counts = Counter(texts.tolist())
    known = sorted(set(counts) - {MISSING, _UNKNOWN}, key=lambda text: (-counts[text], text))
    return tuple(sorted(known[:_VOCABULARY])) or (_NONE,)


def moments(numbers: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and variance of each column, those of a column without values or spread as 0 and 1."""
    columns = numbers.reshape(-1, numbers.shape[-1])
    known = ~np.isnan(columns)
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.sum(columns, axis=0, where=known, dtype="float64") / counts
    square = np.zeros_like(mean)
    for start in range(0, len(columns), _CHUNK):  # the squares of all rows at once would not fit
        part = columns[start : start + _CHUNK].astype("float64") - mean
        square += np.sum(part * part, axis=0, where=known[start : start + _CHUNK])
    variance = square / counts
    spread = variance > (1e-7 * np.abs(mean)) ** 2  # less is the rounding of single precision
    return tuple(map(float, mean)), tuple(float(v) if s else 1.0 for v, s in zip(variance, spread, strict=True))


def make_inputs(x: Any, preparation: Preparation) -> tuple[Any, Any]:
    """Return the Keras inputs for arrays like `x`, and the tensor for the model's first layer.

    In a table, missing numbers become their column's mean (0 without normalisation), and set an
    indicator where the training part had missing ones too; unknown texts share a place in the
    one-hot encoding, missing ones have none.
    """
    if preparation.table and isinstance(x, dict):
        return _table_inputs(x, preparation)
    if isinstance(x, dict | list | tuple):
        several = _inputs(x)
        return several, several
    single = _input(x, "features")
    return single, single if single.dtype == "string" else _numbers(single, preparation)


def _inputs(x: Any, name: str | None = None) -> Any:
    if isinstance(x, dict):
        return {key: _inputs(inner, key) for key, inner in x.items()}
    if isinstance(x, list | tuple):
        return [_inputs(inner) for inner in x]
    return _input(x, name)


def _input(array: Any, name: str | None = None) -> Any:
    import keras

    kind = array.dtype.kind
    dtype = "float32" if kind == "f" else "string" if kind in "OSU" else str(array.dtype)
    return keras.Input(array.shape[1:], name=name, dtype=dtype)


def _table_inputs(x: dict[str, Any], preparation: Preparation) -> tuple[Any, Any]:
    import keras

    inputs = {name: _input(x[name], name) for name in (NUMERIC, CATEGORICAL) if name in x}
    parts = [_numbers(inputs[NUMERIC], preparation)] if NUMERIC in x else []
    for index, vocabulary in enumerate(preparation.vocabularies):
        lookup = keras.layers.StringLookup(
            vocabulary=list(vocabulary), mask_token=MISSING, oov_token=_UNKNOWN, output_mode="one_hot"
        )
        parts.append(lookup(inputs[CATEGORICAL][:, index : index + 1]))
    return inputs, keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]


def _numbers(numbers: Any, preparation: Preparation) -> Any:
    import keras

    prepared = keras.ops.cast(numbers, "float32") if numbers.dtype == "bool" else numbers
    if preparation.mean is not None:
        prepared = keras.layers.Normalization(
            mean=np.array(preparation.mean, "float32"), variance=np.array(preparation.variance, "float32")
        )(prepared)
    if not preparation.table:
        return prepared
    filled = keras.ops.nan_to_num(prepared)  # also where no value was missing in training
    if not preparation.incomplete:
        return filled
    missing = keras.ops.cast(keras.ops.isnan(numbers), "float32")
    indicators = keras.ops.take(missing, list(preparation.incomplete), axis=-1)
    return keras.layers.Concatenate()([filled, indicators])
