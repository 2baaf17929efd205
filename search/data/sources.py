"""Where data come from: scikit-learn, files, and the user's own Python. It reads, and judges nothing it read."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna

from search.data import files
from search.errors import DataError, ModelError, UsageError, did_you_mean, one_line
from search.studyfile.references import load_object
from search.studyfile.registry import parted
from search.studyfile.schema import Definition

_TRIAL = "trial"  # a data function that takes a parameter of this name is called for each trial


def read(definition: Definition, trial: Any = None) -> Any:
    """Return what the study's source gives: arrays, tables or streams, not yet checked.

    Args:
        definition: The study file.
        trial: What a data function is called with that takes a trial or parameters of `[space]`.

    Raises:
        DataError: The source cannot be read or called.
    """
    source = definition.data.source
    try:
        if definition.data.kind == "python":
            _seed(definition.data.seed)
        if trial is not None:
            return _call(function_of(definition), {**definition.data.options, **taken(definition, trial)})
        return load_object(definition.data.reader.reader, definition.folder, "data.source")(definition)
    except (UsageError, optuna.TrialPruned):
        raise
    except (Exception, SystemExit) as error:  # the user's own function may raise anything
        raise DataError(f"data.source: {source} cannot be loaded ({one_line(error)}); check it and its options") from (
            error
        )


def _seed(seed: int) -> None:
    """Seed what the user's function may draw from without saying so: every worker and search gets the same data."""
    import keras

    keras.utils.set_random_seed(seed)


def read_sklearn(definition: Definition) -> Any:
    """Return what a loader or maker of scikit-learn gives."""
    from sklearn import datasets

    settings = definition.data
    name = settings.source.partition(":")[2]
    known = [function for function in dir(datasets) if function.startswith(("load_", "make_", "fetch_"))]
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


def read_csv(definition: Definition) -> Any:
    """Return a CSV file's table."""
    import pandas as pd

    path, settings = _path(definition), definition.data
    _check_call(pd.read_csv, settings.options, path)
    form = files.Form(
        settings.kind, settings.options, wanted=(*settings.targets, *(settings.features or ()), *settings.drop)
    )
    try:
        chosen = {"sep", "delimiter"} & set(settings.options)
        options = dict(settings.options) if chosen else files.csv_options(path, form)
        return pd.read_csv(path, **options, **_whole(options))
    except pd.errors.EmptyDataError:
        raise DataError(f"data.source: {settings.source} has no rows") from None
    except UnicodeDecodeError as error:
        found = files.encoding_of(path, form)
        if not found:
            raise
        mended = f"use options = {{ encoding = {json.dumps(found)} }}"
        raise DataError(f"data.source: {settings.source} is not written in {error.encoding}; {mended}") from None


def _whole(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option by which pandas gives a column one type, not one for each part of a large file."""
    mark = options.get("sep", options.get("delimiter", ","))
    by_c = isinstance(mark, str) and len(mark) == 1 and f"{mark}{options.get('quotechar', '')}".isascii()
    by_c = by_c and not {"engine", "skipfooter", "low_memory"} & options.keys()
    return {"low_memory": False} if by_c else {}


def read_parquet(definition: Definition) -> Any:
    """Return a Parquet file's table."""
    import pandas as pd

    if importlib.util.find_spec("pyarrow") is None:
        raise DataError("data.source: parquet needs pyarrow; pip install 'search[parquet]'")
    return _call(pd.read_parquet, definition.data.options, _path(definition))


def read_npz(definition: Definition) -> Any:
    """Return the arrays of an NPZ file."""
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


def reads_trial(definition: Definition) -> bool:
    """Return whether the data function is called for each trial: it takes `trial`, or parameters of `[space]`."""
    return bool(_wanted(definition))


def parameters_read(definition: Definition) -> tuple[str, ...]:
    """Return the parameters of `[space]` that the data function takes by name."""
    return tuple(name for name in _wanted(definition) if name != _TRIAL)


def _wanted(definition: Definition) -> list[str]:
    """Return what a data function takes of a trial, by name; nothing for sources that are no function of the user's."""
    if definition.data.kind != "python":
        return []
    try:
        parameters = inspect.signature(function_of(definition)).parameters
    except ValueError:  # a builtin without a signature
        return []
    given = definition.data.options
    return [name for name in parameters if name not in given and (name == _TRIAL or name in definition.space)]


def taken(definition: Definition, trial: Any) -> dict[str, Any]:
    """Return what the data function takes of a trial."""
    return {wanted: trial if wanted == _TRIAL else trial.params[wanted] for wanted in _wanted(definition)}


def code_digest(definition: Definition) -> str:
    """Return eight hexadecimal digits of the data function's file: what is known of streams made for each trial."""
    file = definition.folder / parted(definition.data.source)[0]
    content = file.read_bytes() if file.is_file() else definition.data.source.encode()
    return hashlib.sha256(content).hexdigest()[:8]


def read_python(definition: Definition) -> Any:
    """Return what the user's function gives."""
    return _call(function_of(definition), definition.data.options)


def function_of(definition: Definition) -> Callable[..., Any]:
    """Return the data function that the study file names.

    Raises:
        DataError: It cannot be imported, or is no function.
    """
    try:
        function = load_object(definition.data.source, definition.folder, "data.source")
    except ModelError as error:
        raise DataError(str(error)) from error
    if not callable(function):
        raise DataError(f"data.source: {definition.data.source} is {type(function).__name__}; name a function")
    return cast("Callable[..., Any]", function)


def _path(definition: Definition) -> Path:
    return cast("Path", definition.data_file)  # its readers are those of files


def _call(function: Callable[..., Any], options: dict[str, Any], *args: Any) -> Any:
    """Call with the study file's options, once they are known to fit the signature."""
    _check_call(function, options, *args)
    return function(*args, **options)


def _check_call(function: Callable[..., Any], options: dict[str, Any], *args: Any) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise DataError("data.source: its parameters cannot be read; name a Python function") from None
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        known = list(signature.parameters)
        hints = "".join(did_you_mean(option, known) for option in options if option not in known)
        raise DataError(f"data.options: {function.__name__}: {error}{hints}") from None
