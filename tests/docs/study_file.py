"""Writes docs/study-file.md from the study file's JSON Schema: `python -m tests.docs.study_file`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from search.studyfile.json_schema import json_schema

PAGE = Path(__file__).parents[2] / "docs" / "study-file.md"
_HEAD = """# The study file, key by key

Every key of a study file, made from the JSON Schema that `python -m search.new --schema` prints
(`python -m tests.docs.study_file` writes this page). A table that is not named here takes any key.
"""
# Each definition of the schema with the place in the file where it stands.
_TABLES = {
    "DataDefinition": "`[data]`",
    "ModelDefinition": "`[model]`",
    "FitDefinition": "`[fit]`",
    "EarlyStopping": "`[fit] early_stopping`",
    "LearningRateSchedule": "`[fit] learning_rate_schedule`",
    "CallbackDefinition": "a table in `[fit] callbacks`",
    "MetricDefinition": "an entry of `[metrics]`",
    "IntParameter": 'an entry of `[space]` with `type = "int"`',
    "FloatParameter": 'an entry of `[space]` with `type = "float"`',
    "CategoricalParameter": 'an entry of `[space]` with `type = "categorical"`',
    "SearchDefinition": "`[search]`",
    "WarmStart": "`[search] warm_start`",
}


def page() -> str:
    """Return the page."""
    schema = json_schema()
    known = schema["$defs"]
    parts = [_HEAD, _section("The file", schema)]
    parts += [
        _section(_TABLES.get(name, f"`{name}`"), known[name]) for name in [*_TABLES, *sorted({*known} - {*_TABLES})]
    ]
    return "\n".join(parts)


def _section(title: str, table: dict[str, Any]) -> str:
    about, _, attributes = table.get("description", "").partition("\n\nAttributes:\n")
    meanings = _meanings(attributes)
    required = table.get("required", [])
    lines = [f"## {title[0].upper()}{title[1:]}", "", about.replace("\n", " "), ""]
    lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, each in table.get("properties", {}).items():
        default = "required" if key in required else _default(each)
        named = each.get("title", key).lower().replace(" ", "_")
        meaning = each.get("description") or meanings.get(named, meanings.get(key, ""))
        cells = (f"`{key}`", _kind(each), default, meaning.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _meanings(text: str) -> dict[str, str]:
    """Return what a docstring says of each attribute."""
    joined = re.sub(r"\n {8,}", " ", text)
    return dict(re.findall(r"^ *(\w+): (.*)$", joined, re.MULTILINE))


def _default(each: dict[str, Any]) -> str:
    value = each.get("default")
    return "" if value in (None, [], "") or isinstance(value, dict) else f"`{json.dumps(value)}`"


def _kind(each: dict[str, Any]) -> str:
    """Return what a value may be, in words."""
    if "$ref" in each:
        name = each["$ref"].rpartition("/")[2]
        return _TABLES.get(name, f"`{name}`")
    if "anyOf" in each or "oneOf" in each:
        kinds = [_kind(one) for one in each.get("anyOf", each.get("oneOf")) if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in each:
        return " · ".join(f"`{json.dumps(value)}`" for value in each["enum"])
    if "const" in each:
        return f"`{json.dumps(each['const'])}`"
    if each.get("type") == "array":
        items = each.get("items", {})
        return f"list of: {_kind(items)}" if items else "list"
    if each.get("type") == "object":
        inner = each.get("additionalProperties")
        return f"table of: {_kind(inner)}" if isinstance(inner, dict) and inner else "table"
    if "pattern" in each:
        return "`<file.py>:<function>` · `<module>:<function>`" if "description" not in each else "text"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` · `false`"}
    return words.get(each.get("type", ""), "any value") + _bounds(each)


def _bounds(each: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {each[key]}" for key, sign in signs.items() if key in each and abs(each[key]) < 2**53]
    return f" {', '.join(found)}" if found else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
