"""What the user's code says that defines a trial, as digests: the functions that a study names, with what they use.

Comments, docstrings and layout do not count, nor does what is installed. A constant of a module counts as it is written
there, not by its value, which may be the time of day.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from search.code.footprint import installed, of_the_user
from search.studyfile.objects import PREFIX
from search.studyfile.references import load_object
from search.studyfile.schema import Definition

_PLAIN = (bool, int, float, str, bytes, type(None))
_CODE = (FunctionType, type, ModuleType)
_NOT_OF_A_TRIAL = ("data.source", "search.sampler", "search.pruner", "model.export")


def digests_of(definition: Definition) -> dict[str, str]:
    """Return a digest of the code behind each key of a study file that names some and that defines a trial."""
    references = {key: reference for key, reference in definition.references.items() if ":" in reference}
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
        item = waiting.pop()
        if id(item) in known:
            continue
        known[id(item)] = item
        for found in _said_by(item):
            if isinstance(found, _Text):
                texts.add(found)
            elif id(found) not in known:
                waiting.append(found)
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:8]


class _Text(str):
    """What code says, as opposed to a value that is looked into next."""


def _said_by(item: Any) -> Iterator[Any]:
    """Yield the text of an object of the user's, and the objects that it uses."""
    if isinstance(item, FunctionType) and _users(item):
        yield _Text(_source(item))
        yield from _used_by(item)
    elif isinstance(item, type) and _users(item):
        yield _Text(f"class {item.__qualname__}({', '.join(base.__qualname__ for base in item.__bases__)})")
        yield from item.__bases__
        yield from (_inner(value) for name, value in vars(item).items() if callable(value) or name[:2] != "__")
    elif isinstance(item, ModuleType) and of_the_user(getattr(item, "__file__", None)):
        yield _Text(ast.unparse(_module(str(item.__file__))))
        yield from (value for value in vars(item).values() if isinstance(value, _CODE))
    elif isinstance(item, _PLAIN):
        yield _Text(repr(item))
    elif not isinstance(item, _CODE):
        yield from _held_by(item)


def _held_by(item: Any) -> Iterator[Any]:
    """Yield what an object holds that may say how a trial is trained."""
    if isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, MethodType):
        yield from (item.__func__, item.__self__)
    elif isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif isinstance(item, dict):
        yield from (*item, *item.values())
    elif _users(type(item)):
        yield type(item)
        yield from getattr(item, "__dict__", {}).values()


def _users(item: Any) -> bool:
    """Return whether a function or class was written by the user."""
    return not installed(getattr(item, "__module__", None))


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
        made = [
            (code.co_code.hex(), code.co_names, [repr(c) for c in code.co_consts if not isinstance(c, CodeType)])
            for code in _codes(function.__code__)
        ]
        return str(made).replace(repr(function.__doc__), "")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for co_const in code.co_consts:
        if isinstance(co_const, CodeType):
            yield from _codes(co_const)


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
            yield from (
                _Text(ast.unparse(statement)) for statement in _module(file).body if name in _bound_by(statement)
            )
        elif value is not None:
            yield from (_Text(name), value)


def _bound_by(statement: ast.stmt) -> set[str]:
    """Return the names that a module's statement gives a value."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return set()
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


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
