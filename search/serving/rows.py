"""Raw rows as a study's data function returns them, as the arrays that its Keras model takes."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

NUMERIC, CATEGORICAL = "numeric", "categorical"
MISSING = ""  # how a missing category is spelt in the categorical input
_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}


class Rows:
    """The rows that a model takes: a table's columns, or arrays.

    Args:
        described: What `search.json` says of the model.
    """

    def __init__(self, described: dict[str, Any]) -> None:
        self._described = described
        self._columns = [(name, kind) for name, kind in described["columns"]]

    def arrays(self, given: Any) -> Any:
        """Return rows as the Keras model takes them: an array, or arrays by name or in a list.

        Raises:
            ValueError: A column or input is missing or cannot be converted; the message names it.
        """
        return self._table(given) if self._columns else self._arrays(given)

    def _table(self, given: Any) -> Any:
        if isinstance(given, np.ndarray) and given.dtype.names is None:
            raise ValueError(f"the model takes columns by name ({', '.join(dict(self._columns))}); give a data frame")
        frame = _rows(_frame(given).rename(columns=str))
        self._check_columns(frame)
        numbers = [name for name, kind in self._columns if kind != "string"]
        texts = [name for name, kind in self._columns if kind == "string"]
        numeric = np.full((len(frame), len(numbers)), np.nan, "float32")
        for index, name in enumerate(numbers):
            if name in frame:
                center = self._described.get("centers", {}).get(name, 0.0)
                numeric[:, index] = _numbers(frame[name], dict(self._columns)[name], center)
        if not texts:
            return numeric
        categorical = np.full((len(frame), len(texts)), MISSING, object)
        for index, name in enumerate(texts):
            if name in frame:
                values = frame[name].astype("object").where(frame[name].notna(), MISSING)
                categorical[:, index] = [spelt(value) for value in values]
        arrays = {CATEGORICAL: categorical.astype("U")}
        return {NUMERIC: numeric, **arrays} if numbers else arrays

    def _check_columns(self, frame: Any) -> None:
        given, known = list(frame.columns), dict(self._columns)
        twin = next((name for name in known if given.count(name) > 1), None)
        if twin is not None:
            raise ValueError(f"column '{twin}' is given twice; give it once")
        needed = [name for name in known if name not in self._described.get("optional", [])]
        missing = [name for name in needed if name not in given]
        empty = [name for name in needed if name in given and len(frame) and frame[name].isna().all()]
        if missing or empty:
            spare = [name for name in given if name not in known]
            near = difflib.get_close_matches(missing[0], spare, n=1, cutoff=0.6) if missing else []
            hint = f"; is it '{near[0]}', misspelt?" if near else ""
            wrong, what = (missing, "is missing") if missing else (empty, "has no value in any row")
            others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise ValueError(f"column '{wrong[0]}'{others} {what}; the model was trained with it{hint}")

    def _arrays(self, given: Any) -> Any:
        import pandas as pd

        specs = self._described["inputs"]
        if len(specs) == 1 and specs[0]["name"] is None:
            if isinstance(given, pd.DataFrame):
                given = given.iloc[:, 0] if len(specs[0]["shape"]) == 1 else given.to_numpy()
            return _array(given, specs[0])
        if isinstance(given, pd.DataFrame):
            given = {str(name): given[name].tolist() for name in given}
        if not isinstance(given, dict):
            if not isinstance(given, list | tuple) or len(given) != len(specs):
                raise ValueError(f"the model takes {len(specs)} inputs: {', '.join(spec['name'] for spec in specs)}")
            given = {spec["name"]: values for spec, values in zip(specs, given, strict=True)}
        for spec in specs:
            if spec["name"] not in given:
                near = difflib.get_close_matches(spec["name"], list(map(str, given)), n=1, cutoff=0.6)
                hint = f"; is it '{near[0]}', misspelt?" if near else f"; given are {', '.join(map(str, given))}"
                raise ValueError(f"input '{spec['name']}' is missing{hint}")
        arrays = {spec["name"]: _array(given[spec["name"]], spec) for spec in specs}
        return list(arrays.values()) if self._described["listed"] else arrays


def _frame(given: Any) -> Any:
    """Return a table; a series or a dictionary of single values is one row."""
    import pandas as pd

    if isinstance(given, pd.Series):
        return given.to_frame().T
    if isinstance(given, dict) and all(
        isinstance(value, str) or not hasattr(value, "__len__") for value in given.values()
    ):
        return pd.DataFrame([given])
    return given if isinstance(given, pd.DataFrame) else pd.DataFrame(given)


def spelt(value: Any) -> str:
    """Return how a category is spelt: 1.0, of a column with gaps, as 1, and a date as in a file."""
    whole = isinstance(value, float | np.floating) and value == value // 1
    return str(int(value)) if whole else str(value).removesuffix(" 00:00:00")


def _rows(frame: Any) -> Any:
    """Return one row for each value: MLflow makes a single row of lists of columns that hold text alone."""
    if len(frame) == 1 and len(frame.columns) and all(isinstance(cell, list) for cell in frame.iloc[0]):
        return frame.explode(list(frame.columns), ignore_index=True)
    return frame


def _numbers(values: Any, kind: str, center: float) -> Any:
    """Return a column as float32, less its center; what is no number is refused with the column's name."""
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype if not values.isna().any() else "object")
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        if kind == "boolean":
            values = values.map(_truth, na_action="ignore")
        values = values.astype("object").where(values.notna(), np.nan)
    word = "true or false" if kind == "boolean" else "numbers"
    try:
        if values.dtype.kind == "c":
            raise TypeError
        numbers = values.astype("float64").to_numpy(dtype="float64", na_value=np.nan)
    except (ValueError, TypeError):
        wrong = next((value for value in values if not _is_number(value)), None)
        raise ValueError(f"column '{values.name}' holds {wrong!r}; the model was trained with {word} there") from None
    with np.errstate(over="ignore"):
        single = (numbers - center).astype("float32")
    beyond = np.isinf(single) if kind != "boolean" else ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
    if beyond.any():
        word = "finite numbers" if kind != "boolean" else word
        raise ValueError(
            f"column '{values.name}' holds {numbers[beyond][0]:g}; the model was trained with {word} there"
        )
    return single


