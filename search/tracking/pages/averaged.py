"""An averaged model in MLflow: a run of its own beside the trials of its search, with its members, values and model."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from search.data.summary import DataSummary
from search.ensemble.members import Ensemble, of_record
from search.figures import markdown_table, number
from search.studyfile.schema import Definition
from search.tracking import entries, logged_model
from search.tracking.entries import milliseconds
from search.tracking.runs import ENSEMBLE, OBJECTIVE, SearchRun
from search.tracking.user_code import model_code

if TYPE_CHECKING:
    from search.workers.averaging import Averaged

MEMBERS = "members"  # the tag that holds the record of its members


def archive(uri: str) -> bytes:
    """Return the Keras archive of a logged model."""
    with tempfile.TemporaryDirectory() as folder:
        whole = mlflow.artifacts.download_artifacts(uri, dst_path=folder)  # MLflow fetches no single file of it
        return Path(whole, "data", "model.keras").read_bytes()


def run_of(uri: str) -> str:
    """Return the run that a logged model belongs to."""
    return str(MlflowClient().get_logged_model(uri.removeprefix("models:/")).source_run_id)


def ensemble_of(run_id: str) -> Ensemble | None:
    """Return what a run says that it averages; None where it is no average's."""
    try:
        record = MlflowClient().get_run(run_id).data.tags.get(MEMBERS)
    except MlflowException:
        return None
    return None if record is None else of_record(json.loads(record))


def log(
    run: SearchRun, definition: Definition, data: DataSummary, trial: int, ensemble: Ensemble, made: Averaged
) -> tuple[str, str]:
    """Log an averaged model to a run of its own, and return the run and the logged model's id.

    Args:
        run: The search's run, opened.
        data: What the model takes and gives.
        ensemble: Its members and values.
        made: The model.
    """
    client, now = MlflowClient(), milliseconds(time.time())
    tags = {
        MLFLOW_PARENT_RUN_ID: run.run_id,
        **run.source,
        "kind": ENSEMBLE,
        MEMBERS: json.dumps(ensemble.record()),
        "mlflow.note.content": _described(run, ensemble),
    }
    run_id = str(client.create_run(run.experiment_id, now, tags, f"ensemble of {len(ensemble.members)}").info.run_id)
    measured = {**ensemble.metrics, "slower": ensemble.slower}
    if ensemble.value is not None:
        measured |= {OBJECTIVE: ensemble.value, ensemble.metric: ensemble.value}
    params = {
        "members": ", ".join(each.name for each in ensemble.members),
        "weights": ", ".join(f"{each:.4g}" for each in ensemble.weights),
    }
    entries.log(client, run_id, [Metric(name, value, now, 0) for name, value in measured.items()], params=params)
    model_id = logged_model.log(
        made.model,
        data,
        name="ensemble",
        experiment_id=run.experiment_id,
        run_id=run_id,
        step=0,
        code=model_code(definition),
        backend=data.backend,
        predictions=made.predictions,
        answers=made.answers,
        params=params,
        tags={"trial": str(trial), **run.source},
    )
    client.set_terminated(run_id, "FINISHED")
    return run_id, model_id


def _described(run: SearchRun, ensemble: Ensemble) -> str:
    """Return what its page says: what was averaged, with a link to each member's run, and what came of it."""
    rows = [
        [
            f"[{each.number}](#/experiments/{run.experiment_id}/runs/{each.run_id}?workflowType=machine_learning)",
            "its own" if each.seed is None else str(each.seed),
            f"{weight:.4g}",
        ]
        for each, weight in zip(ensemble.members, ensemble.weights, strict=True)
    ]
    tests = ", ".join(f"`{name}` {number(value)}" for name, value in ensemble.test.items())
    parts = [
        f"{ensemble}.",
        markdown_table(["trial", "seed", "weight"], rows),
        tests and f"Held-out test part: {tests}.",
    ]
    return "\n\n".join(filter(None, parts))
