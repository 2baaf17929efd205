"""The user's Python code that a registered model needs: found by its imports, copied, its packages pinned.

It reads source text and imports nothing of the user's.
"""

from __future__ import annotations

import ast
import functools
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from search.serving import OBJECTS
from search.studyfile import objects
from search.studyfile.copy import common_layout, files_of
from search.studyfile.registry import parted
from search.studyfile.schema import Definition
from search.studyfile.secret import without_secrets

_LARGEST_FILE = 50_000_000  # bytes of a data file that is kept with the search


@dataclass
class UserCode:
    """What a model's code consists of.

    Attributes:
        modules: The modules to import when the model is loaded, dotted.
        files: Each file to copy, by its place below the folder of code.
        packages: Installed distributions that the code imports.
        objects: What a program registered with Keras, pickled by name; empty when that is nothing.
    """

    modules: list[str] = field(default_factory=list)
    files: dict[Path, Path] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    objects: bytes = b""

    def copy_to(self, folder: Path) -> None:
        """Copy the files into a folder, each at its place."""
        for place, file in self.files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)
        if self.objects:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / OBJECTS).write_bytes(self.objects)


def keep(definition: Definition, folder: Path) -> tuple[str, list[str]]:
    """Copy a study file without its secrets, and the files that it needs, into a folder.

    Returns:
        The study file's path in the folder, and the files that are gone or too large to be kept.
    """
    files, study_file = common_layout(files_needed(definition), definition.path)
    missing = list(_copied(files, folder))
    copy = folder / study_file
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(without_secrets(definition.text), encoding="utf-8")
    return study_file, missing


def files_needed(definition: Definition) -> set[Path]:
    """Return the files that a study needs, and the user's own modules that they import."""
    named = files_of(definition)
    imported: set[Path] = set()
    with suppress(SyntaxError, UnicodeDecodeError, OSError):  # a file beside the study's own that is no Python
        imported = set(collect(sorted(file for file in named if file.suffix == ".py")).files.values())
    below = definition.path.absolute().parent.resolve()
    return named | {file for file in imported if file.is_relative_to(below)}


def _copied(files: Mapping[str, Path], folder: Path) -> Iterator[str]:
    """Copy files into a folder, and yield the names of those that are not copied."""
    for name, path in files.items():
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            yield name
            continue
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def model_code(definition: Definition) -> UserCode:
    """Return the code that the study's model needs when it is loaded."""
    named = [each for each in (definition.model.build, definition.model.export) if each and ":" in each]
    given = [each.partition(":")[2] for each in named if each.startswith(f"{objects.PREFIX}:")]
    if not given:
        return collect(_model_files(definition, named))
    pickled, modules = objects.own_code(given)
    code = collect(sorted(file for name in modules if (file := _users_file(name)) is not None))
    for name in modules - {"__main__"}:
        code.packages |= set(_distributions().get(name.partition(".")[0], ()))
    code.objects = pickled
    return code


def _users_file(module: str) -> Path | None:
    """Return the file of a module of the user's; None for one that is installed."""
    if module.partition(".")[0] in {*sys.stdlib_module_names, "search", "__main__"} or _is_installed(module):
        return None
    return _find(module, [*map(Path, sys.path)])


def _model_files(definition: Definition, named: Sequence[str]) -> list[Path]:
    """Return the files that build the study's model; what only loads data or watches training is not among them."""
    found = []
    for where, _ in map(parted, named):
        if where.endswith(".py"):
            found.append((definition.folder / where).resolve())
        elif (file := _find(where, [*map(Path, sys.path)])) is not None and not _installed(file):
            found.append(file.resolve())
    return sorted(set(found))


def collect(roots: Sequence[Path]) -> UserCode:
    """Return the code that these files need, themselves included.

    A module is the user's when it stands beside the file that imports it, or on Python's path outside
    the installed packages. Imports inside functions count.
    """
    code = UserCode()
    for root in roots:
        file = root.resolve()
        base = _base(file)
        code.modules.append(_dotted(file.relative_to(base)))
        _add(code, file, base)
    return code


def _add(code: UserCode, file: Path, base: Path) -> None:
    """Add a file, the packages above it, and what it imports."""
    place = file.relative_to(base)
    if place in code.files:
        return
    code.files[place] = file
    for above in place.parents:
        if (init := base / above / "__init__.py").is_file() and above != Path():
            _add(code, init, base)
    for name in _imported(file, place):
        _add_module(code, name, file, base)


def _add_module(code: UserCode, name: str, importer: Path, base: Path) -> None:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "search":
        return
    beside = [base, importer.parent]
    on_path = [] if _is_installed(name) else [*map(Path, sys.path)]
    for folder in dict.fromkeys([*beside, *on_path]):
        found = _find(name, [folder])
        if found is not None and not _installed(found) and not _installed(found.resolve()):
            _add(code, found.absolute(), folder.absolute())  # a link leads out of the folder
            return
    code.packages |= set(_distributions().get(top, ()))


def _is_installed(name: str) -> bool:
    """Return whether a module is among the installed packages, whatever else on Python's path has its name."""
    return any((found := _find(name, [Path(each)])) is not None and _installed(found) for each in sys.path)


def _imported(file: Path, place: Path) -> Iterator[str]:
    """Yield each module that a file imports by its full name, and each name in it that may be a module."""
    package = place.parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8-sig"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module:
                yield module
            yield from (".".join(filter(None, (module, alias.name))) for alias in node.names)
        elif isinstance(node, ast.Call) and (name := _called_for(node)):
            yield ".".join([*package, name.lstrip(".")]) if name.startswith(".") else name


def _called_for(call: ast.Call) -> str:
    """Return the module that `importlib.import_module` is called for; empty for other calls."""
    function = getattr(call.func, "attr", getattr(call.func, "id", ""))
    first = call.args[0] if call.args else None
    named = first.value if isinstance(first, ast.Constant) and function in ("import_module", "__import__") else ""
    return named if isinstance(named, str) else ""


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    """Return the file of a module below one of these folders; None where there is none."""
    parts = name.split(".")
    for folder in folders:
        for end in (folder.joinpath(*parts, "__init__.py"), folder.joinpath(*parts).with_suffix(".py")):
            if end.is_file() and parts[-1] != "*":
                return end
    return None


def _installed(file: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in file.parts) or str(file.parent).startswith(
        str(Path(ast.__file__).parent)
    )


def _base(file: Path) -> Path:
    """Return the folder that a file's dotted name starts from: above its outermost package."""
    base = file.parent
    while (base / "__init__.py").is_file():
        base = base.parent
    return base


def _dotted(place: Path) -> str:
    parts = place.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    return metadata.packages_distributions()


def pinned(packages: set[str]) -> list[str]:
    """Return these distributions pinned to what is installed, sorted."""
    return [f"{name}=={metadata.version(name)}" for name in sorted(packages)]