def _truth(value: Any) -> Any:
    text = str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (ValueError, TypeError):
        return value is None
    return True


_KINDS = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "c": "complex numbers"}
_KINDS |= {"M": "dates", "m": "durations", "V": "records", "O": "mixed values"} | dict.fromkeys("UST", "text")


def kind_of(dtype: Any) -> str:
    """Return in words what an array of a dtype holds: `text` for `<U32`, `whole numbers` for `int64`."""
    return _KINDS.get(np.dtype(dtype).kind, "mixed values")


def _array(values: Any, spec: dict[str, Any]) -> Any:
    """Return an input in the model's own dtype; what would lose something is refused with the input's name."""
    name, dtype, shape = f"input '{spec['name']}'" if spec["name"] else "the input", spec["dtype"], spec["shape"]
    values = values.toarray() if hasattr(values, "toarray") else values
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: the rows have different shapes; the model takes {shape[1:]}") from None
    if np.dtype(dtype).kind in "OSU":
        array = np.asarray(array, object)
    elif array.dtype.kind not in "fiub" and array.dtype != object:
        raise ValueError(f"{name} holds {kind_of(array.dtype)}; the model takes {kind_of(dtype)}")
    else:
        try:
            converted = array.astype(dtype)
        except (ValueError, TypeError):
            raise ValueError(f"{name} holds values that are not numbers; the model takes {kind_of(dtype)}") from None
        if converted.dtype.kind in "iub" and array.dtype.kind in "fiuO" and not (converted == array).all():
            size = np.dtype(dtype).itemsize * 8
            raise ValueError(f"{name} holds other values than the model takes: {kind_of(dtype)} of {size} bits")
        array = converted
    fits = len(shape) == array.ndim and all(
        want in (-1, have) for want, have in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has rows of shape {array.shape[1:]}; the model takes {tuple(shape[1:])}")
    return array
