"""The study file: found, read, checked whole, frozen. It never loads data and never imports Keras."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.errors import StudyFileError, UsageError, did_you_mean
from search.studyfile import messages, presets
from search.studyfile.checks import check_together
from search.studyfile.schema import Definition, is_file


def shipped_studies() -> dict[str, Path]:
    """Return the study files that ship with the package, by name."""
    checkout = Path(__file__).parents[2] / "studies"
    installed = Path(str(resources.files("search"))) / "studies"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_study(study: str) -> Path:
    """Return the study file that a path or a name stands for.

    A name is looked up in `studies/` of the working directory, then among the shipped ones.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(study)
    if path.suffix == ".toml" or path.parent != Path():
        if is_file(path):
            return path
        raise UsageError(f"{study}: no such study file; give a .toml file or a study's name")
    local = Path("studies") / f"{study}.toml"
    shipped = shipped_studies()
    if is_file(local):
        return local
    if study in shipped:
        return shipped[study]
    known = sorted({*shipped, *(file.stem for file in Path("studies").glob("*.toml"))})
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
        content = tomllib.loads(text)
    except OSError as error:
        raise StudyFileError(str(path), "", f"cannot be read ({error.strerror})", "give a readable file") from None
    except UnicodeDecodeError as error:
        raise StudyFileError(str(path), "", f"not UTF-8 text ({error.reason})", "save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # also a number of too many digits, tables nested too deeply
        raise StudyFileError(str(path), "", f"not valid TOML ({error})", "see https://toml.io") from None
    return parse_definition(content, path, text)


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
