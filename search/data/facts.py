"""What a person is told of the data before anything trains: what they are, and what in them looks wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data import streams
from search.data.preprocessing import MISSING, NUMERIC, Column, leaves
from search.data.targets import numbers_as_text
from search.figures import plural

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from search.data.dataset import Data, Part

_LOOKED_AT = 20_000  # rows of a table
_FEWEST = 20  # rows in which a value that never repeats says something
_NEARLY = 0.95  # share of different values from which a column looks like an id
_SHOWN = 5  # classes, or columns with gaps, that are listed
_CORRELATED = 0.999999
_INDEX = "Unnamed: "  # how pandas names a column without a name


def facts(data: Data) -> str:
    """Return one line: rows, inputs, task, classes, missing values, and what the trivial answer scores."""
    parts = [("training", data.train), ("validation", data.validation), ("test", data.test)]
    if data.train.streamed:
        rows = "batches: " + ", ".join(_of_stream(name, part) for name, part in parts if part is not None)
    else:
        known = [(name, len(part)) for name, part in parts if part is not None]
        if data.folds and data.rest is not None:
            known = [(f"in {len(data.folds)} folds", len(data.rest)), known[-1]]
        rows = f"{sum(count for _, count in known)} rows ({', '.join(f'{count} {name}' for name, count in known)})"
    said = [rows, _inputs(data), f"task {data.task}{_shares(data)}", _missing(data), _trivial(data)]
    return "; ".join(each for each in said if each)


def _of_stream(name: str, part: Part) -> str:
    if not part.streamed:
        return f"{len(part)} {name} rows"
    count = streams.length(part.x)
    if count is not None:
        return f"{count} {name}"
    return f"{name} without end" if streams.is_endless(part.x) else f"{name} of unknown length"


def _inputs(data: Data) -> str:
    if data.columns:
        texts = sum(not column.numeric for column in data.columns)
        return f"{len(data.columns)} columns" + (f", {texts} of text" if texts else "")
    shape = data.input_shape
    return f"inputs of shape {shape}" if isinstance(shape, tuple) else f"{len(shape)} inputs"


def _shares(data: Data) -> str:
    if data.train.streamed or data.task not in ("binary", "multiclass") or data.y is None:
        return ""
    counts = np.bincount(data.class_indices(data.train), minlength=len(data.classes))
    share = counts / max(1, counts.sum())
    listed = ", ".join(f"{data.classes[at]}: {share[at]:.0%}" for at in range(min(_SHOWN, len(counts))))
    return f" with {len(counts)} classes ({listed}{', …' if len(counts) > _SHOWN else ''})"


def _missing(data: Data) -> str:
    if not data.columns:
        return ""
    arrays = data.x if isinstance(data.x, dict) else {NUMERIC: data.x}
    shares: dict[str, float] = {}
    for kind, values in arrays.items():
        names = [column.name for column in data.columns if column.numeric == (kind == NUMERIC)]
        gaps = np.isnan(values) if kind == NUMERIC else values == MISSING
        shares |= dict(zip(names, gaps.mean(axis=0).tolist(), strict=True))
    some = sorted(((share, name) for name, share in shares.items() if share), reverse=True)
    if not some:
        return "no missing values"
    listed = ", ".join(f"{name} {share:.1%}" for share, name in some[:_SHOWN])
    return f"missing values: {listed}{', …' if len(some) > _SHOWN else ''}"


def _trivial(data: Data) -> str:
    """Return what the same answer for every row scores on the validation part."""
    held_out = data.validation
    if held_out is None or held_out.streamed or data.train.streamed or not isinstance(data.y, np.ndarray):
        return ""
    if data.task in ("binary", "multiclass") and data.classes:
        most = int(np.bincount(data.class_indices(data.train), minlength=len(data.classes)).argmax())
        right = float((data.class_indices(held_out) == most).mean())
        return f"answering '{data.classes[most]}' always has accuracy {right:.3g}"
    if data.task == "regression" and data.y.dtype.kind in "fiu" and data.y.ndim <= 2:
        error = np.asarray(held_out.y, "float64") - np.asarray(data.y, "float64").mean(axis=0)
        return f"answering the mean always has squared error {float((error**2).mean()):.4g}"
    return ""


def doubts(frame: pd.DataFrame, columns: Sequence[Column], y: Any) -> tuple[str, ...]:
    """Return what in a table looks wrong, each with the line of the study file that mends it.

    Args:
        frame: The columns to learn from, as they were read.
        columns: Their kinds.
        y: The targets, first axis the rows.
    """
    few = frame.iloc[:_LOOKED_AT]
    target = y[:_LOOKED_AT] if isinstance(y, np.ndarray) and y.ndim == 1 and _is_whole(y) else None
    found: list[str] = []
    for column in columns:
        values = few[column.name]
        known = values.dropna()
        about = next(iter(_of_column(column, known)), "")
        if not about and target is not None and len(known) == len(values) >= _FEWEST:
            with np.errstate(all="ignore"):
                about = _giveaway(column.name, values, target)
        if about:
            found.append(f"column '{column.name}' {about}")
    return tuple(found)


def doubts_of_arrays(x: Any) -> tuple[str, ...]:
    """Return why a loss of arrays would be NaN, unless the user's own model expects such values."""
    found: list[str] = []
    for leaf in leaves(x):
        if leaf.dtype.kind != "f" or not leaf.size:
            continue
        missing = int(np.isnan(leaf).reshape(len(leaf), -1).any(axis=1).sum())
        if missing:
            found.append(f"x has missing values in {plural(missing, 'row')}; fill them, or return a data frame")
        if leaf.dtype.itemsize > 4 and np.nanmax(np.abs(leaf), initial=0.0) > np.finfo("float32").max:
            found.append("x has values beyond single precision; scale them down")
    return tuple(dict.fromkeys(found))


