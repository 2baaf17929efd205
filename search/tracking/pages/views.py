"""The page of MLflow's UI that shows a study: a saved view of its runs, and the address that opens it.

The saved view is an experiment's tag in the form of MLflow's own *Share* button (3.17); MLflow documents
neither. So nothing here may end a search, and a test opens the page in a browser.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import socket
import time
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from search.errors import redact
from search.studyfile.schema import Definition
from search.tracking.entries import distinct, legal, milliseconds

KEY = "search"  # names the view in the address
TRIAL = "trial"  # the metric of a complete trial that holds its number: a chart has metrics on its axes
_TAG = f"mlflow.sharedViewState.{KEY}"
_PORT = 5000  # of `mlflow ui` unless told otherwise
_MOST = 30  # columns of parameters: a tag holds 5000 characters


@dataclass(frozen=True)
class Page:
    """Where a study's runs can be seen.

    Attributes:
        serve: The command that serves the page; empty when a server is up already.
        url: The address that opens the page.
    """

    serve: str
    url: str


def save(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    definition: Definition,
    objectives: Sequence[str],
    trials: Sequence[FrozenTrial] | None = None,
) -> None:
    """Write the view of a study's runs to its experiment; without it the page still lists the runs.

    Args:
        name: The study's name.
        objectives: The metrics that hold a trial's values.
        trials: The study's trials, for the parameters that its builder suggests; where they are not known, a view
            that is there already is left as it is.
    """
    now = milliseconds(time.time())
    with suppress(Exception):  # whatever MLflow's store raises: a view is not worth a search
        if trials is None and _TAG in client.get_experiment(experiment_id).tags:
            return
        page = json.dumps(_state(definition, objectives, trials or ())).encode()
        packed = f"deflate;{base64.b64encode(zlib.compress(page, 9)).decode()}"
        view = {"name": f"trials of {name}", "createdAt": now, "updatedAt": now, "state": packed}
        client.set_experiment_tag(experiment_id, _TAG, json.dumps(view))


def _parameters(definition: Definition, trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the names of the study file's parameters, then those that its builder suggested."""
    suggested = (name for trial in trials for name in trial.params)
    return list(distinct(dict.fromkeys([*definition.space, *suggested])).values())[:_MOST]


def _in_all(parameters: Sequence[str], trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the parameters of every complete trial: parallel coordinates leave out runs that lack one."""
    complete = [set(distinct(trial.params).values()) for trial in trials if trial.state == TrialState.COMPLETE]
    return [name for name in parameters if all(name in each for each in complete)]


def _state(definition: Definition, objectives: Sequence[str], trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Return the state of MLflow's runs page: best trial first, its value, test metric and parameters."""
    parameters, metric = _parameters(definition, trials), legal(definition.metrics[0])
    shared = _in_all(parameters, trials) if trials else list(distinct(definition.space).values())[:_MOST]
    test = f"test_{metric.removeprefix('val_')}"
    columns = [f"metrics.`{each}`" for each in (*objectives, test)]
    columns += [f"params.`{each}`" for each in parameters]
    columns += ["tags.`state`", "attributes.`Duration`"]
    return {
        "searchFilter": "",
        "orderByKey": f"metrics.`{objectives[0]}`",
        "orderByAsc": definition.directions[0] == "minimize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(shared, metric, objectives),
        "compareRunSections": [
            _section("study", "Parameters and objective", 1),
            _section("trials", "Value by trial", 1),
            _section("curves", "Training and validation", 2),
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _section(key: str, name: str, columns: int) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": name,
        "display": True,
        "isReordered": False,
        "columns": columns,
        "cardHeight": 360,
    }


def _charts(parameters: Sequence[str], metric: str, objectives: Sequence[str]) -> list[dict[str, Any]]:
    parallel = {
        **_chart("PARALLEL", "study"),
        "selectedParams": list(parameters),
        "selectedMetrics": list(objectives),
        "showAllRuns": True,
        "runsCountToCompare": 500,
    }
    scatter = {
        **_chart("SCATTER", "trials"),
        "xaxis": {"key": TRIAL, "type": "METRIC"},
        "yaxis": {"key": objectives[0], "type": "METRIC"},
        "runsCountToCompare": 500,
    }
    curves = dict.fromkeys(["loss", metric.removeprefix("val_")])
    return [parallel, scatter, *(_line([each, f"val_{each}"]) for each in curves)]


def _line(metrics: list[str]) -> dict[str, Any]:
    return {
        **_chart("LINE", "curves"),
        "metricKey": metrics[0],
        "selectedMetricKeys": metrics,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "log" if metrics[0] == "loss" else "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "runsCountToCompare": 100,
    }


def _chart(kind: str, section: str) -> dict[str, Any]:
    return {
        "uuid": uuid.uuid4().hex,
        "type": kind,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }


def page_of(tracking_uri: str, experiment_id: str, run_id: str) -> Page:
    """Return how to open a study's runs in MLflow's UI, sorted by value.

    Args:
        tracking_uri: MLflow's tracking store.
        experiment_id: The study's experiment.
        run_id: A run of it, by which a server that is up already is known.
    """
    path = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
    if tracking_uri.startswith(("http://", "https://")):
        return Page("", redact(tracking_uri.rstrip("/")) + path)
    if _serves(_PORT, run_id):
        return Page("", f"http://127.0.0.1:{_PORT}{path}")
    port = _free_port()
    flags = _store_flags(tracking_uri) + ([] if port == _PORT else ["--port", str(port)])
    return Page(" ".join(["mlflow", "ui", *map(shlex.quote, flags)]), f"http://127.0.0.1:{port}{path}")


def page_of_study(tracking_uri: str, name: str) -> Page | None:
    """Return how to open a study's runs in MLflow's UI; None where MLflow does not have the study."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    runs = client.search_runs([experiment.experiment_id], max_results=1)
    return page_of(tracking_uri, str(experiment.experiment_id), str(runs[0].info.run_id) if runs else "none")


def _store_flags(tracking_uri: str) -> list[str]:
    """Return what `mlflow ui` must be told of a store; nothing for the one that it takes by itself here."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    default = given or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    if unquote(tracking_uri) in {unquote(default), "sqlite:///mlflow.db" if not given else default}:
        return []
    return ["--backend-store-uri", redact(unquote(tracking_uri))]


def _serves(port: int, run_id: str) -> bool:
    """Return whether an MLflow server on this machine's port shows a run."""
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=1.0)
        connection.request("GET", f"/api/2.0/mlflow/runs/get?run_id={run_id}")
        answer = connection.getresponse()
        return answer.status == 200 and run_id.encode() in answer.read()
    except (OSError, HTTPException):
        return False


def _free_port() -> int:
    """Return the port of `mlflow ui`, or the next that is free."""
    for port in range(_PORT, _PORT + 20):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    return _PORT
