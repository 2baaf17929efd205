"""Runs one search, and prints when its trials began and ended, and where, as JSON.

    python ours.py STUDY_FILE N_TRIALS WORKERS [dask]

With `dask` the workers are those of a local dask cluster.

Run as a file, not as a module, so that worker processes can import it again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Search, and print the moments (seconds since 1970) by the trials' numbers."""
    from search.studyfile.load import load_definition
    from search.workers.process import start_forkserver

    definition = load_definition(Path(sys.argv[1]))
    address = None
    if sys.argv[4:] == ["dask"]:
        from distributed import LocalCluster

        cluster = LocalCluster(n_workers=int(sys.argv[3]), threads_per_worker=1, dashboard_address=None)
        address = cluster.scheduler_address
    else:
        start_forkserver()
    from search.budget import Progress
    from search.session import search
    from search.studyfile.settings import resolve

    began: dict[int, float] = {}
    ended: dict[int, float] = {}

    def hook(progress: Progress) -> None:
        if progress.state != "training":
            (began if progress.state == "began" else ended)[progress.number] = time.time()
        if progress.state == "failed":
            raise SystemExit(f"trial {progress.number} failed: {progress.reason}")

    settings = resolve(definition, n_trials=int(sys.argv[2]), workers=int(sys.argv[3]), cluster=address)
    outcome = search(settings, hook)
    found = {"began": list(began.items()), "ended": list(ended.items()), "workers": workers_of(outcome.experiment_id)}
    print(json.dumps(found))


def workers_of(experiment_id: str) -> list[tuple[int, int]]:
    """Return which process trained each trial, as MLflow knows it."""
    from mlflow import MlflowClient

    client, pairs, token = MlflowClient(), [], None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        for run in page:
            if "worker" in run.data.tags:
                number = int(run.data.tags["trial"])
                pairs.append((number, int(run.data.tags["worker"].rpartition(":")[2])))
        token = page.token
        if not token:
            return pairs


if __name__ == "__main__":
    main()
