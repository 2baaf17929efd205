"""What is wrong with a study file, in one line a person can act on: pydantic's errors, translated.

The JSON Schema says what may stand somewhere, and what else a table has.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import ErrorDetails

from search.errors import StudyFileError, did_you_mean, nearest_first
from search.studyfile.parameters import LARGEST, written
from search.studyfile.schema import Definition

Finding = tuple[str, str, str]  # key, what was found, what would be right
Schema = dict[str, Any]

_INTERNAL = ("path", "text")  # fields of `Definition` that are no keys of the file
_MANY = 10**6  # an upper bound from here on is only there to catch nonsense, and is not told
_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
_BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below"}


def explain(error: ValidationError, path: str) -> StudyFileError:
    """Return all that is wrong as one error of this package's own; misspelt keys come first."""
    wrong = findings(error, Definition)
    hints = " ".join(right for _, found, right in wrong if found == "unknown key")
    meant = (each for each in wrong if each[1] != "missing" or f"did you mean '{each[0]}'?" not in hints)
    (key, found, expected), *others = meant
    return StudyFileError(path, key, found, expected, tuple(others))


def unknown_key(path: str, key: str) -> StudyFileError:
    """Return the error for a key at the top of the file that is none."""
    top = _Place(TypeAdapter(Definition).json_schema())
    return StudyFileError(path, key, "unknown key", top.instead(key))


def findings(error: ValidationError, kind: Any) -> list[Finding]:
    """Return what is wrong with a value that should be of this kind; of a union's complaints the deepest."""
    try:
        root = TypeAdapter(kind).json_schema()
    except PydanticInvalidForJsonSchema:  # of a URL, whose check says itself what is wrong
        root = {}
    deepest: dict[str, tuple[ErrorDetails, _Place]] = {}
    for each in error.errors(include_url=False):
        place = _Place(root)
        place.follow(each["loc"])
        if place.key not in deepest or _depth(each) > _depth(deepest[place.key][0]):
            deepest[place.key] = each, place
    inner = [key for key in deepest if not any(each.startswith((f"{key}.", f"{key}[")) for each in deepest)]
    inner.sort(key=lambda key: deepest[key][0]["type"] != "extra_forbidden")
    return [_finding(*deepest[key]) for key in inner]


def _depth(error: ErrorDetails) -> tuple[int, bool]:
    return len(error["loc"]), error["type"] == "finite_number"


def _finding(first: ErrorDetails, place: _Place) -> Finding:
    kind, value = first["type"], first["input"]
    findings: dict[str, Callable[[], tuple[str, str]]] = {
        "extra_forbidden": lambda: ("unknown key", place.instead(str(first["loc"][-1]))),
        "missing": lambda: ("missing", f"give {place.expected()}"),
        "too_short": lambda: ("empty", f"give {place.expected()}"),
        "finite_number": lambda: (written(value), "use a finite number"),
        "less_than_equal": lambda: (written(value), f"use at most {first['ctx']['le']}"),
        "value_error": lambda: _two(str(first["ctx"]["error"])),
    }
    return (place.key, *findings[kind]()) if kind in findings else _wrong_value(place, value)


def _two(message: str) -> tuple[str, str]:
    """Return what was found and what would be right, of a check's message."""
    found, _, right = message.partition("; ")
    return found, right


def _wrong_value(place: _Place, value: object) -> Finding:
    if place.tags() and isinstance(value, dict):
        found = written(value["type"]) if "type" in value else "missing"
        hint = did_you_mean(str(value.get("type", "")), place.tags())
        return f"{place.key}.type", found, f"use {_listed(map(repr, place.tags()), 'or')}{hint}"
    known = [str(each) for member in place.members() for each in _listed_values(member)]
    hint = did_you_mean(value, known) if isinstance(value, str) else ""
    return place.key, written(value), f"use {place.expected()}{hint}"


