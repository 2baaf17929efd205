"""What a trial costs in each storage, against plain Optuna on SQLite (4 minutes; `--quick` 1).

A trial trains nothing: three parameters, 20 reports, each followed by `should_prune`. One process,
and four at the same time on one study. PostgreSQL is a real one (pgserver), when that is installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import optuna

from search.study.storage import open_storage
from tests.benchmarks.timing import HERE, PYTHON, Size, alternate, empty_folder, median, ratio, spread, table

_BASE = "plain Optuna, SQLite"


def cost(url: str, how: str, processes: int, n_trials: int) -> float:
    """Return the seconds that a trial takes its process, on a new study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url) if how == "search" else optuna.storages.get_storage(url)
    if "cost" in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name="cost", storage=storage)
    optuna.create_study(study_name="cost", storage=storage)
    command = (PYTHON, str(HERE / "probes" / "store.py"), url, how, str(n_trials))
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:  # all at once
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return median([json.loads(process.communicate()[0]) for process in running]) / n_trials


@contextmanager
def postgresql(folder: Path) -> Iterator[str | None]:
    """Yield the URL of a fresh PostgreSQL, or None where it is not installed."""
    if not all(map(importlib.util.find_spec, ("pgserver", "psycopg"))):
        yield None
        return
    import pgserver

    server = pgserver.get_server(folder / "postgresql")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()


def main(size: Size) -> None:
    """Measure and print."""
    with ExitStack() as stack:
        folder = stack.enter_context(empty_folder())
        database = stack.enter_context(postgresql(folder))
        urls = {
            _BASE: (f"sqlite:///{folder}/plain.db", "optuna"),
            "journal file": (str(folder / "study.journal"), "search"),
            "SQLite": (f"sqlite:///{folder}/study.db", "search"),
        }
        if database:
            urls["PostgreSQL"] = (database, "search")
        n_trials, rows = size.of(20, 4), []
        for processes in (1, 4):
            variants = {name: partial(cost, *where, processes, n_trials) for name, where in urls.items()}
            found = alternate(size.of(size.repeats, 1), variants)
            base = median(found[_BASE])
            for name, times in found.items():
                row = [f"{name}, {processes} process{'es' if processes > 1 else ''}", spread(times)]
                rows.append([*row, ratio(median(times), base)])
        if not database:
            rows.append(["PostgreSQL", "not installed", "pip install -e '.[test]'"])
    table("storage: a trial's cost, each process", ["", "seconds a trial", f"÷ {_BASE}"], rows)