def _is_whole(y: NDArray[Any]) -> bool:
    """Return whether no target is missing or infinite; what is wrong with others is told elsewhere."""
    return y.dtype.kind in "iubSU" or (y.dtype.kind == "f" and bool(np.isfinite(y).all())) or y.dtype == object


def _of_column(column: Column, known: pd.Series[Any]) -> Iterator[str]:
    drop = f"drop = [{json.dumps(column.name, ensure_ascii=False)}] in [data]"
    many = len(known) >= _FEWEST
    different = known.nunique() / max(1, len(known)) if column.kind in ("string", "long") else 0.0
    if column.name.startswith(_INDEX):
        yield f"has no name: it looks like the index of a saved table; use options = {{ index_col = 0 }}, or {drop}"
    if column.kind == "string":
        numbers, mended = numbers_as_text(known.tolist())
        if numbers:
            yield f"holds {numbers}, and each would be a category; {mended}"
        if many and _are_dates(known):
            yield (
                f"holds dates as text, such as '{known.iloc[0]}', and each would be a category; use "
                f"time = {json.dumps(column.name, ensure_ascii=False)} to split by it, or {drop}"
            )
        if many and different > _NEARLY:
            yield f"has a new text in nearly every row: it looks like an id; use {drop}"
    elif column.kind == "long" and many and different == 1.0:
        yield f"has a new whole number in every row: it looks like an id or an index; use {drop}"


def _are_dates(known: pd.Series[Any]) -> bool:
    import warnings

    import pandas as pd

    some = known.iloc[:200].astype(str)
    if not some.str.contains(r"\d[-/. :]\d").all():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(pd.to_datetime(some, errors="coerce", format="mixed").notna().all())


def _giveaway(name: str, values: pd.Series[Any], y: NDArray[Any]) -> str:
    """Return what to say of a column that alone predicts the target; nothing for others."""
    drop = f"use drop = [{json.dumps(name, ensure_ascii=False)}] in [data] if it is not known when predicting"
    numbers = values.to_numpy() if values.dtype.kind in "fiub" else None
    targets, index = np.unique(y.astype(str) if y.dtype == object else y, return_inverse=True)
    if numbers is not None and y.dtype.kind in "fiu" and len(targets) > 2:
        spread = float(np.std(numbers.astype("float64"))) * float(np.std(y.astype("float64")))
        alike = spread > 0 and abs(float(np.corrcoef(numbers.astype("float64"), y.astype("float64"))[0, 1]))
        return f"alone predicts the target (correlation {alike:.6f}); {drop}" if alike > _CORRELATED else ""
    if len(targets) < 2 or len(targets) > _FEWEST:
        return ""
    groups, of_group = np.unique(values.astype(str) if numbers is None else numbers, return_inverse=True)
    if len(groups) <= min(100, len(y) // 5):
        table = np.zeros((len(groups), len(targets)), bool)
        table[of_group, index] = True
        return f"alone predicts the target; {drop}" if (table.sum(axis=1) == 1).all() else ""
    if numbers is None or len(targets) != 2:
        return ""
    low, high = (numbers[index == at] for at in (0, 1))
    apart = low.max() < high.min() or high.max() < low.min()
    return f"alone predicts the target: its values of the two classes do not overlap; {drop}" if apart else ""
