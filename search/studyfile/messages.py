"""What is wrong with a study file, in one line a person can act on: pydantic's errors, translated."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from search.errors import StudyFileError, did_you_mean
from search.studyfile.parameters import written
from search.studyfile.schema import Definition

Finding = tuple[str, str, str]  # key, what was found, what would be right

_INTERNAL = ("path", "text")  # fields of `Definition` that are no keys of the file
_MANY = 10**6  # an upper bound from here on is only there to catch nonsense, and is not told


def explain(error: ValidationError, path: str) -> StudyFileError:
    """Return all that is wrong as one error of this package's own; misspelt keys come first."""
    (key, found, expected), *others = findings(error, Definition)
    return StudyFileError(path, key, found, expected, tuple(others))


def findings(error: ValidationError, kind: Any) -> list[Finding]:
    """Return what is wrong with a value that should be of this kind; of a union's complaints the deepest."""
    deepest: dict[str, ErrorDetails] = {}
    for each in error.errors(include_url=False):
        key = _locate(each["loc"], kind)[0]
        if key not in deepest or _depth(each) > _depth(deepest[key]):
            deepest[key] = each
    inner = [key for key in deepest if not any(each.startswith((f"{key}.", f"{key}[")) for each in deepest)]
    inner.sort(key=lambda key: deepest[key]["type"] != "extra_forbidden")
    return [_finding(deepest[key], *_locate(deepest[key]["loc"], kind)) for key in inner]


def _depth(error: ErrorDetails) -> tuple[int, bool]:
    return len(error["loc"]), error["type"] == "finite_number"


def _finding(first: ErrorDetails, key: str, annotation: Any, table: type[BaseModel]) -> Finding:
    kind, value = first["type"], first["input"]
    findings: dict[str, Callable[[], Finding]] = {
        "extra_forbidden": lambda: (key, "unknown key", _instead(table, str(first["loc"][-1]))),
        "missing": lambda: (key, "missing", f"give {_expected(annotation)}"),
        "too_short": lambda: (key, "empty", f"give {_expected(annotation)}"),
        "finite_number": lambda: (key, written(value), "use a finite number"),
        "less_than_equal": lambda: (key, written(value), f"use at most {first['ctx']['le']}"),
        "value_error": lambda: (key, *_two(str(first["ctx"]["error"]))),
    }
    return findings[kind]() if kind in findings else _wrong_value(key, annotation, value)


def _two(message: str) -> tuple[str, str]:
    """Return what was found and what would be right, of a check's message."""
    found, _, right = message.partition("; ")
    return found, right


def unknown_key(path: str, key: str) -> StudyFileError:
    """Return the error for a key at the top of the file that is none."""
    return StudyFileError(path, key, "unknown key", _instead(Definition, key))


def _wrong_value(key: str, annotation: Any, value: object) -> Finding:
    kinds = _parameter_kinds(annotation)
    if kinds and isinstance(value, dict):
        found = written(value["type"]) if "type" in value else "missing"
        hint = did_you_mean(str(value.get("type", "")), kinds)
        return f"{key}.type", found, f"use {_listed(map(repr, kinds), 'or')}{hint}"
    hint = did_you_mean(value, _literals(annotation)) if isinstance(value, str) else ""
    return key, written(value), f"use {_expected(annotation)}{hint}"


def _locate(location: Sequence[int | str], kind: Any) -> tuple[str, Any, type[BaseModel]]:
    """Return the dotted key at pydantic's location, what may stand there, and the table it is in."""
    key = ""
    table: type[BaseModel] = Definition
    here: Any = kind
    parts = list(location)
    while parts:
        part = parts.pop(0)
        members = _members(here)
        if len(members) > 1:  # pydantic names the member of a union that it tried
            here = _member(members, str(part)) or (_container(members) if parts else here)
            continue
        only = members[0]
        if isinstance(only, type) and issubclass(only, BaseModel):
            table = only
            field = _keys(only).get(str(part))
            here = Annotated[field.annotation, field] if field else _extra(only)
        else:
            here = next((each for each in reversed(get_args(only)) if each is not Ellipsis), Any)
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    return key.lstrip("."), here, table


