"""Runs one search, and prints as JSON what showing its trials in MLflow took.

    python mirror.py STUDY_FILE N_TRIALS WORKERS [TRACKING_URI]

Run as a file, not as a module, so that worker processes can import it again.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any


def main() -> None:
    """Search, and print seconds of processor time by trial, and requests and statements by their kind."""
    from search.studyfile.load import load_definition
    from search.workers.process import start_forkserver

    start_forkserver()
    import requests
    import sqlalchemy

    from search.session import search
    from search.studyfile.settings import resolve
    from search.tracking.mirror import Mirror
    from search.tracking.runs import model_of_run

    used: dict[int, float] = defaultdict(float)
    waited: dict[int, float] = defaultdict(float)
    asked: Counter[str] = Counter()
    showing: list[int] = []  # while trials are shown, of all threads
    send, ask = Mirror._send, requests.Session.request

    def measured(self: Mirror, number: int) -> bool:
        cpu, wall = time.thread_time(), time.perf_counter()
        showing.append(number)
        try:
            return send(self, number)
        finally:
            showing.remove(number)
            used[number] += time.thread_time() - cpu
            waited[number] += time.perf_counter() - wall

    def counted(self: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
        if showing:
            _, _, endpoint = url.partition("/mlflow/")
            asked[f"{method} {endpoint.partition('?')[0] or 'artifact'}"] += 1
        return ask(self, method, url, *args, **options)

    Mirror._send, requests.Session.request = measured, counted  # type: ignore[method-assign, assignment]

    def count(kind: str) -> Any:
        return lambda *_: asked.update([kind] if showing else [])

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", count("SQL statement"))
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", count("SQL commit"))
    ended: list[float] = []
    uri = sys.argv[4] if len(sys.argv) > 4 else None
    settings = resolve(
        load_definition(Path(sys.argv[1])), n_trials=int(sys.argv[2]), workers=int(sys.argv[3]), tracking_uri=uri
    )
    began = time.perf_counter()
    outcome = search(settings, lambda progress: ended.append(time.perf_counter()))
    over = time.perf_counter()
    from mlflow import MlflowClient

    runs = MlflowClient().search_runs([outcome.experiment_id], "tags.trial != ''", max_results=1000)
    kept = [int(run.data.tags["trial"]) for run in runs if model_of_run(run.info.run_id)]
    found = {
        "processor": list(used.items()),
        "seconds": list(waited.items()),
        "kept": kept,
        "asked": asked.most_common(),
        "search": over - began,
        "end": over - ended[-1],
        "not_mirrored": len(outcome.not_mirrored.numbers),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
