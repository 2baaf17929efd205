"""Python objects in the place of what a study file names: functions, classes, arrays.

A definition refers to them as `object:<name>`. They travel to the workers by cloudpickle with each trial; large data
lie in a file, from which a worker that loads the data reads them.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import mmap
import pickle
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.errors import ModelError, StudyFileError

PREFIX = "object"
_LARGE = 1_000_000  # bytes of pickled data from which on they lie in a file
_shipped: list[Path] = []  # where such files are on a machine that they were shipped to
_provided: dict[str, Any] = {}  # of this process
_registered: dict[str, Any] = {}  # likewise: what the user's program registered with Keras


@dataclass
class Objects:
    """The objects that a definition refers to.

    Attributes:
        named: The objects by the name that stands behind `object:`.
        folder: Where large data are kept until the study is forgotten.
    """

    named: dict[str, Any] = field(default_factory=dict)
    folder: tempfile.TemporaryDirectory[str] | None = None

    def refer(self, name: str, value: Any) -> str:
        """Take an object, and return the reference to it."""
        self.named[name] = value
        return f"{PREFIX}:{name}"

    def references_for(self, value: Any, name: str) -> Any:
        """Return a table of a definition in which each function, class or other object is a reference."""
        if isinstance(value, Mapping):
            return {key: self.references_for(each, f"{name}_{key}") for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.references_for(each, f"{name}_{index}") for index, each in enumerate(value)]
        return value if value is None or isinstance(value, str | int | float | bool) else self.refer(name, value)

    def refer_to_data(self, value: Any) -> str:
        """Take a study's data, or the function that returns them, and return the reference to a function."""
        if callable(value) and not hasattr(value, "iloc"):
            return self.refer("data", value)
        return self.refer("data", _Given(self._in_a_file(value)))

    def _in_a_file(self, value: Any) -> Any:
        """Return what stands for a large value, or the value."""
        path = self._next_path()
        try:
            with path.open("wb") as file:
                cloudpickle.dump(value, file)
        except Exception:  # whatever an object's pickling raises; `pickled` says which object it is
            path.unlink()
            return value
        # A class of the main program's is also that of what builds the model: it travels with that.
        if path.stat().st_size < _LARGE or _holds(path, b"__main__"):
            path.unlink()
            return value
        return _File(str(path))

    def _next_path(self) -> Path:
        self.folder = self.folder or tempfile.TemporaryDirectory(prefix="search-arrays-")
        return Path(self.folder.name) / f"{len(list(Path(self.folder.name).iterdir()))}.pickle"

    def pickled(self) -> bytes:
        """Return the objects as bytes that `provide` takes.

        Raises:
            ModelError: One of them cannot be sent to another process.
        """
        for name, value in self.named.items():
            _pickled(name, value)
        pickled = bytes(cloudpickle.dumps((self.named, _registered_here())))
        if len(pickled) < _LARGE:
            return pickled
        path = self._next_path()
        path.write_bytes(pickled)
        return bytes(cloudpickle.dumps(_File(str(path))))

    def described(self) -> dict[str, str]:
        """Return the source of each function and class, and a digest of what has no source.

        Raises:
            ModelError: One of them has none and cannot be sent to another process.
        """
        return {name: _source(name, value) for name, value in self.named.items()}


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


@dataclass(frozen=True)
class _File:
    """A value that lies in a file."""

    path: str

    def opened(self) -> Any:
        """Return the value."""
        place = Path(self.path)
        if not place.exists():
            place = next((folder / place.name for folder in _shipped), place)
        with place.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - written by this study's own program


@dataclass(frozen=True)
class _Given:
    """Returns data that were given as they are."""

    data: Any
    __name__ = "data"

    def __call__(self) -> Any:
        """Return the data."""
        return self.data.opened() if isinstance(self.data, _File) else self.data


