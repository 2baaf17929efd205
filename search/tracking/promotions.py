"""A promotion as a run of the study's experiment: the verdict's figures, and a plot of its intervals."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from search.comparison.plot import draw
from search.comparison.verdict import Slice, Verdict
from search.errors import printable, redact
from search.tracking.entries import milliseconds
from search.tracking.registry import Version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class _Promotion(Protocol):
        """What is told of a promotion: `search.gate.Promotion`."""

        model: str
        version: str
        alias: str
        previous: str | None
        promoted: bool
        reason: str
        verdict: Verdict | None
        others: Sequence[Verdict]
        slices: Sequence[Slice]


KIND = "promotion"  # the run's name, and its tag `kind`: no trial, no search


def log(version: Version, promotion: Any) -> str:
    """Write a promotion to a run of its own beside the version's search, and return the run; empty where it cannot.

    Args:
        version: The version that was judged.
        promotion: What became of it.
    """
    client = MlflowClient()
    with suppress(MlflowException, OSError):  # it decorates: the alias has moved, or has not
        experiment = client.get_run(version.run_id).info.experiment_id
        verdict: Verdict | None = promotion.verdict
        state = "promoted" if promotion.promoted else "refused"
        tags = {"kind": KIND, "model": promotion.model, "version": version.number, "state": state}
        tags |= {"reason": printable(redact(promotion.reason), 5000), "mlflow.note.content": _note(promotion)}
        run_id = client.create_run(experiment, run_name=KIND, tags=tags).info.run_id
        params = {"alias": promotion.alias, "previous": promotion.previous or "none", "challenger": version.uri}
        figures = {} if verdict is None else verdict.as_json()
        low, high = figures.pop("interval", None) or (None, None)
        figures |= {"interval_low": low, "interval_high": high}
        now = milliseconds(time.time())
        metrics = [
            Metric(name, value, now, 0)
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param(name, str(value)) for name, value in params.items()],
            tags=[RunTag("metric", verdict.metric)] if verdict is not None else [],
        )
        _log_files(client, run_id, promotion)
        client.set_terminated(run_id, "FINISHED" if promotion.promoted else "FAILED")
        return str(run_id)
    return ""


def _note(promotion: _Promotion) -> str:
    done = "is now" if promotion.promoted else "did not become"
    return printable(
        f"Version {promotion.version} of **{promotion.model}** {done} {promotion.alias}: {promotion.reason}", 5000
    )


def _log_files(client: MlflowClient, run_id: str, promotion: _Promotion) -> None:
    verdicts = [each for each in (promotion.verdict, *promotion.others) if each is not None]
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "verdicts": [each.as_json() for each in verdicts],
            "slices": [vars(each) for each in promotion.slices],
        }
        Path(folder, "verdict.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
        if any(each.interval is not None for each in verdicts):
            draw(verdicts, promotion.slices, Path(folder, "verdict.png"))
        client.log_artifacts(run_id, folder)
