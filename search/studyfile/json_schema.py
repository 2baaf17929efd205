"""The JSON Schema of a study file: editors complete and check a study by it while it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from search.studyfile.presets import PRESETS
from search.studyfile.schema import Definition

FILE = "study.schema.json"  # beside the studies, whose first line names it
_NOT_WRITTEN = ("path", "text")  # filled in when a file is read


def json_schema() -> dict[str, Any]:
    """Return the schema of a study file. What needs more than one key is checked when the file is read."""
    schema = Definition.model_json_schema()
    schema["title"] = "A study"
    for name in _NOT_WRITTEN:
        del schema["properties"][name]
    callbacks = schema["$defs"]["FitDefinition"]["properties"]["callbacks"]
    for kind in callbacks["anyOf"]:
        if kind.get("type") == "array":  # a callback without arguments may be its name alone
            kind["items"] = {"anyOf": [{"type": "string"}, kind["items"]]}
    schema["properties"]["space"]["properties"] = {"preset": {"type": "string", "enum": [*PRESETS]}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def as_text() -> str:
    """Return the schema as the file that ships."""
    return json.dumps(json_schema(), indent=1) + "\n"


def write(folder: Path) -> Path:
    """Write the schema into a folder of studies, and return the file."""
    path = folder / FILE
    path.write_text(as_text(), encoding="utf-8")
    return path
