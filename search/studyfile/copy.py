"""A study of one's own, as a copy of another. It overwrites nothing."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from search.errors import UsageError
from search.studyfile.load import check_objects, load_definition, parse_definition
from search.studyfile.schema import Definition

_NAME_LINE = re.compile(r"""^name[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*')""", re.MULTILINE)


def copy_study(
    name: str, source: Path, folder: Path, imported: Callable[[list[Path]], Iterable[Path]] = lambda _: ()
) -> list[Path]:
    """Copy a study file, and the files that it names, so that the copy runs at once.

    Args:
        name: The new study's name; the file becomes `folder/<name>.toml`.
        source: The study file to copy.
        folder: Where the copy goes, made when needed; files keep their place relative to the study file.
        imported: Returns the files that Python files import.

    Returns:
        The files that were written, the study file first.

    Raises:
        UsageError: The name cannot be a study's, the source does not run, or a file exists
            already and differs; nothing was written.
    """
    definition = load_definition(source)
    check_objects(definition, b"")
    text = _renamed(definition, name)
    files = _relative_files(definition)
    python = [definition.folder / file for file in files if file.suffix == ".py"]
    below = definition.folder.resolve()
    files += [file.relative_to(below) for file in imported(python) if file.is_relative_to(below)]
    copies = {folder / file: definition.folder / file for file in files}
    target = folder / f"{name}.toml"
    _refuse_to_overwrite(target, copies)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    written = [target]
    for copy, original in copies.items():
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, copy)
            written.append(copy)
    return written


def _renamed(definition: Definition, name: str) -> str:
    """Return the study file's text under a new name."""
    if Path(name).name != name or "\\" in name:
        raise UsageError(f"'{name}' is a path, not a study name; the study is written to studies/NAME.toml")
    parse_definition({**tomllib.loads(definition.text), "name": name}, definition.path)  # a legal name?
    text, replaced = _NAME_LINE.subn(lambda _: f'name = "{name}"', definition.text, count=1)
    if not replaced:
        raise UsageError(f'{definition.path}: no line name = "…" to replace; copy the file by hand')
    return text


def _relative_files(definition: Definition) -> list[Path]:
    """Return the files that the study needs beside it, relative to the study file's folder."""
    files = list(definition.files.values())
    path = definition.data.options.get("path")  # a data function's own file, as in `reuters`
    if isinstance(path, str) and (definition.folder / path).is_file():
        files.append(Path(path))
    return sorted({file for file in files if not file.is_absolute() and ".." not in file.parts})


def _refuse_to_overwrite(target: Path, copies: dict[Path, Path]) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already; give the new study another name")
    for copy, original in copies.items():
        if copy.exists() and copy.read_bytes() != original.read_bytes():
            raise UsageError(f"{copy} exists already and is another file than {original}; move it away first")


def files_of(definition: Definition) -> set[Path]:
    """Return the files that a study needs beside its study file, the neighbours of its Python files too."""
    named = {definition.folder / file for file in _relative_files(definition)}
    neighbours = {each for file in named if file.suffix == ".py" for each in file.parent.glob("*.py")}
    return {file for file in named | neighbours if file.is_file()}


def common_layout(files: set[Path], study_file: Path) -> tuple[dict[str, Path], str]:
    """Return files by their path below their common folder, and the study file's own such path."""
    resolved = {Path(os.path.normpath(each.absolute())) for each in {*files, study_file}}
    study = Path(os.path.normpath(study_file.absolute()))
    root = Path(os.path.commonpath([each.parent for each in resolved]))
    named = {each.relative_to(root).as_posix(): each for each in resolved if each != study}
    return named, study.relative_to(root).as_posix()
