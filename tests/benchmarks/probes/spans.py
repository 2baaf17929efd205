"""Runs one search by its own command, and writes when each part of it began and ended, as lines of JSON.

    SPANS=FILE python spans.py N_TRIALS

Worker processes find `instrumented/sitecustomize.py`, which is how their part is seen too.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FILE = Path(os.environ["SPANS"])


def write(name: str, start: float, end: float) -> None:
    """Add a line: who, what, from when to when (seconds since 1970)."""
    line = json.dumps({"who": f"{os.getpid()}:{threading.get_ident()}", "name": name, "start": start, "end": end})
    with _FILE.open("a") as file:
        file.write(line + "\n")


def timed(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    """Return the function, writing a line for every call."""

    @functools.wraps(function)
    def calls(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            write(label, start, time.time())

    return calls


def time_calls(owner: Any, name: str, label: str) -> None:
    """Time every call of a method, or of a function in every module of the package that knows it."""
    function = getattr(owner, name, None)
    if function is None:
        print(f"spans: {owner.__name__}.{name} is gone; {label} is not timed", file=sys.stderr)
        return
    wrapped = timed(function, label)
    setattr(owner, name, wrapped)
    for module in [each for title, each in sys.modules.items() if title.startswith("search.")]:
        for known in [known for known, value in vars(module).items() if value is function]:
            setattr(module, known, wrapped)


class _WhenImported(importlib.abc.MetaPathFinder):
    """Times the import of a module, and then calls a function with it."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            start = time.time()
            execute(module)
            write(f"import {name}", start, time.time())
            self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _time_tracking(mirror: Any) -> None:
    time_calls(mirror.Outbox, "drain", "drain")
    time_calls(mirror.Mirror, "_show", "mirror")


def _time_session(session: Any) -> None:
    from search import optimize

    for name in ("search", "_pool", "_open_store", "_storage"):
        time_calls(session, name, name)
    time_calls(session, "finish", "finish")
    time_calls(session.workers.LocalPool, "dry_run", "check")
    time_calls(session.workers.LocalPool, "close", "close")
    time_calls(optimize.Search, "optimize", "optimize")
    time_calls(optimize.Search, "_ask", "ask the sampler")
    time_calls(optimize.Search, "_create", "write the suggestion")
    time_calls(optimize.Search, "_run", "submit to a slot")
    time_calls(optimize.Search, "_tell", "record how a trial ended")


def time_workers() -> None:
    """Time what a worker does, from when its module is imported."""
    sys.meta_path.insert(0, _WhenImported("search.workers.worker", _time_worker))


def _time_worker(worker: Any) -> None:
    import optuna

    from search.training import fit, model, training, whole_epochs

    for name in ("try_out", "train", "_forget_model"):
        time_calls(worker, name, f"worker.{name}")
    time_calls(model, "build", "build")
    time_calls(training, "archive", "archive")
    time_calls(training, "summary", "summary")
    time_calls(fit, "evaluate", "evaluate")
    time_calls(whole_epochs, "pass_of", "graphs")
    for name in ("report", "should_prune"):
        time_calls(optuna.trial.Trial, name, "pruner")
    whole = fit.fit
    fit.fit = timed(lambda *args, callbacks, **kwargs: whole(*args, callbacks=[_clock(), *callbacks], **kwargs), "fit")


def _clock() -> Any:
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """Writes how long the first epoch took, with its tracing, and each of the others."""

        def on_train_begin(self, logs: object = None) -> None:
            self.last, self.label = time.time(), "first epoch"

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            now = time.time()
            write(self.label, self.last, now)
            self.last, self.label = now, "other epoch"

    return Clock()


def main() -> None:
    """Run the command."""
    write("interpreter", time.time(), time.time())
    sys.meta_path.insert(0, _WhenImported("search.tracking.mirror", _time_tracking))
    sys.meta_path.insert(0, _WhenImported("search.session", _time_session))
    from search import run

    write("commands", time.time(), time.time())
    time_calls(run, "start_forkserver", "start_forkserver")
    beside = str(Path(__file__).parent / "instrumented")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (beside, os.environ.get("PYTHONPATH", ""))))
    sys.argv = ["search.run", "--n-trials", sys.argv[1], "--quiet"]
    try:
        run.main()
    finally:
        write("exit", time.time(), time.time())


if __name__ == "__main__":
    main()
