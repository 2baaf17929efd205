"""What the user's code says that defines a trial, as digests: the functions that a study names, with what they use.

Comments, docstrings and layout do not count, nor does what is installed. A constant of a module counts as it is written
there, not by its value, which may be the time of day.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from search.code.footprint import of_the_user
from search.studyfile.objects import PREFIX
from search.studyfile.references import load_object
from search.studyfile.schema import Definition

_PLAIN = (bool, int, float, str, bytes, type(None))
_CODE = (FunctionType, type, ModuleType)
_NOT_OF_A_TRIAL = ("data.source", "search.sampler", "search.pruner", "model.export")


def digests_of(definition: Definition) -> dict[str, str]:
    """Return a digest of the code behind each key of a study file that names some and that defines a trial."""
    references = {key: each for key, each in definition.references.items() if ":" in each}
    found = {}
    for key, reference in references.items():
        if key not in _NOT_OF_A_TRIAL:
            named = load_object(reference, definition.folder, key)
            if reference.startswith(f"{PREFIX}:") or _users(named):
                found[key] = _digest(named)
    return found


def _digest(named: Any) -> str:
    known: dict[int, Any] = {}  # kept, so that no other object gets the identity of one of these
    texts: set[str] = set()
    waiting = [named]
    while waiting:
        each = waiting.pop()
        if id(each) in known:
            continue
        known[id(each)] = each
        for found in _said_by(each):
            if isinstance(found, _Text):
                texts.add(found)
            elif id(found) not in known:
                waiting.append(found)
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:8]


class _Text(str):
    """What code says, as opposed to a value that is looked into next."""


def _said_by(each: Any) -> Iterator[Any]:
    """Yield the text of an object of the user's, and the objects that it uses."""
    if isinstance(each, FunctionType) and _users(each):
        yield _Text(_source(each))
        yield from _used_by(each)
    elif isinstance(each, type) and _users(each):
        yield _Text(f"class {each.__qualname__}({', '.join(base.__qualname__ for base in each.__bases__)})")
        yield from each.__bases__
        yield from (_inner(value) for name, value in vars(each).items() if callable(value) or name[:2] != "__")
    elif isinstance(each, ModuleType) and of_the_user(getattr(each, "__file__", None)):
        yield _Text(ast.unparse(_module(str(each.__file__))))
        yield from (value for value in vars(each).values() if isinstance(value, _CODE))
    elif isinstance(each, _PLAIN):
        yield _Text(repr(each))
    elif not isinstance(each, _CODE):
        yield from _held_by(each)


def _held_by(each: Any) -> Iterator[Any]:
    """Yield what an object holds that may say how a trial is trained."""
    if isinstance(each, functools.partial):
        yield from (each.func, *each.args, *each.keywords.values())
    elif isinstance(each, MethodType):
        yield from (each.__func__, each.__self__)
    elif isinstance(each, list | tuple | set | frozenset):
        yield from each
    elif isinstance(each, dict):
        yield from (*each, *each.values())
    elif _users(type(each)):
        yield type(each)
        yield from getattr(each, "__dict__", {}).values()


def _users(each: Any) -> bool:
    """Return whether a function or class was written by the user."""
    module = sys.modules.get(getattr(each, "__module__", None) or "")
    return module is None or module.__name__ == "__main__" or of_the_user(getattr(module, "__file__", None))


def _inner(value: Any) -> Any:
    """Return the function behind what stands in a class."""
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


def _source(function: FunctionType) -> str:
    """Return a function's code without comments and docstrings; without a source what Python made of it."""
    try:
        return ast.unparse(_bare(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    except (OSError, TypeError, SyntaxError, ValueError):
        made = [(code.co_code.hex(), code.co_names, _constants(code)) for code in _codes(function.__code__)]
        return str(made).replace(repr(function.__doc__), "")


def _constants(code: CodeType) -> list[str]:
    return [repr(each) for each in code.co_consts if not isinstance(each, CodeType)]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _used_by(function: FunctionType) -> Iterator[Any]:
    """Yield what a function uses: its defaults, what encloses it, and the names of its module."""
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from inspect.getclosurevars(function).nonlocals.values()
    file = function.__globals__.get("__file__")
    for name in sorted({name for code in _codes(function.__code__) for name in code.co_names}):
        value = function.__globals__.get(name)
        if isinstance(value, (*_CODE, functools.partial)):
            yield value
        elif isinstance(file, str) and Path(file).is_file():
            yield from (_Text(ast.unparse(each)) for each in _module(file).body if name in _bound_by(each))
        elif value is not None:
            yield from (_Text(name), value)


def _bound_by(statement: ast.stmt) -> set[str]:
    """Return the names that a module's statement gives a value."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return set()
    return {each.id for each in ast.walk(statement) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


@functools.cache
def _module(file: str) -> ast.Module:
    tree: ast.Module = _bare(ast.parse(Path(file).read_text(encoding="utf-8")))
    return tree


def _bare(tree: Any) -> Any:
    """Return code without docstrings; comments and layout are gone with the parsing."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
    return tree
