"""What a study file names in Python, `<file.py>:<name>` or `<module>:<name>`: imported, once."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from search.errors import ModelError, did_you_mean, one_line
from search.studyfile import objects
from search.studyfile.registry import PYTHON, SOURCES, parted

_OWN = "__search_loaded__"  # marks the modules that were imported from a user's file
_OURS = ("keras", "sklearn", "search")  # what the package itself runs anyway


def load_object(reference: str, folder: Path, key: str) -> Any:
    """Return what `<file.py>:<name>`, `<module>:<name>` or `object:<name>` stands for.

    Of a module only a function or class of a package is accepted: a study file that names one of Python's
    own (`os:system`) would run whatever stands in it.

    Raises:
        ModelError: The module cannot be imported, or has no such name, or may not be named.
    """
    where, name = parted(reference)
    if where == objects.PREFIX:
        return objects.provided(name, key)
    if not where.endswith(".py") and _of_python(where):
        raise ModelError(f"{key}: {where} is Python's own module; name a function of yours, <file.py>:<name>")
    try:
        module = _load_file(folder / where) if where.endswith(".py") else importlib.import_module(where)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # the user's own module may raise anything, and may exit
        circular = isinstance(error, ImportError) and error.name == Path(where).stem and error.path is not None
        hint = "; the files import each other" if circular else ""
        raise ModelError(f"{key}: {where} cannot be imported ({one_line(error)}){hint}") from error
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise ModelError(f"{key}: {where} has no '{name}'{did_you_mean(name, known)}")
    found = getattr(module, name)
    if not callable(found):
        raise ModelError(f"{key}: {reference} is {type(found).__name__}; name a function or a class")
    if not where.endswith(".py"):
        _check_kind(found, reference, key)
    return found


def check_reference(reference: str, folder: Path, key: str, told: str = "") -> None:
    """Refuse what a file or module surely does not have, by its source alone: nothing is imported or run.

    Args:
        reference: `<file.py>:<name>` or `<module>:<name>`.
        folder: The study file's.
        key: What names it.
        told: The module's name for people; its own when left out.

    Raises:
        ModelError: There is no such module or name, or the file is not valid Python.
    """
    where, name = parted(reference)
    if where == objects.PREFIX or (not where.endswith(".py") and _of_python(where)):
        return
    source = folder / where if where.endswith(".py") else _source_of(where, folder, key)
    if source is None or not source.is_file():
        return
    try:
        known = _names_of(source)
    except (SyntaxError, ValueError) as error:
        raise ModelError(f"{key}: {where} cannot be imported ({one_line(error)})") from None
    hint = did_you_mean(name, (each for each in known if not each.startswith("_")))
    if name not in known and (hint or not known & _MAKE_NAMES):
        raise ModelError(f"{key}: {told or where} has no '{name}'{hint}")


def _source_of(module: str, folder: Path, key: str) -> Path | None:
    """Return where a module's source lies; None where that is not known without importing what it is in."""
    root, *inner = module.split(".")
    if root in sys.modules:
        spec = getattr(sys.modules[root], "__spec__", None)
    else:
        spec = importlib.util.find_spec(root) or importlib.machinery.PathFinder.find_spec(root, [str(folder)])
        if spec is None:
            raise ModelError(f"{key}: {module} cannot be imported (ModuleNotFoundError: No module named '{root}')")
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    for part in inner:
        path = path.parent / part / "__init__.py" if (path.parent / part).is_dir() else path.parent / f"{part}.py"
        if not path.is_file():
            return None
    return path


_MAKE_NAMES = {"*", "globals", "vars", "setattr", "exec", "__getattr__"}  # what gives a module names when it runs


def _names_of(source: Path) -> set[str]:
    """Return the names that a file has, those of neighbours of which it imports everything among them."""
    tree = ast.parse(source.read_bytes(), str(source))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    files = {source.parent / f"{(node.module or '').replace('.', '/')}.py" for node in imports}
    trees = [tree, *(ast.parse(file.read_bytes(), str(file)) for file in files if file.is_file())]
    return set().union(*map(_names, trees))


def _names(tree: ast.Module) -> set[str]:
    """Return the names that a module has, and the texts in its `__all__`."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {each.asname or each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["__all__"]:
            found |= {str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant)}
        waiting += ast.iter_child_nodes(node)
    return found


def _of_python(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root == "__main__"


def _check_kind(found: Any, reference: str, key: str) -> None:
    """Check that what a module has under a name is its own or another package's."""
    home = inspect.getmodule(found)
    module = getattr(found, "__module__", None) or (home.__name__ if home else "")
    if (inspect.isroutine(found) or inspect.isclass(found)) and _of_python(str(module)):
        raise ModelError(f"{key}: {reference} is Python's own '{found.__name__}'; name a function of yours")


def from_outside(references: Mapping[str, str], folder: Path) -> list[str]:
    """Return what of a study file's references lies outside its folder, each with where it lies.

    Args:
        references: The references by key.
        folder: The study file's folder.
    """
    found = []
    for key, reference in references.items():
        where, rest = parted(reference)
        if where.endswith(".py") or (key == "data.source" and SOURCES.get(where, PYTHON).file):
            path = (folder / (where if where.endswith(".py") else rest)).resolve()
            if not path.is_relative_to(folder.resolve()):
                found.append(f"{key} = {reference} (file {path})")
        elif rest and where not in (*SOURCES, objects.PREFIX) and where.partition(".")[0] not in _OURS:
            found.append(f"{key} = {reference} ({_home(where.partition('.')[0])})")
    return found


def _home(root: str) -> str:
    """Return where a module lies, without importing it."""
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        spec = None
    return f"module {spec.origin}" if spec is not None and spec.origin else f"module {root}"


def _load_file(path: Path) -> ModuleType:
    """Import a user's file once, under its own name, with its neighbours importable."""
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if _hides(path):
        raise ModelError(f"{path.name}: a file of this name would hide the module '{path.stem}'; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    setattr(module, _OWN, True)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _hides(path: Path) -> bool:
    """Return whether other code may mean another module by this file's name."""
    known = sys.modules.get(path.stem)
    if path.stem in sys.stdlib_module_names:
        return True
    if known is not None:
        return not hasattr(known, _OWN)
    try:
        found = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        return False
    installed = found is not None and "site-packages" in str(found.origin)
    return installed and str(path) != str(found and found.origin)


def overrides(made: object, base: type, *names: str) -> bool:
    """Return whether an object, or a class, of the user's has other methods of these names than `base` has."""
    found = [getattr(made, name) for name in names]
    return any(
        getattr(each, "__func__", each) is not getattr(base, name) for each, name in zip(found, names, strict=True)
    )
