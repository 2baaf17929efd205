"""Rows of a file that two versions are compared on, with their targets as the models know them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.outputs import row_losses, sliced
from search.comparison.predictions import ONLY, About, Predictions
from search.data import files, targets
from search.data.files import Form
from search.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FreshRows:
    """Rows of a file.

    Attributes:
        inputs: A data frame, an array or arrays by name, as the served model takes them.
        target: Class indices or numbers.
        group: The group of each row; None where rows are independent.
        slices: Each row's value in the columns that cut the rows into few parts.
        name: The file.
    """

    inputs: Any
    target: NDArray[Any]
    group: NDArray[Any] | None
    slices: dict[str, NDArray[Any]]
    name: str


def read(path: Path, about: About, form: Form) -> FreshRows:
    """Read rows with targets from a CSV, Parquet or NPZ file.

    Args:
        path: The file; an NPZ file has arrays x and y, or y and the model's inputs by name.
        about: What the versions predict: the target's columns and classes.
        form: How it is written.

    Raises:
        DataError: The file cannot be read or has no such columns.
    """
    rows = _arrays(path, about, form) if path.suffix.lower() == ".npz" else _table(path, about, form)
    if len(rows.target) == 0:
        raise DataError(f"--data {path}: it has no rows")
    if rows.target.dtype.kind == "f" and not np.isfinite(rows.target).all():
        raise DataError(f"--data {path}: the target has values that are missing or not finite; leave those rows out")
    return rows


def _table(path: Path, about: About, form: Form) -> FreshRows:
    wanted = (*form.wanted, *about.target)
    frame = files.table(path, replace(form, wanted=wanted), "--data").rename(columns=str)
    if not about.target:
        raise DataError(f"--data {path}: the study's data are arrays; give an NPZ file with arrays x and y")
    known = list(frame.columns)
    for name in (*about.target, *filter(None, [about.group])):
        if name not in known:
            raise DataError(
                f"--data {path}: no column '{name}' (it has {', '.join(known[:30])}){did_you_mean(name, known)}"
            )
    chosen = frame[about.target[0]] if len(about.target) == 1 else frame[list(about.target)]
    group = frame[about.group].astype(str).to_numpy(dtype=str) if about.group else None
    cut = {name: found for name in known if (found := sliced(_values(frame[name]))) is not None}
    inputs = frame.drop(columns=list(about.target))
    return FreshRows(inputs, _indices(targets.plain(chosen), about, path), group, cut, path.name)


def _values(column: pd.Series[Any]) -> NDArray[Any]:
    from pandas.api import types

    if types.is_numeric_dtype(column) and not types.is_bool_dtype(column):
        return np.asarray(column.to_numpy("float64", na_value=np.nan))
    return np.asarray(column.astype(str).to_numpy(dtype=str))


def _arrays(path: Path, about: About, form: Form) -> FreshRows:
    with files.telling(path, form, "--data"):
        arrays = files.arrays(path, form)
    y = arrays.pop("y", None)
    if y is None or not arrays:
        have = ", ".join([*arrays, *([] if y is None else ["y"])]) or "none"
        raise DataError(f"--data {path}: no array '{'x' if y is not None else 'y'}' (it has {have})")
    lengths = {name: len(each) if each.ndim else 0 for name, each in arrays.items()}
    wrong = next((name for name, length in lengths.items() if length != len(np.atleast_1d(y))), None)
    if wrong is not None:
        raise DataError(f"--data {path}: array '{wrong}' has {lengths[wrong]} rows, y has {len(np.atleast_1d(y))}")
    inputs = arrays.get("x", arrays)
    return FreshRows(inputs, _indices(targets.plain(y), about, path), None, {}, path.name)


def _indices(y: NDArray[Any], about: About, path: Path) -> NDArray[Any]:
    """Return labels as class indices; numbers and labels of several columns as they are."""
    if about.task not in ("binary", "multiclass") or y.ndim != 1:
        try:
            return y.astype("float32")
        except (ValueError, TypeError):
            raise DataError(f"--data {path}: the target holds values that are no numbers") from None
    places = {label: index for index, label in enumerate(about.classes)}
    texts = [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in y.tolist()]
    unknown = sorted({each for each in texts if each not in places})
    if unknown:
        raise DataError(
            f"--data {path}: class '{unknown[0]}' in the target; the model knows {', '.join(about.classes[:20])}"
        )
    return np.asarray([places[each] for each in texts], "int32")


def predictions(rows: FreshRows, output: NDArray[Any], kept: Predictions) -> Predictions:
    """Return outputs for fresh rows as predictions, with what was kept of the model's own.

    Args:
        output: What the model gave for them.
        kept: The predictions that the version was registered with.
    """
    one_hot = kept.about.task in ("binary", "multiclass") and rows.target.ndim == 2 and rows.target.shape[1] > 1
    if one_hot and kept.target is not None and kept.target.ndim == 1:  # what the model learned
        rows = replace(rows, target=rows.target.argmax(axis=1))
    loss = _losses(kept.about, rows.target, output)
    return replace(
        kept,
        about=replace(kept.about, digest=rows.name, metrics=kept.about.metrics),
        rows=np.arange(len(rows.target)),
        targets={ONLY: rows.target},
        outputs={ONLY: output},
        loss=loss,
        weight=None,
        group=rows.group,
        baseline_loss=None
        if ONLY not in kept.baseline
        else _losses(kept.about, rows.target, np.broadcast_to(kept.baseline[ONLY], output.shape)),
        slices=rows.slices,
        inputs={},
    )


def _losses(about: About, y: NDArray[Any], output: NDArray[Any]) -> NDArray[Any] | None:
    import keras

    if not about.loss:
        return None
    spec = json.loads(about.loss)
    try:
        loss = spec if isinstance(spec, str) else keras.losses.deserialize(spec)
        hot = "Categorical" in str(type(loss).__name__) or loss == "categorical_crossentropy"
        sparse = "Sparse" in type(loss).__name__
        if y.ndim == 1 and output.ndim == 2 and output.shape[1] > 1 and hot and not sparse:
            y = np.eye(output.shape[1], dtype="float32")[y]
        return row_losses(loss, y, output)
    except (ValueError, TypeError):  # a loss of the user's own, whose code is not here
        return None
