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
    imported = [module for name, module in sys.modules.copy().items() if name != "__main__"]
    modules = [vars(module) for module in imported if of_the_user(getattr(module, "__file__", None))]
    objects: dict[int, Any] = {}
    alive: list[Any] = []
    waiting = deque((held, 0) for held in (function, *modules))
    while waiting and len(objects) < _MOST:
        held, depth = waiting.popleft()
        if id(held) in objects:
            continue
        inner = list(_held(held)) if depth < _DEEPEST else []
        alive.append(held)
        objects[id(held)] = [id(one) for one in inner] or _content(held)
        waiting.extend((one, depth + 1) for one in inner)
    return Footprint(objects, _settings(), not waiting, alive)


def of_the_user(file: Any) -> bool:
    """Return whether a module's file is neither Python's, nor installed, nor of this package."""
    if not isinstance(file, str):
        return False
    return not (file.startswith((*_STANDARD, _PACKAGE)) or "site-packages" in file or "dist-packages" in file)


def _held(held: Any) -> Iterator[Any]:
    """Yield what an object holds, as far as the user's code may change it."""
    if isinstance(held, dict):
        yield from held.values() if len(held) <= _LONGEST else ()
    elif isinstance(held, list | tuple | set | frozenset | deque):
        yield from held if len(held) <= _LONGEST else ()
    elif isinstance(held, MethodType):
        yield from (held.__self__, held.__func__)
    elif isinstance(held, functools.partial):
        yield from (held.func, held.args, held.keywords)
    elif isinstance(held, FunctionType):
        if not installed(held.__module__):
            yield held.__globals__
        yield from _enclosed(held)
    elif isinstance(held, type):
        yield from vars(held).values() if not installed(held.__module__) else ()
    elif not isinstance(held, ModuleType) and hasattr(held, "__dict__"):
        root = type(held).__module__.partition(".")[0]
        yield from vars(held).values() if root not in sys.stdlib_module_names or root in _PLAIN else ()


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is empty
            yield cell.cell_contents


def installed(module: str | None) -> bool:
    """Return whether a module, by its name, is neither the user's nor the program itself."""
    known = sys.modules.get(module or "")
    return known is not None and module != "__main__" and not of_the_user(getattr(known, "__file__", None))


def _content(held: Any) -> Any:
    if isinstance(held, np.ndarray) and not held.dtype.hasobject and held.nbytes <= _SUMMED:
        return zlib.crc32(np.ascontiguousarray(held).reshape(-1).view("uint8").data)
    return len(held) if isinstance(held, dict | list | set | deque) else None


def _settings() -> tuple[Any, ...]:
    keras = sys.modules.get("keras")
    if keras is None:
        return (dict(os.environ),)
    return dict(os.environ), keras.config.floatx(), keras.config.epsilon(), keras.config.dtype_policy().name
