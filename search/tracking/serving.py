"""Loads a registered model for `mlflow.pyfunc`. Copied into every logged model, so it stands alone.

A model logged by `search` needs TensorFlow, Keras and NumPy to be served, never `search` itself. The user's
modules are imported under a name of their own for each version, and what they register with Keras is seen by
that version alone: two versions in one process never share a layer.
"""

from __future__ import annotations

import builtins
import difflib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np

NUMERIC, CATEGORICAL, MISSING = "numeric", "categorical", ""
CODE = "user_code"
OBJECTS = "objects.pickle"  # in it: what a program without files registered with Keras
_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}
_MOST_ROWS, _BATCH_BYTES = 1024, 2**20  # of a batch
_lock = threading.RLock()


class Predictor:
    """A Keras model behind the raw columns or arrays that its study was trained on.

    Args:
        model: The Keras model.
        described: What `search.json` says of it: `columns` (name and kind of each column of a table), `optional`
            (columns that may be missing), `inputs` and `outputs` (name, dtype, shape), `task`, `classes`.
    """

    def __init__(self, model: Any, described: dict[str, Any]) -> None:
        self._model, self._described = model, described
        self._columns = [(name, kind) for name, kind in described["columns"]]

    def get_raw_model(self) -> Any:
        """Return the Keras model itself."""
        return self._model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return predictions for a data frame, an array, a list, or a dictionary or list of arrays.

        Args:
            model_input: Rows as the study's data function returns them.
            params: `output` is `raw` (what the model gives), `label` (the most probable class) or
                `probability` (one column for each class).

        Returns:
            An array of shape (rows, outputs); a dictionary of arrays for several outputs.

        Raises:
            ValueError: A column or input is missing or cannot be converted; the message names it.
        """
        wanted = (params or {}).get("output", "raw")
        if wanted not in ("raw", "label", "probability"):
            raise ValueError(f"output '{wanted}': use 'raw', 'label' or 'probability'")
        arrays = self.arrays(model_input)
        if not all(map(len, _leaves(arrays))):
            raise ValueError("no rows are given; give at least one")
        predicted = self.outputs(arrays)
        return predicted if wanted == "raw" else self._classified(predicted, wanted)

    def arrays(self, model_input: Any) -> Any:
        """Return rows as the Keras model takes them: an array, or arrays by name or in a list.

        Raises:
            ValueError: A column or input is missing or cannot be converted; the message names it.
        """
        return self._table(model_input) if self._columns else self._arrays(model_input)

    def outputs(self, arrays: Any) -> Any:
        """Return what the model gives for arrays as `arrays` returns them."""
        return self._named(self._model.predict(_tensors(arrays), batch_size=_batch(arrays), verbose=0))

    def _named(self, predicted: Any) -> Any:
        """Return several outputs by name, each as NumPy knows it."""
        if isinstance(predicted, list | tuple):
            names = [each["name"] for each in self._described["outputs"]]
            predicted = dict(zip(names, predicted, strict=True))
        if isinstance(predicted, dict):
            return {name: _plain(each) for name, each in predicted.items()}
        return _plain(predicted)

    def _classified(self, predicted: Any, wanted: str) -> Any:
        task, classes = self._described["task"], self._described["classes"]
        if isinstance(predicted, dict) or task not in ("binary", "multiclass", "multilabel"):
            what = "several outputs" if isinstance(predicted, dict) else "no classes"
            raise ValueError(f"output '{wanted}': the model has {what}; use 'raw'")
        if task != "multilabel" and predicted.shape[-1] not in (1, len(classes)):  # as of a part that was exported
            raise ValueError(f"output '{wanted}': the model gives {predicted.shape[-1]} numbers, no classes; use 'raw'")
        last = getattr(self._model.layers[-1], "activation", None) if self._model.layers else None
        logits = getattr(last, "__name__", "") == "linear"
        single = task != "multilabel" and predicted.shape[-1] == 1
        if wanted == "label" and task == "multilabel":
            return (predicted > (0.0 if logits else 0.5)).astype("int64")
        if wanted == "label":
            first = predicted[..., 0] > (0.0 if logits else 0.5) if single else None
            index = first.astype("int64") if first is not None else predicted.argmax(axis=-1)
            return np.asarray(classes)[index]
        if logits:
            predicted = _sigmoid(predicted) if single or task == "multilabel" else _softmax(predicted)
        return np.concatenate([1 - predicted, predicted], axis=-1) if single else predicted

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
                numeric[:, index] = _numbers(frame[name], dict(self._columns)[name])
        if not texts:
            return numeric
        categorical = np.full((len(frame), len(texts)), MISSING, object)
        for index, name in enumerate(texts):
            if name in frame:
                values = frame[name].astype("object").where(frame[name].notna(), MISSING)
                categorical[:, index] = [_text(each) for each in values]
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
                raise ValueError(f"the model takes {len(specs)} inputs: {', '.join(each['name'] for each in specs)}")
            given = {spec["name"]: each for spec, each in zip(specs, given, strict=True)}
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
        isinstance(each, str) or not hasattr(each, "__len__") for each in given.values()
    ):
        return pd.DataFrame([given])
    return given if isinstance(given, pd.DataFrame) else pd.DataFrame(given)


def _text(value: Any) -> str:
    """Return how a category is spelt: a whole number alike, whether or not a gap made pandas keep it as 1.0."""
    return str(int(value)) if isinstance(value, float | np.floating) and value == value // 1 else str(value)


def _rows(frame: Any) -> Any:
    """Return one row for each value: MLflow makes a single row of lists of columns that hold text alone."""
    if len(frame) == 1 and len(frame.columns) and all(isinstance(each, list) for each in frame.iloc[0]):
        return frame.explode(list(frame.columns), ignore_index=True)
    return frame


def _batch(arrays: Any) -> int:
    """Return how many rows go through the model at a time: more than Keras's 32 where they are small."""
    row = sum(each[:1].nbytes for each in _leaves(arrays))
    return int(max(32, min(_MOST_ROWS, _BATCH_BYTES // max(1, row))))


def _leaves(arrays: Any) -> list[Any]:
    return list(arrays.values()) if isinstance(arrays, dict) else arrays if isinstance(arrays, list) else [arrays]


def _plain(array: Any) -> Any:
    array = np.asarray(array)
    if array.dtype.kind in "OS":  # texts, which TensorFlow gives as bytes
        texts = [each.decode() if isinstance(each, bytes) else each for each in array.reshape(-1).tolist()]
        return np.array(texts, object).reshape(array.shape)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _numbers(values: Any, kind: str) -> Any:
    """Return a column as float32; what is no number is refused with the column's name."""
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
        wrong = next((each for each in values if not _is_number(each)), None)
        raise ValueError(f"column '{values.name}' holds {wrong!r}; the model was trained with {word} there") from None
    with np.errstate(over="ignore"):
        single = numbers.astype("float32")
    beyond = np.isinf(single) if kind != "boolean" else ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
    if beyond.any():
        word = "finite numbers" if kind != "boolean" else word
        raise ValueError(
            f"column '{values.name}' holds {numbers[beyond][0]:g}; the model was trained with {word} there"
        )
    return single


def _truth(value: Any) -> Any:
    spelt = str(value).strip().lower()
    return True if spelt in _TRUE else False if spelt in _FALSE else value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (ValueError, TypeError):
        return value is None
    return True


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
        raise ValueError(f"{name} holds {array.dtype}; the model takes {dtype}")
    else:
        try:
            converted = array.astype(dtype)
        except (ValueError, TypeError):
            raise ValueError(f"{name} holds values that are not numbers; the model takes {dtype}") from None
        if converted.dtype.kind in "iub" and array.dtype.kind in "fiuO" and not (converted == array).all():
            raise ValueError(f"{name} holds values that {dtype} cannot; the model takes {dtype}")
        array = converted
    fits = len(shape) == array.ndim and all(
        want in (-1, have) for want, have in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has rows of shape {array.shape[1:]}; the model takes {tuple(shape[1:])}")
    return array


def _tensors(arrays: Any) -> Any:
    """Return arrays as Keras takes them: where one is text all are tensors, it takes no NumPy text."""
    if not any(each.dtype.kind in "OSU" for each in _leaves(arrays)):
        return arrays
    import tensorflow as tf

    if isinstance(arrays, dict):
        return {name: tf.convert_to_tensor(array) for name, array in arrays.items()}
    return [tf.convert_to_tensor(each) for each in arrays] if isinstance(arrays, list) else tf.convert_to_tensor(arrays)


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of the user's so that its imports of its neighbours find the same version's."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module with an `__import__` of its own."""
        package = module.__name__.partition(".")[0]
        folder = Path(sys.modules[package].__path__[0])
        own = vars(builtins) | {"__import__": _importer(package, folder)}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules below one version's package, in the folder that was loaded last: an earlier one may be gone."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002 - Python's interface
        """Return where a module of the version is, with the loader above."""
        if not fullname.startswith(f"{self._package}."):
            return None
        folder = os.path.join(sys.modules[self._package].__path__[0], *fullname.split(".")[1:-1])
        spec = importlib.machinery.PathFinder.find_spec(fullname, [folder], target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def _importer(package: str, folder: Path) -> Any:
    """Return an `__import__` that takes the version's own modules before all others."""
    own = {each.stem for each in folder.iterdir() if each.is_dir() or each.suffix == ".py"}

    def import_own(
        name: str,
        globals: Any = None,  # noqa: A002 - the names of `__import__`
        locals: Any = None,  # noqa: A002
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        if level or top not in own:
            found = builtins.__import__(name, globals, locals, fromlist, level)
            return _importlib_with(import_own) if found is importlib else found
        if fromlist:
            return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{package}.{name}")
        return sys.modules[f"{package}.{top}"]

    return import_own


def _importlib_with(import_own: Any) -> types.ModuleType:
    """Return Python's `importlib` with an `import_module` that takes the version's own modules before all others."""

    def import_module(name: str, package: str | None = None) -> Any:
        return importlib.import_module(name, package) if package else import_own(name, fromlist=("*",))

    made = types.ModuleType("importlib")
    vars(made).update(vars(importlib), import_module=import_module)
    return made


def _package(folder: Path) -> str:
    """Return the package under which the code in a folder is imported; equal code shares one."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    name = f"search_model_{digest.hexdigest()[:16]}"
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.meta_path.insert(0, _Finder(name))
    sys.modules[name].__path__ = [str(folder)]
    return name


def _registered(folder: Path, modules: list[str]) -> dict[str, Any]:
    """Import a version's modules; return what they registered with Keras, which forgets it again."""
    import keras

    known = keras.saving.get_custom_objects()
    before = dict(known)
    package = _package(folder)
    try:
        for module in modules:
            importlib.import_module(f"{package}.{module}")
        own = {name: each for name, each in known.items() if before.get(name) is not each}
    finally:
        known.clear()
        known.update(before)
    kept: dict[str, Any] = vars(sys.modules[package]).setdefault("registered", {})
    kept.update(own)  # a module that is imported already registers nothing again
    pickled = folder / OBJECTS
    return dict(kept) | (_Unpickler(pickled, package).load() if pickled.is_file() else {})


class _Unpickler(pickle.Unpickler):
    """Reads a program's objects so that the modules that they refer to are the same version's."""

    def __init__(self, file: Path, package: str) -> None:
        super().__init__(io.BytesIO(file.read_bytes()))
        self._import = _importer(package, file.parent)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in a module stands for."""
        if name == "subimport":  # cloudpickle's, for a module that a function uses as a whole
            return self._module
        found = self._module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def _module(self, name: str) -> Any:
        return self._import(name, fromlist=("*",))


def _choose_backend(backend: str) -> None:
    """Let Keras use the backend that trained the model, where it is not imported yet and nobody chose another."""
    if backend != "tensorflow" and "keras" not in sys.modules and importlib.util.find_spec(backend) is not None:
        os.environ.setdefault("KERAS_BACKEND", backend)


def load_keras(path: str | Path) -> Any:
    """Return the Keras model in the folder of a logged model, with its own version of the user's code."""
    folder = Path(path)
    described = json.loads((folder / "search.json").read_text())
    _choose_backend(described.get("backend", "tensorflow"))
    import keras

    with _lock:
        own = _registered(folder / CODE, described["modules"]) if (folder / CODE).is_dir() else {}
        with keras.saving.custom_object_scope(own):
            return keras.saving.load_model(folder / "data" / "model.keras", compile=False)


def _load_pyfunc(path: str) -> Predictor:
    """Load the model in the folder `path`; MLflow calls this."""
    return Predictor(load_keras(path), json.loads((Path(path) / "search.json").read_text()))
