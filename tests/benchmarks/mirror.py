"""What showing a trial in MLflow takes: processor time of search and server, requests (3 minutes; `--quick` 1).

20 trials of `blobs`, 10 epochs each, on two workers, with MLflow on SQLite and with an MLflow server. A trial whose
model is logged is counted apart: it writes some ten files more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.benchmarks.timing import HERE, PYTHON, Size, empty_folder, median, note, run, seconds, table
from tests.benchmarks.work import Work
from tests.faults.mlflow_server import mlflow_server

_WORK = Work(
    "mirror",
    'source = "sklearn:make_blobs"\noptions = { n_samples = 1000, n_features = 2, centers = 2, random_state = 42 }',
    'epochs = { type = "int", low = 10, high = 10 }\n'
    'batch_size = { type = "categorical", choices = [16, 32, 64] }\n'
    'width = { type = "int", low = 8, high = 256, log = true }',
    [],
)


def main(size: Size) -> None:
    """Measure and print."""
    trials, rows = size.of(20, 6), list[list[str]]()
    for _ in range(size.of(size.repeats, 1)):
        note("  SQLite")
        with empty_folder() as folder:
            rows.append(_row("SQLite", _measured(folder, trials), trials))
        note("  an MLflow server")
        with empty_folder() as folder, mlflow_server(folder) as server:
            process = psutil.Process(server.pid)
            before = _processor_time(process)
            found = _measured(folder, trials, server.direct)
            rows.append(_row("MLflow server", found, trials, _processor_time(process) - before))
    columns = ["", "processor time, model not kept", "model kept", "seconds", "server's", "requests", "search", "end"]
    caption = "All but `search` and `end` for each trial; `end`: from the last trial's end to the search's."
    table(f"mirror: {trials} trials", columns, rows, caption)


def _measured(folder: Path, trials: int, *uri: str) -> dict[str, Any]:
    file = str(_WORK.write(folder))
    found = run(PYTHON, str(HERE / "probes" / "mirror.py"), file, str(trials), "2", *uri, folder=folder).json
    note(f"    {found['asked']}")
    return dict(found)


def _row(name: str, found: dict[str, Any], trials: int, server: float | None = None) -> list[str]:
    kept, spent, waited = set(found["kept"]), dict(found["processor"]), dict(found["seconds"])
    costs = [[cost for number, cost in spent.items() if (number in kept) == of] for of in (False, True)]
    asked = sum(count for what, count in found["asked"] if server is None or not what.startswith("SQL"))
    return [
        name,
        *(f"{seconds(median(each))} ({len(each)})" if each else "" for each in costs),
        seconds(sum(waited.values()) / trials),
        "" if server is None else seconds(server / trials),
        f"{asked / trials:.1f}{' statements and commits' if server is None else ''}",
        seconds(found["search"]),
        seconds(found["end"]),
    ]


def _processor_time(process: psutil.Process) -> float:
    """Return the seconds that a process and those below it have used."""
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))