class _Place:
    """A place in a study file: its dotted key, what may stand there, and the table that it is in."""

    def __init__(self, root: Schema) -> None:
        self._root, self.here, self.table, self.key = root, root, root, ""

    def follow(self, location: Sequence[int | str]) -> None:
        """Go to pydantic's location."""
        parts = list(location)
        while parts:
            part = parts.pop(0)
            members = self.members()
            if tags := self.tags():  # pydantic names the member of a union that it tried
                self.here = tags.get(str(part), self.here)
            elif len(members) > 1:
                containers = (each for each in members if each.get("type") in ("array", "object"))
                self.here = next(containers, {}) if parts else self.here
            else:
                self._enter(members[0], part)

    def _enter(self, schema: Schema, part: int | str) -> None:
        if "properties" in schema:
            self.table = schema
        more = schema.get("items", schema.get("additionalProperties"))
        inner = schema.get("properties", {}).get(part, more)
        self.here = inner if isinstance(inner, dict) else {}
        self.key += f"[{part}]" if isinstance(part, int) else f".{part}" if self.key else str(part)

    def members(self) -> list[Schema]:
        """Return what may stand here, one by one; listed texts only where no other text may."""
        found = self._members(self.here)
        any_text = any(each.get("type") == "string" and not _listed_values(each) for each in found)
        return [each for each in found if not (any_text and _listed_values(each))]

    def _members(self, schema: Schema) -> list[Schema]:
        whole = self._resolved(schema)
        several = whole.get("anyOf", whole.get("oneOf"))
        if several is None:
            return [whole]
        return [each for member in several for each in self._members(member) if each.get("type") != "null"]

    def _resolved(self, schema: Schema) -> Schema:
        name = schema.get("$ref", "").rpartition("/")[2]
        found: Schema = self._root["$defs"][name] if name else schema
        return found

    def tags(self) -> dict[str, Schema]:
        """Return the kinds of parameters that may stand here, by their `type`."""
        kinds = self._members(self.here) if "discriminator" in self._resolved(self.here) else []
        return {each["properties"]["type"]["const"]: each for each in kinds}

    def expected(self) -> str:
        """Return in words what may stand here."""
        if self.tags():
            return 'a table such as { type = "int", low = 1, high = 10 }'
        members = self.members()
        if {each.get("type") for each in members} == {*_WORDS}:
            return "a number, text, true or false"
        return _listed(map(self._one, members), "or")

    def _one(self, member: Schema) -> str:
        if values := _listed_values(member):
            return _listed(map(repr, values), "or")
        kind = member.get("type", "")
        if kind == "array":
            items = self._resolved(member.get("items", {}))
            several = "" if _listed_values(items) else items.get("type", "")
            return f"a list of {({'string': 'texts', 'object': 'tables'}).get(several, 'values')}"
        return _WORDS[kind] + _bounds(member) if kind in _WORDS else "a table"

    def instead(self, word: str) -> str:
        """Return where a key that is unknown in the table belongs, or which keys the table has."""
        top = self._root["properties"].keys() - {*_INTERNAL}
        known = [name for name in self.table.get("properties", {}) if self.table is not self._root or name in top]
        if self.table is not self._root and word in top:
            return "it belongs at the top of the file, above the first [table]"
        for name, field in self._root["properties"].items():
            section = self._members(field)[0]
            if section is not self.table and word in section.get("properties", {}):
                return f"it belongs in [{name}]"
        return nearest_first(word, known, f"known here: {', '.join(known)}")


def _listed_values(member: Schema) -> list[Any]:
    return [member["const"]] if "const" in member else list(member.get("enum", []))


def _bounds(member: Schema) -> str:
    """Return a number's bounds in words."""
    bounds = {name: member[name] for name in _BOUNDS if name in member and abs(member[name]) < LARGEST}
    if bounds.get("maximum", 0) >= _MANY:
        del bounds["maximum"]
    return f" {_listed([f'{_BOUNDS[name]} {bound}' for name, bound in bounds.items()], 'and')}" if bounds else ""


_PASTED = re.compile(r"\boptions = \{ .*? \}|\bdrop = \[.*?\]")
_TABLE = re.compile(r"^[ \t]*\[data\.options\]", re.MULTILINE)


def pasted(text: str, definition: Definition) -> str:
    """Return a hint whose `options` and `drop` keep what the study file has, so that its lines can be pasted there."""
    options = definition.data.options

    def merged(found: re.Match[str]) -> str:
        try:
            key, new = tomllib.loads(found[0]).popitem()
        except tomllib.TOMLDecodeError:  # it names what only the user can fill in
            return found[0]
        if key == "drop":
            return f"drop = {_toml([*definition.data.drop, *new])}"
        for name in options.keys() & new.keys():
            new[name] = _joined(options[name], new[name])
        if _TABLE.search(definition.text):
            return f"{' and '.join(f'{name} = {_toml(each)}' for name, each in new.items())} in [data.options]"
        return f"options = {_toml({**options, **new})}"

    return _PASTED.sub(merged, text)


def _joined(before: Any, new: Any) -> Any:
    """Return a list with what the file has and what a hint adds; of other values the hint's."""
    kept = before if isinstance(before, list) else [before]
    return [*kept, *(each for each in new if each not in kept)] if isinstance(new, list) else new


def _toml(value: Any) -> str:
    """Return a value as TOML, in one line."""
    if isinstance(value, Mapping):
        keys = (name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name) for name in value)
        pairs = ", ".join(f"{key} = {_toml(each)}" for key, each in zip(keys, value.values(), strict=True))
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False, default=str)


def _listed(words: Iterable[str], last: str) -> str:
    *before, final = list(words)
    return f"{', '.join(before)} {last} {final}" if before else final
