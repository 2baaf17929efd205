"""Where data come from: scikit-learn, files, and the user's own Python. It reads, and judges nothing it read."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import DataError, ModelError, UsageError, did_you_mean, one_line
from search.studyfile.references import load_object
from search.studyfile.schema import Definition


def read(definition: Definition) -> Any:
    """Return what the study's source gives: arrays, tables or streams, not yet checked.

    Raises:
        DataError: The source cannot be read or called.
    """
    source = definition.data.source
    try:
        return _READERS[definition.data.kind](definition)
    except UsageError:
        raise
    except Exception as error:  # the user's own function may raise anything
        raise DataError(f"data.source: {source} cannot be loaded ({one_line(error)}); check it and its options") from (
            error
        )


def _read_sklearn(definition: Definition) -> Any:
    from sklearn import datasets

    settings = definition.data
    name = settings.source.partition(":")[2]
    known = [each for each in dir(datasets) if each.startswith(("load_", "make_", "fetch_"))]
    if name not in known:
        raise DataError(f"data.source: scikit-learn has no '{name}'{did_you_mean(name, known)}")
    function, options = getattr(datasets, name), dict(settings.options)
    if name.startswith("make_") and "random_state" in inspect.signature(function).parameters:
        options.setdefault("random_state", settings.seed)  # every worker makes the same data
    loaded = _call(function, options)
    if isinstance(loaded, dict) and settings.target and loaded.get("frame") is not None:
        return loaded["frame"]
    if isinstance(loaded, dict) and {"data", "target"} <= set(loaded):  # a Bunch, of arrays or of a data frame
        return loaded["data"], loaded["target"]
    if not isinstance(loaded, tuple) or len(loaded) < 2:
        raise DataError(f"data.source: scikit-learn's '{name}' gives no inputs with a target; use another loader")
    return loaded[0], loaded[1]


def _read_csv(definition: Definition) -> Any:
    import pandas as pd

    return _call(pd.read_csv, definition.data.options, _path(definition))


def _read_parquet(definition: Definition) -> Any:
    import pandas as pd

    if importlib.util.find_spec("pyarrow") is None:
        raise DataError("data.source: parquet needs pyarrow; pip install 'search[parquet]'")
    return _call(pd.read_parquet, definition.data.options, _path(definition))


def _read_npz(definition: Definition) -> Any:
    options = definition.data.options
    for option in options:
        if option not in ("x", "y"):
            raise DataError(f"data.options: no option '{option}'; an npz file takes x and y, the arrays' names")
    names = {"x": "x", "y": "y", **options}
    with np.load(_path(definition)) as arrays:
        if not options and {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
            return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
        for name in names.values():
            if name not in arrays:
                raise DataError(
                    f"data.source: {definition.data.source} has no array '{name}' (it has {', '.join(arrays)}); "
                    f"name arrays x and y, or say options = {{ x = …, y = … }}{did_you_mean(str(name), arrays)}"
                )
        return arrays[names["x"]], arrays[names["y"]]


def _read_python(definition: Definition) -> Any:
    try:
        function = load_object(definition.data.source, definition.folder, "data.source")
    except ModelError as error:
        raise DataError(str(error)) from error
    if not callable(function):
        raise DataError(f"data.source: {definition.data.source} is {type(function).__name__}; name a function")
    return _call(function, definition.data.options)


_READERS: dict[str, Callable[[Definition], Any]] = {
    "sklearn": _read_sklearn,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "npz": _read_npz,
    "python": _read_python,
}


def _path(definition: Definition) -> Path:
    return definition.folder / definition.data.source.partition(":")[2]


def _call(function: Callable[..., Any], options: dict[str, Any], *args: Any) -> Any:
    """Call with the study file's options, once they are known to fit the signature."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        known = list(signature.parameters)
        hints = "".join(did_you_mean(option, known) for option in options if option not in known)
        raise DataError(f"data.options: {function.__name__}: {error}{hints}") from None
    return function(*args, **options)
