"""What the user's code holds in memory: compared before and after a call, it shows what the call left behind.

Looked through are the user's modules, the function with its object and what it encloses, the environment and
Keras's settings. What lies deeper, or in objects that hide it, is not seen; a change that is none may be.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_DEEPEST, _MOST = 6, 50_000  # steps from a module, and objects, that are looked at
_LONGEST = 10_000  # values of a container that are looked at
_SUMMED = 64_000_000  # bytes of an array up to which its content is
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STANDARD = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_PLAIN = ("types", "argparse", "builtins")  # Python's own modules whose objects hold values of the user's


@dataclass(frozen=True)
class Footprint:
    """What is held: equal to another one where nothing was seen to change between them."""

    objects: dict[int, Any]
    settings: tuple[Any, ...]
    whole: bool
    _alive: list[Any] = field(compare=False, repr=False)  # a new object cannot get the identity of one of these

    def unchanged(self, before: Footprint) -> bool:
        """Return whether all was looked at, and is as it was."""
        return self.whole and before.whole and self == before


def footprint(function: Callable[..., Any]) -> Footprint:
    """Return what the user's code holds now, the function included."""
    imported = [each for name, each in sys.modules.copy().items() if name != "__main__"]
    modules = [vars(each) for each in imported if of_the_user(getattr(each, "__file__", None))]
    objects: dict[int, Any] = {}
    alive: list[Any] = []
    waiting = deque((each, 0) for each in (function, *modules))
    while waiting and len(objects) < _MOST:
        each, depth = waiting.popleft()
        if id(each) in objects:
            continue
        inner = list(_held(each)) if depth < _DEEPEST else []
        alive.append(each)
        objects[id(each)] = [id(one) for one in inner] or _content(each)
        waiting.extend((one, depth + 1) for one in inner)
    return Footprint(objects, _settings(), not waiting, alive)


def of_the_user(file: Any) -> bool:
    """Return whether a module's file is neither Python's, nor installed, nor of this package."""
    if not isinstance(file, str):
        return False
    return not (file.startswith((*_STANDARD, _PACKAGE)) or "site-packages" in file or "dist-packages" in file)


def _held(each: Any) -> Iterator[Any]:
    """Yield what an object holds, as far as the user's code may change it."""
    if isinstance(each, dict):
        yield from each.values() if len(each) <= _LONGEST else ()
    elif isinstance(each, list | tuple | set | frozenset | deque):
        yield from each if len(each) <= _LONGEST else ()
    elif isinstance(each, MethodType):
        yield from (each.__self__, each.__func__)
    elif isinstance(each, functools.partial):
        yield from (each.func, each.args, each.keywords)
    elif isinstance(each, FunctionType):
        if not _installed(each.__module__):
            yield each.__globals__
        yield from _enclosed(each)
    elif isinstance(each, type):
        yield from vars(each).values() if not _installed(each.__module__) else ()
    elif not isinstance(each, ModuleType) and hasattr(each, "__dict__"):
        root = type(each).__module__.partition(".")[0]
        yield from vars(each).values() if root not in sys.stdlib_module_names or root in _PLAIN else ()


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is empty
            yield cell.cell_contents


def _installed(module: str | None) -> bool:
    known = sys.modules.get(module or "")
    return known is not None and module != "__main__" and not of_the_user(getattr(known, "__file__", None))


def _content(each: Any) -> Any:
    if isinstance(each, np.ndarray) and not each.dtype.hasobject and each.nbytes <= _SUMMED:
        return zlib.crc32(np.ascontiguousarray(each).reshape(-1).view("uint8").data)
    return len(each) if isinstance(each, dict | list | set | deque) else None


def _settings() -> tuple[Any, ...]:
    keras = sys.modules.get("keras")
    if keras is None:
        return (dict(os.environ),)
    return dict(os.environ), keras.config.floatx(), keras.config.epsilon(), keras.config.dtype_policy().name
