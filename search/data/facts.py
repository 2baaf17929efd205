"""What a person is told of the data before anything trains: what they are, and what in them looks wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data import preprocessing as features
from search.data import streams
from search.data.preprocessing import Column, gaps, leaves, left_out, numbers, told_apart
from search.data.targets import Targets, numbers_as_text
from search.figures import plural
from search.serving.rows import spelt

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from search.data.dataset import Data, Part
    from search.data.splits import Parts

_LOOKED_AT = 20_000  # rows of a table
_FEWEST = 20  # rows in which a value that never repeats says something
_NEARLY = 0.95  # share of different values from which a column looks like an id
_MOST_FEATURES = 1000  # of an array, that are looked at
_HEAVY = 1.5  # times the median that the mean of a heavy-tailed target is
_SHOWN = 5  # classes, or columns with gaps, that are listed
_CORRELATED = 0.999999
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = rf"\d[-/. :]\d|\d.*\b(?i:{_MONTHS})|\b(?i:{_MONTHS})[a-z]*\b.*\d"
_PERIOD = r"\d{4}[- ]?(W\d\d|Q[1-4])"  # a week or a quarter
_INDEX = "Unnamed: "  # how pandas names a column without a name


def facts(data: Data) -> str:
    """Return one line: rows, inputs, task, classes, missing values."""
    parts = [("training", data.train), ("validation", data.validation), ("test", data.test)]
    if data.train.streamed:
        rows = "batches: " + ", ".join(_of_stream(name, part) for name, part in parts if part is not None)
    else:
        known = [(name, len(part)) for name, part in parts if part is not None]
        if data.folds and data.rest is not None:
            known = [(f"in {len(data.folds)} folds", len(data.rest)), known[-1]]
        rows = f"{sum(count for _, count in known)} rows ({', '.join(f'{count} {name}' for name, count in known)})"
    said = [rows, _inputs(data), f"task {data.task}{_shares(data)}", _missing(data)]
    return "; ".join(part for part in said if part)


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
    shares = ((float(gap.mean()), name) for name, gap in gaps(data.x, data.columns).items())
    some = sorted((share for share in shares if share[0]), reverse=True)
    if not some:
        return "no missing values"
    listed = ", ".join(f"{name} {share:.1%}" for share, name in some[:_SHOWN])
    return f"missing values: {listed}{', …' if len(some) > _SHOWN else ''}"


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
        if not about and target is not None and len(known) >= max(_FEWEST, len(values) / 2):
            with np.errstate(all="ignore"):
                about = _giveaway(column.name, known, target[values.notna().to_numpy()])
        if not about and column.numeric:
            about = _merging(numbers(values) - column.center)
        if about:
            found.append(f"column '{column.name}' {about}")
    return tuple(found)


def _merging(values: NDArray[Any]) -> str:
    """Return what to say of numbers that single precision does not tell apart; nothing of others."""
    many, few = told_apart(values)
    if few == many:
        return ""
    return f"has {many} different values, of which single precision tells {few} apart; subtract a fixed value from them"


def merging(x: Any) -> tuple[str, ...]:
    """Return which numbers in arrays single precision does not tell apart."""
    found = []
    for leaf in leaves(x):
        if not leaf.size:  # what is wrong with it is told elsewhere
            continue
        some = leaf[:: max(1, len(leaf) // _LOOKED_AT)]
        some = some.reshape(len(some), -1)
        if leaf.dtype.kind in "fiu" and leaf.dtype.itemsize > 2 and some.shape[1] <= _MOST_FEATURES:
            told = [(at, _merging(some[:, at])) for at in range(some.shape[1])]
            found += [f"x[:, {at}] {about} in the data function, or return a data frame" for at, about in told if about]
    return tuple(found[:_SHOWN])


def of_targets(goal: Targets, given: Any, chosen: Parts) -> Iterator[str]:
    """Yield what in the targets looks wrong for learning or measuring."""
    for name, rows in (("validation", chosen.validation), ("test", chosen.test)):
        one = one_valued(goal.task, features.take(goal.y, rows), goal.classes)
        if one:
            yield f"{one} in the {name} part, where AUC and the like are NaN; give more rows"
    yield from _of_numbers(goal, given)


def one_valued(task: str, y: Any, classes: Sequence[Any]) -> str:
    """Return which labels, or that the class, has one value in some rows; nothing when each has two."""
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "fiub" or not len(y):
        return ""
    if task == "multilabel" and y.ndim == 2:
        one = [str(classes[at]) for at in np.flatnonzero(np.ptp(y.astype(int), axis=0) == 0).tolist()]
        return f"label {', '.join(one[:_SHOWN])}{', …' * (len(one) > _SHOWN)} has one value" if one else ""
    return "every row is of one class" if task in ("binary", "multiclass") and (y == y[0]).all() else ""


def _of_numbers(goal: Targets, given: Any) -> Iterator[str]:
    if goal.task == "regression" and isinstance(given, np.ndarray) and given.dtype.kind in "fiu" and given.size:
        columns = given.reshape(len(given), -1)[:, :_MOST_FEATURES]
        about = next(filter(None, (_merging(column) for column in columns.T)), "")
        if about:
            yield f"the target {about}"
        middle, mean = float(np.median(columns)), float(columns.mean())
        if given.ndim == 1 and given.min() > 0 and mean > _HEAVY * middle:
            most = f"median {middle:.4g}, mean {mean:.4g}, largest {float(columns.max()):.4g}"
            yield (
                f"the target is heavy-tailed ({most}): the squared error is that of few rows; choose by "
                'metric = "val_mae", or give its logarithm as the target'
            )


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
    drop = left_out(column.name).removeprefix("use ")
    many = len(known) >= _FEWEST
    whole = column.kind == "long" or (column.kind == "double" and _is_whole_number(known))
    different = known.nunique() / max(1, len(known)) if column.kind == "string" or whole else 0.0
    if column.name.startswith(_INDEX):
        yield f"has no name: it looks like the index of a saved table; use options = {{ index_col = 0 }}, or {drop}"
    if column.kind == "string":
        numbers = numbers_as_text(known.tolist())
        if numbers:
            yield f"holds {numbers}; each would be a category"
        if many and _are_dates(known):
            yield (
                f"holds dates, such as '{spelt(known.iloc[0])}', and each would be a category; use "
                f"time = {json.dumps(column.name, ensure_ascii=False)} to split by it, or {drop}"
            )
        if many and different > _NEARLY:
            yield f"has a new text in nearly every row: it looks like an id; use {drop}"
    elif whole and many and different == 1.0:
        yield f"has a new whole number in every row: it looks like an id or an index; use {drop}"
    elif column.kind == "long" and many and known.between(19000101, 21001231).all() and _are_dates(known, "%Y%m%d"):
        yield f"holds days as whole numbers, such as {known.iloc[0]}, whose distances are none; use {drop}"


def _is_whole_number(known: pd.Series[Any]) -> bool:
    """Return whether numbers are whole: a gap makes pandas keep an id as 1001.0."""
    numbers = known.to_numpy(dtype="float64")
    return bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())


def _are_dates(known: pd.Series[Any], form: str = "mixed") -> bool:
    """Return whether texts, or numbers of a given form, are dates, weeks or quarters."""
    import warnings

    import pandas as pd

    some = known.iloc[:200].astype(str)
    if some.str.fullmatch(_PERIOD).all():
        return True
    if form == "mixed" and not some.str.contains(_DATE).all():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(pd.to_datetime(some, errors="coerce", format=form).notna().all())


def _giveaway(name: str, values: pd.Series[Any], y: NDArray[Any]) -> str:
    """Return what to say of a column that alone predicts the target; nothing for others."""
    import pandas as pd

    drop = f"{left_out(name)} if it is not known when predicting"
    numbers = values.to_numpy() if values.dtype.kind in "fiub" else None
    targets, index = np.unique(y.astype(str) if y.dtype == object else y, return_inverse=True)
    if numbers is not None and y.dtype.kind in "fiu" and len(targets) > 2:
        one, other = values.astype("float64"), pd.Series(y, values.index, "float64")
        pairs = {"correlation": (one, other), "correlation of ranks": (one.rank(), other.rank())}
        for of_what, pair in pairs.items():
            found = abs(pair[0].corr(pair[1]))
            if found > _CORRELATED:
                return f"alone predicts the target ({of_what} {found:.6f}); {drop}"
    if len(targets) < 2 or len(targets) > _FEWEST:
        return ""
    groups, of_group = np.unique(values.astype(str) if numbers is None else numbers, return_inverse=True)
    if len(groups) <= min(100, len(y) // 5):
        table = np.zeros((len(groups), len(targets)), bool)
        table[of_group, index] = True
        return f"alone predicts the target; {drop}" if (table.sum(axis=1) == 1).all() else ""
    if numbers is None:
        return ""
    ranges = sorted((numbers[index == at].min(), numbers[index == at].max()) for at in range(len(targets)))
    apart = all(one[1] < other[0] for one, other in itertools.pairwise(ranges))
    return f"alone predicts the target: its values of the classes do not overlap; {drop}" if apart else ""
