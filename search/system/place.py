"""Where in the user's own code an error arose, and which names were at hand there."""

from __future__ import annotations

import ast
import builtins
import inspect
import itertools
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

# The user's file, of Python's, of packages, or of this one: told by where it lies.
_OTHERS = tuple(
    os.path.join(folder, "")
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), Path(__file__).parents[1])
)
_PACKAGES = re.compile(r"[\\/](?:site|dist)-packages[\\/]|__autograph_generated_file")
_TYPED_IN = re.compile(r"<(?:stdin|ipython-input.*|python-input.*)>|.*[\\/]ipykernel_\d+[\\/]\d+\.py")
_FRAME = re.compile(r"^ *File \"([^\"\n]+)\", line (\d+)(?:, in (\S+))?", re.MULTILINE)
_IMPORTED = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
_IDENTIFIER = re.compile(r"Could not interpret (\w+)(?: function)? identifier: (?:\{'class_name': ')?(\w+)")
_HOMES = {"loss": "losses"}  # whose plural is another
_ARGUMENT = re.compile(r"Unrecognized keyword arguments passed to (\w+): \{'(\w+)'")
_MANY = 10  # names that are listed


def place_of(error: BaseException) -> str:
    """Return `m.py, line 12, in build`: the innermost call in the user's own files; empty where there is none.

    A traceback that is text in the message, as of graphs, generators and other processes, lies deeper than the error's.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return _told(error.filename, error.lineno or 1, "")
    texts = (text_of(each) for each in (error, error.__cause__) if each is not None)
    found = [match for text in texts for match in _FRAME.findall(text) if _is_users(match[0])]
    if found:
        file, line, function = found[-1]
        return _told(file, int(line), function)
    at = _innermost(error)
    return _told(at.tb_frame.f_code.co_filename, at.tb_lineno, at.tb_frame.f_code.co_name) if at else ""


@dataclass(frozen=True)
class Names:
    """What a misspelt name may have meant.

    Attributes:
        misspelt: The name that is not there.
        known: The names that are.
        listed: They in a sentence, `trial.params has epochs, width`; empty where they say little.
    """

    misspelt: str
    known: tuple[str, ...] = ()
    listed: str = ""


def names_at_hand(error: BaseException) -> Names:
    """Return the names that were there where a key, an attribute or a variable was not found."""
    at = _innermost(error)
    if isinstance(error, KeyError):
        return _keys_at_hand(error, at) if at is not None else Names("")
    misspelt = getattr(error, "name", None) or ""
    if isinstance(error, NameError) and at is not None:
        known = [*at.tb_frame.f_locals, *at.tb_frame.f_globals, *dir(builtins)]
    elif isinstance(error, AttributeError):
        known = _attributes(error.obj)
    else:
        misspelt, known = _named_in(text_of(error))
    return Names(misspelt, tuple(each for each in known if each.startswith("_") == misspelt.startswith("_")))


def _named_in(message: str) -> tuple[str, list[str]]:
    """Return the name that Python or Keras says it does not know, and those that it knows."""
    if found := _IMPORTED.match(message):
        return found[1], _attributes(sys.modules.get(found[2]))
    if found := _IDENTIFIER.match(message):
        more = ["accuracy"] if found[1] == "metric" else []  # not the class of this name
        return found[2], [*_attributes(sys.modules.get(f"keras.{_HOMES.get(found[1], f'{found[1]}s')}")), *more]
    if found := _ARGUMENT.match(message):
        layer = getattr(sys.modules.get("keras.layers"), found[1], None)
        return found[2], [*inspect.signature(layer).parameters] if layer is not None else []
    return "", []


def text_of(error: BaseException) -> str:
    """Return what an error says; an error of the user's own may fail to."""
    try:
        return str(error)
    except Exception:
        return ""


def _is_users(file: str) -> bool:
    if file.startswith("<") or _TYPED_IN.fullmatch(file):
        return _TYPED_IN.fullmatch(file) is not None
    return not _PACKAGES.search(file) and not os.path.abspath(file).startswith(_OTHERS)


def _innermost(error: BaseException) -> TracebackType | None:
    """Return the innermost entry of an error's traceback that is in a file of the user's own."""
    found, at = None, error.__traceback__
    while at is not None:
        if _is_users(at.tb_frame.f_code.co_filename):
            found = at
        at = at.tb_next
    return found


def _told(file: str, line: int, function: str) -> str:
    inside = f", in {function}" if function and function != "<module>" else ""
    return f"{_shown(file)}, line {line}{inside}"


def _shown(file: str) -> str:
    """Return a file's path from the folder that Python imports it from, else its name."""
    if _TYPED_IN.fullmatch(file):
        return "a notebook's cell" if "ipy" in file else "standard input"
    path = os.path.abspath(file)
    folders = [os.path.join(os.path.abspath(each), "") for each in sys.path if isinstance(each, str)]
    home = max((each for each in folders if path.startswith(each)), key=len, default="")
    return path.removeprefix(home) if home else os.path.basename(path)


def _keys_at_hand(error: KeyError, at: TracebackType) -> Names:
    """Return the keys of what a key was looked up in."""
    misspelt = str(error.args[0]) if error.args else ""
    for name, container in _containers(at):
        with suppress(Exception):  # whatever an object of the user's own raises
            known = tuple(str(each) for each in container.keys())  # noqa: SIM118 - a data frame's are its columns
            if container is os.environ:
                break
            if misspelt not in known:
                more = ", …" if len(known) > _MANY else ""
                return Names(misspelt, known, f"{name} has {', '.join(known[:_MANY]) or 'nothing'}{more}")
    return Names(misspelt)


def _containers(at: TracebackType) -> Iterator[tuple[str, Any]]:
    """Yield what the failing line may have looked a key up in, with its name: by its source, else the trial's."""
    frame = at.tb_frame
    looked_up = _expression(at)
    if isinstance(looked_up, ast.Subscript):
        looked_up = looked_up.value
    elif isinstance(looked_up, ast.Call) and isinstance(looked_up.func, ast.Attribute):
        looked_up = looked_up.func.value
    if looked_up is not None:
        with suppress(Exception):  # a name or an attribute that is not there
            yield ast.unparse(looked_up), _value(looked_up, frame)
    if looked_up is None or "trial.params" in ast.unparse(looked_up):
        with suppress(Exception):
            yield "trial.params", frame.f_locals["trial"].params


def _expression(at: TracebackType) -> ast.AST | None:
    """Return the expression that failed; None where its source is not to be had."""
    code = at.tb_frame.f_code
    positions = next(itertools.islice(code.co_positions(), at.tb_lasti // 2, None), None)
    if positions is None:
        return None
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return None
    looks_up = (each for each in ast.walk(tree) if isinstance(each, ast.Subscript | ast.Call))
    place = attrgetter("lineno", "end_lineno", "col_offset", "end_col_offset")
    return next((each for each in looks_up if place(each) == positions), None)


def _value(node: ast.AST, frame: FrameType) -> Any:
    """Return what a name, or an attribute of one, stands for.

    Raises:
        LookupError: It is another expression, which is not evaluated, or there is no such name.
    """
    if isinstance(node, ast.Name):
        return {**frame.f_globals, **frame.f_locals}[node.id]
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, frame), node.attr)
    raise LookupError(ast.dump(node))


def _attributes(owner: object) -> list[str]:
    try:
        return dir(owner)
    except Exception:  # whatever an object of the user's own raises
        return []