def _pickled(name: str, value: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:  # whatever an object's pickling raises
        raise ModelError(f"{name}: cannot be sent to a worker ({type(error).__name__}: {error})") from None


def _source(name: str, value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        digest = hashlib.sha256(_pickled(name, value)).hexdigest()[:8]
        return f"{type(value).__name__}, digest {digest}"


def _registered_here() -> dict[str, Any]:
    """Return what the program's main module registered with Keras, by the name that a saved model uses."""
    keras = sys.modules.get("keras")
    known = keras.saving.get_custom_objects() if keras is not None else {}
    return {name: each for name, each in known.items() if getattr(each, "__module__", "") == "__main__"}


def files_of(pickled: bytes) -> list[Path]:
    """Return the files in which large data among pickled objects lie."""
    if not pickled:
        return []
    loaded = cloudpickle.loads(pickled)
    named, _ = loaded.opened() if isinstance(loaded, _File) else loaded
    given = [each.data for each in named.values() if isinstance(each, _Given)]
    return [Path(each.path) for each in (loaded, *given) if isinstance(each, _File)]


def provide(pickled: bytes, shipped: Path | None = None) -> None:
    """Make objects known in this process, in the place of those that were known before.

    Args:
        pickled: The objects.
        shipped: Where the files of large data are on a machine that they were shipped to.
    """
    _provided.clear()
    _registered.clear()
    _shipped[:] = [shipped] if shipped else []
    if pickled:
        loaded = cloudpickle.loads(pickled)
        named, registered = loaded.opened() if isinstance(loaded, _File) else loaded
        _provided.update(named)
        _registered.update(registered)
    for name, each in _registered.items():
        _register(name, each)


def _register(name: str, each: Any) -> None:
    """Register a class or function with Keras as the user's program did."""
    import keras

    package, separated, short = name.rpartition(">")
    if separated:
        keras.saving.register_keras_serializable(package, short)(each)
    else:
        keras.saving.get_custom_objects()[name] = each


def own_code(names: Sequence[str]) -> tuple[bytes, set[str]]:
    """Return what loading a model needs of the user's program.

    Args:
        names: The objects that make the model.

    Returns:
        What the program registered with Keras, pickled by name (empty when that is nothing), and the modules
        that the objects refer to.
    """
    modules: set[str] = set()
    used = {name: provided(name, "model") for name in names}
    _Reader(cloudpickle.dumps((used, _registered)), modules).load()
    return (cloudpickle.dumps(_registered) if _registered else b""), modules


class _Reader(pickle.Unpickler):
    """Reads a pickle, and notes the modules that it refers to."""

    def __init__(self, pickled: bytes, modules: set[str]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._modules = modules

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in a module stands for."""
        self._modules.add(module)
        return self._subimport if name == "subimport" else super().find_class(module, name)

    def _subimport(self, module: str) -> Any:
        self._modules.add(module)
        return importlib.import_module(module)


def provided(name: str, key: str) -> Any:
    """Return the object that `object:<name>` stands for.

    Raises:
        ModelError: There is none of this name.
    """
    if name not in _provided:
        raise ModelError(f"{key}: '{name}' lies in the Python program that made the study; run it there")
    return _provided[name]


def called(reference: str | None) -> str:
    """Return the name of what a reference stands for as its author knows it: of an object its own."""
    kind, _, name = (reference or "").partition(":")
    if kind != PREFIX or name not in _provided:
        return reference or ""
    return str(getattr(_provided[name], "__name__", type(_provided[name]).__name__))


def in_words(reference: str) -> str:
    """Return what a definition names; of an object, that it was given."""
    return "given in Python" if reference.startswith(f"{PREFIX}:") else reference


def space_of(space: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a definition's `[space]` for Optuna's distributions, tables as in a study file, or `preset="mlp"`.

    Raises:
        StudyFileError: A parameter is neither.
    """
    as_they_are = (Mapping, str)  # a text names a preset
    return {
        name: each if isinstance(each, as_they_are) else _parameter(name, each, where) for name, each in space.items()
    }


def _parameter(name: str, each: Any, where: str) -> dict[str, Any]:
    if isinstance(each, CategoricalDistribution):
        return {"type": "categorical", "choices": list(each.choices)}
    if isinstance(each, IntDistribution | FloatDistribution):
        kind = "int" if isinstance(each, IntDistribution) else "float"
        step = {} if each.step is None or each.log or (kind == "int" and each.step == 1) else {"step": each.step}
        return {"type": kind, "low": each.low, "high": each.high, "log": each.log, **step}
    known = ", ".join(kind.__name__ for kind in BaseDistribution.__subclasses__())
    raise StudyFileError(where, f"space.{name}", f"a {type(each).__name__}", f"use one of Optuna's {known}")


def as_text(content: Mapping[str, Any], objects: Objects) -> str:
    """Return a definition made of objects as text for people: its tables, and the objects' sources."""
    return json.dumps({"study": content, "objects": objects.described()}, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    """Return what JSON has for a value that it does not know: a number of NumPy's, a path."""
    return value.item() if getattr(value, "shape", None) == () else str(value)
