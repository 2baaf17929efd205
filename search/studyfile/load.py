"""The study file: found, read, checked whole, frozen. It never loads data and never imports Keras."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.errors import StudyFileError, UsageError, did_you_mean
from search.studyfile import messages, presets
from search.studyfile.checks import check_together
from search.studyfile.objects import PREFIX
from search.studyfile.schema import Definition, is_file
from search.studyfile.secret import without_secrets
from search.system import whole

MADE = ".json"  # ends the name of a definition that a Python program left
_STUDIES = Path("studies")


def shipped_studies() -> dict[str, Path]:
    """Return the study files that ship with the package, by name."""
    checkout = Path(__file__).parents[2] / "studies"
    installed = Path(str(resources.files("search"))) / "studies"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def made_in_python(name: str, beside: Path) -> Path:
    """Return where the definition of a study that a Python program made lies: beside the study's journal."""
    return beside / f"{name}{MADE}"


def find_study(study: str, beside: Path = _STUDIES) -> Path:
    """Return the study file that a path or a name stands for.

    A name is looked up in `studies/` of the working directory, then among the definitions that Python programs left,
    then among the shipped files.

    Args:
        study: The path or the name.
        beside: The folder of the study's journal.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(study)
    if path.suffix in (".toml", MADE) or path.parent != Path():
        if is_file(path):
            return path
        raise UsageError(f"{study}: no such study file; give a .toml file or a study's name")
    shipped = shipped_studies()
    for local in (_STUDIES / f"{study}.toml", made_in_python(study, beside)):
        if is_file(local):
            return local
    if study in shipped:
        return shipped[study]
    made = {file.stem for file in beside.glob(f"*{MADE}") if not file.stem.endswith(".schema")}
    known = sorted({*shipped, *made, *(file.stem for file in _STUDIES.glob("*.toml"))})
    raise UsageError(
        f"no study '{study}' in studies/ or among the shipped ones ({', '.join(known)}){did_you_mean(study, known)}"
    )


def load_definition(path: Path) -> Definition:
    """Read and check a study file.

    Raises:
        StudyFileError: The file cannot be read, or says something that cannot be; the message
            names file, key, what was found and what would be right.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark before UTF-8
        if path.suffix == MADE:
            return _made(json.loads(text), path)
        content = tomllib.loads(text)
    except OSError as error:
        raise StudyFileError(str(path), "", f"cannot be read ({error.strerror})", "give a readable file") from None
    except UnicodeDecodeError as error:
        raise StudyFileError(str(path), "", f"not UTF-8 text ({error.reason})", "save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # also a number of too many digits, tables nested too deeply
        raise _not_valid(path, text, str(error)) from None
    return parse_definition(content, path, text)


def _made(content: Any, path: Path) -> Definition:
    """Return the definition of a study that a Python program made; relative paths start from that program's folder."""
    if not isinstance(content, dict) or not isinstance(content.get("study"), dict):
        raise StudyFileError(str(path), "study", "missing", "give the file that Study.optimize wrote, or a .toml file")
    folder = Path(str(content.pop("folder", path.parent)))
    return parse_definition(content["study"], folder / path.name, json.dumps(content, indent=2))


def keep_made(definition: Definition, beside: Path) -> str:
    """Write the definition of a study that a Python program made beside its journal, where the commands find it.

    Returns:
        Why it is not written; empty where it is.
    """
    file = made_in_python(definition.name, beside)
    try:
        if file.exists() and not {"study", "folder"} <= json.loads(file.read_text(encoding="utf-8")).keys():
            raise ValueError
    except (ValueError, AttributeError):
        return f"{file} is a file of another kind, so the commands do not know study '{definition.name}'"
    content = {**json.loads(without_secrets(definition.text)), "folder": str(definition.folder.absolute())}
    whole.write(file, json.dumps(content, indent=2).encode())
    return ""


def check_objects(definition: Definition, objects: bytes) -> None:
    """See that what a definition made in Python refers to is there.

    Raises:
        UsageError: It lies in the program that made the study.
    """
    given = [key for key, each in definition.references.items() if each.startswith(f"{PREFIX}:")]
    if given and not objects:
        raise UsageError(
            f"study '{definition.name}' was made in Python: {', '.join(given)} lie in that program alone, in no file; "
            "run it there, or write a study file"
        )


_PLACE = re.compile(r" \(at line (\d+), column \d+\)")


def _not_valid(path: Path, text: str, error: str) -> StudyFileError:
    """Return the error of a file that is no TOML, with the line where the parser met it, or no JSON."""
    form, at = "JSON" if path.suffix == MADE else "TOML", _PLACE.search(error)
    line = text.splitlines()[int(at[1]) - 1].strip() if at is not None else ""
    told = f"{_PLACE.sub('', error)}, line {at[1]}: {line}" if at is not None else error
    return StudyFileError(str(path), "", f"not valid {form} ({told})", f"use valid {form}")


def parse_definition(content: Mapping[str, Any], path: Path, text: str = "") -> Definition:
    """Check the content of a study file; `path` is what its relative paths start from.

    Raises:
        StudyFileError: As `load_definition`.
    """
    for reserved in ("path", "text"):
        if reserved in content:
            raise messages.unknown_key(str(path), reserved)
    try:
        definition = Definition.model_validate({**presets.expanded(content, str(path)), "path": path, "text": text})
    except ValidationError as error:
        raise messages.explain(error, str(path)) from None
    check_together(definition)
    return definition
