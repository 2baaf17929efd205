"""A logged model loaded in a process of its own, outside the study's folder: as whoever serves it will.

The process is forked from the server that has the framework imported already, and has none of the user's modules.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from search.data.summary import ANSWERS, Answers
from search.errors import ModelError, one_line
from search.studyfile.schema import Definition
from search.training.dry_run import DryRun, maker, reason_and_fix
from search.workers.process import Allotment, LocalSlot

_PATIENCE = 300.0  # seconds; loading takes less than one
_CLOSE = 0.01  # of a value, and of the largest value: graphs and precisions differ between processes


class FreshProcess:
    """A process that loads logged models; it is started before it is needed."""

    def __init__(self) -> None:
        self._slot = LocalSlot(Allotment(1))
        self._slot.submit(os.getpid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin_check(self, model_id: str) -> Callable[[], str]:
        """Begin to check a logged model of MLflow's as `check` does; what is returned waits for its answer."""
        from search.tracking.versions import folder_and_example

        return self._begin(*folder_and_example(model_id))

    def check(self, folder: Path, example: Any) -> str:
        """Load the model in a folder and predict an example; returns what is wrong, or an empty text.

        Args:
            folder: A logged model.
            example: Rows as the user sends them.
        """
        return self._begin(folder, example)()

    def _begin(self, folder: Path, example: Any) -> Callable[[], str]:
        future = self._slot.submit(loaded_elsewhere, str(folder), example)

        def answer() -> str:
            try:
                return str(future.result(_PATIENCE))
            except FutureTimeout:
                return f"it was not loaded within {_PATIENCE:g} s"
            except Exception as error:  # the process died, or what it raises cannot be told apart
                return one_line(error)

        return answer

    def close(self) -> None:
        """End the process."""
        self._slot.stop()


def check_loads(definition: Definition, tried: DryRun) -> None:
    """Log and load the untrained model of a dry run in a throw-away folder, the whole way to its predictions.

    Raises:
        ModelError: It cannot be logged, or cannot be loaded outside the study's folder.
    """
    if not tried.archive:
        return
    from search.serving import CODE
    from search.tracking import logged_model
    from search.tracking.user_code import model_code

    where = maker(definition)
    with FreshProcess() as process, tempfile.TemporaryDirectory(prefix="search-dry-run-") as folder:
        place = Path(folder) / "model"
        try:
            code = model_code(definition)
            example = logged_model.write(place, tried.archive, tried.data, code, tried.answers)
        except Exception as error:
            raise ModelError(f"{where}: the model cannot be logged to MLflow ({one_line(error)})") from error
        wrong = process.check(place, example).replace(f"{place / CODE}{os.sep}", "")
    if wrong:
        told, mended = reason_and_fix(wrong)
        raise ModelError(f"{where}: the model cannot be loaded outside the study's folder ({told}); {mended}")


def loaded_elsewhere(folder: str, example: Any) -> str:
    """Load a model with its own code alone, predict, and compare; returns what is wrong, or an empty text."""
    file = Path(folder) / ANSWERS
    with _elsewhere():
        try:
            model = _loader(Path(folder))._load_pyfunc(folder)  # noqa: SLF001 - the name MLflow calls
            model.predict(example)
            known = Answers.from_bytes(file.read_bytes()) if file.is_file() else None
            return "" if known is None or not known.outputs else _compared(known, model.outputs(known.inputs))
        except (Exception, SystemExit) as error:  # whatever the user's own code raises when it is imported
            return one_line(error)


def _compared(known: Answers, predicted: Any) -> str:
    found = predicted if isinstance(predicted, dict) else {"": predicted}
    for name, expected in known.outputs.items():
        got = np.asarray(found.get(name, np.nan), float)
        scale = _CLOSE * float(np.nanmax(np.abs(expected), initial=0))
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=_CLOSE, atol=scale, equal_nan=True):
            where = f" of output '{name}'" if name else ""
            return (
                f"its predictions{where} are not those of the trained model ({_first(got)} for {_first(expected)}); "
                "weights or settings of a layer are not saved with it"
            )
    return ""


def _first(values: Any) -> str:
    flat = np.asarray(values, float).reshape(-1)
    return f"{flat[0]:.6g}" if len(flat) else "none"


def _loader(folder: Path) -> ModuleType:
    """Import the version's own loader from its folder of code."""
    found = next((folder / "code").glob("search_serving_*"))  # a package; of an earlier release a file
    sys.path.insert(0, str(folder / "code"))
    try:
        return importlib.import_module(found.stem)
    finally:
        sys.path.remove(str(folder / "code"))


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Work in an empty folder, with the installed packages alone on Python's path."""
    before, path = Path.cwd(), list(sys.path)
    installed = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    with tempfile.TemporaryDirectory(prefix="search-fresh-") as empty:
        os.chdir(empty)
        sys.path[:] = [each for each in path if _is_installed(each, installed)]
        try:
            yield
        finally:
            os.chdir(before)
            sys.path[:] = path


def _is_installed(entry: str, installed: tuple[str, ...]) -> bool:
    parts = Path(entry).parts
    return "site-packages" in parts or "dist-packages" in parts or entry.startswith(installed)