def _keys(table: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a table's fields as the file spells them."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union but None; any other annotation alone."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        inner = [each for each in get_args(bare) if each is not type(None)]
        return [bare_each for each in inner for bare_each in _members(each)] if len(inner) == 1 else inner
    return [bare]


def _member(members: Iterable[Any], tag: str) -> Any:
    """Return the kind of parameter with this tag, if the union is one of those."""
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel) and tag in _literals(_type_of(member)):
            return member
    return None


def _container(members: Iterable[Any]) -> Any:
    return next((_bare(each) for each in members if get_origin(_bare(each)) in (tuple, dict)), Any)


def _type_of(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("type")
    return field.annotation if field else Any


def _extra(model: type[BaseModel]) -> Any:
    return bool | int | float | str if model.model_config.get("extra") == "allow" else Any


def _parameter_kinds(annotation: Any) -> list[str]:
    """Return the tags of a union of parameters; nothing for any other annotation."""
    members = _members(annotation)
    models = [each for each in members if isinstance(each, type) and issubclass(each, BaseModel)]
    return [tag for each in models for tag in _literals(_type_of(each))] if len(models) > 1 else []


def _literals(annotation: Any) -> list[str]:
    """Return the texts that may stand here, of those that are listed."""
    known: list[str] = []
    for member in _members(annotation):
        if get_origin(_bare(member)) is Literal:
            known += [str(each) for each in get_args(_bare(member))]
    return known


def _expected(annotation: Any) -> str:
    """Return in words what may stand here."""
    if _parameter_kinds(annotation):
        return 'a table such as { type = "int", low = 1, high = 10 }'
    members = _members(annotation)
    if set(members) == {bool, int, float, str}:
        return "a number, text, true or false"
    return _listed([_one(each, _bounds([annotation, each])) for each in members], "or")


def _one(member: Any, bounds: str) -> str:
    bare = _bare(member)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if bare in words:
        return words[bare] + bounds
    if get_origin(bare) is Literal:
        return _listed(map(repr, get_args(bare)), "or")
    if get_origin(bare) is tuple:
        item = get_args(bare)[0]
        return f"a list of {'texts' if _bare(item) is str else 'tables' if get_origin(item) is dict else 'values'}"
    return "a table"


def _bounds(annotations: Sequence[Any]) -> str:
    """Return the bounds noted on the annotations, in words."""
    bound: dict[str, Any] = {}
    for annotation in annotations:
        bound.update({name: value for each in _notes(annotation) for name, value in _bound(each)})
    if "le" in bound and bound["le"] >= _MANY:
        del bound["le"]
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    told = [f"{word} {bound[name]}" for name, word in words.items() if name in bound and abs(bound[name]) < 2**53]
    return f" {_listed(told, 'and')}" if told else ""


def _bound(note: object) -> list[tuple[str, Any]]:
    return [(name, getattr(note, name)) for name in ("ge", "gt", "le", "lt") if hasattr(note, name)]


def _notes(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        return [*_notes(inner), *(each for note in notes for each in _notes(note))]
    if isinstance(annotation, FieldInfo):
        return [*annotation.metadata, *_notes(annotation.annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        return _notes(inner[0]) if len(inner) == 1 else []
    return [annotation]


def _instead(table: type[BaseModel], word: str) -> str:
    """Return where a key that is unknown in this table belongs, or which keys the table has."""
    known = [name for name in _keys(table) if not (table is Definition and name in _INTERNAL)]
    nearest = did_you_mean(word, known).removeprefix("; ")
    if table is not Definition and word in _keys(Definition) and word not in _INTERNAL:
        return "it belongs at the top of the file, above the first [table]"
    for name, field in _keys(Definition).items():
        section = _members(field.annotation)[0]
        elsewhere = section is not table and isinstance(section, type) and issubclass(section, BaseModel)
        if elsewhere and word in _keys(section):
            return f"it belongs in [{name}]"
    return f"{nearest} known here: {', '.join(known)}".lstrip()


def _listed(words: Iterable[str], last: str) -> str:
    *before, final = list(words)
    return f"{', '.join(before)} {last} {final}" if before else final
