"""Python objects in the place of what a study file names: functions, classes, arrays.

A definition refers to them as `object:<name>`. They travel to the workers by cloudpickle, large
arrays as files that every worker of the machine maps.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.errors import ModelError, StudyFileError, did_you_mean

PREFIX = "object"
_LARGE = 1_000_000  # bytes of an array from which on it travels as a file
_provided: dict[str, Any] = {}  # of this process


@dataclass
class Objects:
    """The objects that a definition refers to.

    Attributes:
        named: The objects by the name that stands behind `object:`.
        folder: Where large arrays are kept until the study is forgotten.
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
        return self.refer("data", _Given(self._mapped(value)))

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._mapped(each) for key, each in value.items()}
        if isinstance(value, tuple):
            return tuple(self._mapped(each) for each in value)
        if isinstance(value, list) and any(isinstance(each, np.ndarray | list | tuple) for each in value):
            return [self._mapped(each) for each in value]
        if isinstance(value, np.ndarray) and value.nbytes >= _LARGE and value.dtype != object:
            self.folder = self.folder or tempfile.TemporaryDirectory(prefix="search-arrays-")
            path = Path(self.folder.name) / f"{len(list(Path(self.folder.name).iterdir()))}.npy"
            np.save(path, value)
            return _File(str(path))
        return value

    def pickled(self) -> bytes:
        """Return the objects as bytes that `provide` takes.

        Raises:
            ModelError: One of them cannot be sent to another process.
        """
        for name, value in self.named.items():
            try:
                cloudpickle.dumps(value)
            except Exception as error:  # whatever an object's pickling raises
                raise ModelError(f"{name}: cannot be sent to a worker ({type(error).__name__}: {error})") from None
        return bytes(cloudpickle.dumps(self.named))

    def described(self) -> dict[str, str]:
        """Return the source of each function and class, and a digest of what has no source."""
        return {name: _source(value) for name, value in self.named.items()}


@dataclass(frozen=True)
class _File:
    """An array that lies in a file."""

    path: str


@dataclass(frozen=True)
class _Given:
    """Returns data that were given as they are."""

    data: Any
    __name__ = "data"

    def __call__(self) -> Any:
        """Return the data, arrays of files mapped into memory."""
        return _opened(self.data)


def _opened(value: Any) -> Any:
    if isinstance(value, _File):
        return np.load(value.path, mmap_mode="r")
    if isinstance(value, Mapping):
        return {key: _opened(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_opened(each) for each in value)
    return value


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        digest = hashlib.sha256(cloudpickle.dumps(value)).hexdigest()[:8]
        return f"{type(value).__name__}, digest {digest}"


def provide(pickled: bytes) -> None:
    """Make objects known in this process, in the place of those that were known before."""
    _provided.clear()
    if pickled:
        _provided.update(cloudpickle.loads(pickled))


def provided(name: str, key: str) -> Any:
    """Return the object that `object:<name>` stands for.

    Raises:
        ModelError: There is none of this name.
    """
    if name not in _provided:
        raise ModelError(f"{key}: no object '{name}' was given{did_you_mean(name, _provided)}")
    return _provided[name]


def space_of(space: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a definition's `[space]` for Optuna's distributions, or for tables as in a study file.

    Raises:
        StudyFileError: A parameter is neither.
    """
    return {name: each if isinstance(each, Mapping) else _parameter(name, each, where) for name, each in space.items()}


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
    return json.dumps({"study": content, "objects": objects.described()}, indent=2, default=str)
