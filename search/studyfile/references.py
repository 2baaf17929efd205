"""What a study file names in Python, `<file.py>:<name>` or `<module>:<name>`: imported, once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from search.errors import ModelError, did_you_mean, one_line
from search.studyfile import objects

_OWN = "__search_loaded__"  # marks the modules that were imported from a user's file


def load_object(reference: str, folder: Path, key: str) -> Any:
    """Return what `<file.py>:<name>`, `<module>:<name>` or `object:<name>` stands for.

    Raises:
        ModelError: The module cannot be imported, or has no such name.
    """
    where, _, name = reference.partition(":")
    if where == objects.PREFIX:
        return objects.provided(name, key)
    try:
        module = _load_file(folder / where) if where.endswith(".py") else importlib.import_module(where)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # the user's own module may raise anything, and may exit
        raise ModelError(f"{key}: {where} cannot be imported ({one_line(error)})") from error
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise ModelError(f"{key}: {where} has no '{name}'{did_you_mean(name, known)}")
    return getattr(module, name)


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
        raise ImportError(f"{path.name} is no Python file")
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
