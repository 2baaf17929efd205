"""A version's own code: the user's modules, imported under a name of their own for each version.

What they register with Keras is seen by that version alone: two versions in one process never share a layer.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any

CODE = "user_code"
OBJECTS = "objects.pickle"  # in it: what a program without files registered with Keras
_lock = threading.RLock()


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of the user's so that its imports of its neighbours find the same version's."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module with an `__import__` of its own."""
        package = module.__name__.partition(".")[0]
        folder = Path(sys.modules[package].__path__[0])
        own = vars(builtins) | {"__import__": _importer(package, folder)}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules below one version's package, in the folder that was loaded last: an earlier one may be gone."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002 - Python's interface
        """Return where a module of the version is, with the loader above."""
        if not fullname.startswith(f"{self._package}."):
            return None
        folder = os.path.join(sys.modules[self._package].__path__[0], *fullname.split(".")[1:-1])
        spec = importlib.machinery.PathFinder.find_spec(fullname, [folder], target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def _importer(package: str, folder: Path) -> Any:
    """Return an `__import__` that takes the version's own modules before all others."""
    own = {file.stem for file in folder.iterdir() if file.is_dir() or file.suffix == ".py"}

    def import_own(
        name: str,
        globals: Any = None,  # noqa: A002 - the names of `__import__`
        locals: Any = None,  # noqa: A002
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        if level or top not in own:
            found = builtins.__import__(name, globals, locals, fromlist, level)
            return _importlib_with(import_own) if found is importlib else found
        if fromlist:
            return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{package}.{name}")
        return sys.modules[f"{package}.{top}"]

    return import_own


def _importlib_with(import_own: Any) -> types.ModuleType:
    """Return Python's `importlib` with an `import_module` that takes the version's own modules before all others."""

    def import_module(name: str, package: str | None = None) -> Any:
        return importlib.import_module(name, package) if package else import_own(name, fromlist=("*",))

    made = types.ModuleType("importlib")
    vars(made).update(vars(importlib), import_module=import_module)
    return made


def _package(folder: Path) -> str:
    """Return the package under which the code in a folder is imported; equal code shares one."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    name = f"search_model_{digest.hexdigest()[:16]}"
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.meta_path.insert(0, _Finder(name))
    sys.modules[name].__path__ = [str(folder)]
    return name


def _registered(folder: Path, modules: list[str]) -> dict[str, Any]:
    """Import a version's modules; return what they registered with Keras, which forgets it again."""
    import keras

    known = keras.saving.get_custom_objects()
    before = dict(known)
    package = _package(folder)
    try:
        for module in modules:
            importlib.import_module(f"{package}.{module}")
        own = {name: registered for name, registered in known.items() if before.get(name) is not registered}
    finally:
        known.clear()
        known.update(before)
    kept: dict[str, Any] = vars(sys.modules[package]).setdefault("registered", {})
    kept.update(own)  # a module that is imported already registers nothing again
    pickled = folder / OBJECTS
    return dict(kept) | (_Unpickler(pickled, package).load() if pickled.is_file() else {})


class _Unpickler(pickle.Unpickler):
    """Reads a program's objects so that the modules that they refer to are the same version's."""

    def __init__(self, file: Path, package: str) -> None:
        super().__init__(io.BytesIO(file.read_bytes()))
        self._import = _importer(package, file.parent)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in a module stands for."""
        if name == "subimport":  # cloudpickle's, for a module that a function uses as a whole
            return self._module
        found = self._module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def _module(self, name: str) -> Any:
        return self._import(name, fromlist=("*",))


def _choose_backend(backend: str) -> None:
    """Let Keras use the backend that trained the model, where it is not imported yet and nobody chose another."""
    if backend != "tensorflow" and "keras" not in sys.modules and importlib.util.find_spec(backend) is not None:
        os.environ.setdefault("KERAS_BACKEND", backend)


def load_keras(path: str | Path) -> Any:
    """Return the Keras model in the folder of a logged model, with its own version of the user's code."""
    folder = Path(path)
    described = json.loads((folder / "search.json").read_text())
    _choose_backend(described.get("backend", "tensorflow"))
    import keras

    with _lock:
        own = _registered(folder / CODE, described["modules"]) if (folder / CODE).is_dir() else {}
        with keras.saving.custom_object_scope(own):
            return keras.saving.load_model(folder / "data" / "model.keras", compile=False)
