"""A search and its trials in MLflow: the only home of `MLflowCallback` and of MLflow's runs.

It never trains and never chooses; it writes down what it is told, in few requests.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import optuna
import optuna_integration
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial, TrialState

from search.data.summary import DataSummary
from search.errors import TrackingError, TrialFailed, redact
from search.study import attributes
from search.studyfile.schema import Definition
from search.tracking.store import store_errors
from search.training.result import Epoch, TrialResult

OBJECTIVE = "objective"
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
_BATCH = 1000  # metrics in one request: MLflow's limit
_PACKAGES = ("search", "tensorflow", "keras", "numpy", "optuna", "optuna-integration", "mlflow", "scikit-learn")

# Deprecated in optuna-integration 4.9, removed in 6.0; asked for, so used and pinned below 6.
warnings.filterwarnings("ignore", message=".*MLflowCallback.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*track_in_mlflow.*", category=optuna.exceptions.ExperimentalWarning)


def git_commit() -> str | None:
    """Return the commit checked out in the working directory, if any."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    return None


def versions() -> str:
    """Return the versions that a result depends on, on one line."""
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return ", ".join(found)


class SearchRun:
    """One call of `search.run` in MLflow: the parent run, and the runs of its trials under it.

    Args:
        definition: The study file.
        name: The study's name; the experiment is created under it when it is new.
        data: What the trials are trained on.
        run_id: An interrupted search's run to continue; None begins one.

    Raises:
        TrackingError: The store cannot be used.
    """

    def __init__(self, definition: Definition, name: str, data: DataSummary, run_id: str | None = None) -> None:
        self._definition, self._name, self._data = definition, name, data
        self._client = MlflowClient()
        self._tags = self._common_tags()
        with store_errors(mlflow.get_tracking_uri()):
            self.experiment_id = self._experiment()
            mlflow.set_experiment(experiment_id=self.experiment_id)
            self.run_id = run_id or self._begin()
            if run_id:
                self._client.update_run(run_id, status="RUNNING")
            self._dataset = DatasetInput(_dataset(data), [InputTag("mlflow.data.context", "training")])
            self._log_dataset()
        context = {"mlflow.parentRunId": self.run_id, **self._tags}
        # MLflow puts these tags on every run of this process as it is created: no request each.
        os.environ["MLFLOW_RUN_CONTEXT"] = json.dumps(context)

    def _log_dataset(self) -> None:
        """Log the data set to the search's run, which creates it, before trials do so side by side."""
        for attempt in range(5):
            try:
                self._client.log_inputs(self.run_id, datasets=[self._dataset])
            except MlflowException:  # another search created the same data set in this moment
                if attempt == 4:
                    raise
                time.sleep(0.1 * (attempt + 1))
            else:
                return

    def _experiment(self) -> str:
        for attempt in range(3):
            experiment = self._client.get_experiment_by_name(self._name)
            if experiment is not None:
                if experiment.lifecycle_stage != "active":
                    raise TrackingError(
                        f"MLflow experiment '{self._name}' is deleted; restore it "
                        f"(mlflow experiments restore -x {experiment.experiment_id}) or use --study-name"
                    )
                return str(experiment.experiment_id)
            tags = {"mlflow.note.content": self._description(), "mlflow.experimentKind": "custom_model_development"}
            with suppress(MlflowException):  # another search created it in this moment
                return str(self._client.create_experiment(self._name, tags=tags))
            time.sleep(0.2 * attempt)
        raise TrackingError(f"MLflow experiment '{self._name}' can neither be found nor created")

    def _description(self) -> str:
        metrics = zip(self._definition.metrics, self._definition.directions, strict=True)
        goal = ", ".join(f"{direction} `{metric}`" for metric, direction in metrics)
        lines = [self._definition.description, f"Optuna study **{self._name}**: {goal}.", ""]
        lines += [f"- `{name}`: {_readable(each)}" for name, each in self._definition.space.items()]
        return "\n".join(lines).strip()

    def _common_tags(self) -> dict[str, str]:
        commit = git_commit()
        source = {"mlflow.source.git.commit": commit} if commit else {}
        return {"study": self._name, "versions": versions(), "mlflow.source.name": "python -m search.run", **source}

    def _begin(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        tags = {**self._tags, "mlflow.source.type": "LOCAL", "kind": "search"}
        with suppress(Exception):
            import getpass

            tags["mlflow.user"] = getpass.getuser()
        run = self._client.create_run(self.experiment_id, run_name=f"search {now}", tags=tags)
        self._client.log_text(
            run.info.run_id, self._definition.text, f"study/{self._definition.path.name or 'study.toml'}"
        )
        return str(run.info.run_id)

    def describe(self, settings: Mapping[str, object]) -> None:
        """Record the search's settings (budget, sampler, pruner, seed …) as parameters."""
        params = [Param(name, redact(str(value))) for name, value in settings.items() if value is not None]
        self._client.log_batch(self.run_id, params=params)

    def trial(self, trial: optuna.Trial) -> TrialRun:
        """Return the run-to-be of a trial."""
        return TrialRun(trial, self._client, self._dataset, self._definition)

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Write the search's outcome and end its run as `FINISHED`, `FAILED` or `KILLED`."""
        now = _milliseconds(time.time())
        self._client.log_batch(
            self.run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            tags=[RunTag(name, redact(value)[:5000]) for name, value in tags.items()],
        )
        self._client.set_terminated(self.run_id, status)
        os.environ.pop("MLFLOW_RUN_CONTEXT", None)

    def artifacts(self, folder: Path) -> None:
        """Add the files of a folder to the search's run."""
        self._client.log_artifacts(self.run_id, str(folder))


class TrialRun:
    """One trial inside its MLflow run, through `MLflowCallback`.

    `inside` runs a function within the run; `finish` gives the run the trial's value, parameters
    and fate.
    """

    def __init__(
        self, trial: optuna.Trial, client: MlflowClient, dataset: DatasetInput, definition: Definition
    ) -> None:
        self._trial, self._client, self._dataset = trial, client, dataset
        self._callback = _callback(definition, trial.number)
        self._logged_epochs = 0
        self.run_id = ""

    def inside(self, objective: Callable[[], Sequence[float]]) -> Sequence[float]:
        """Run `objective` inside the trial's run, and return its values."""

        def objective_in_run(trial: optuna.Trial) -> Sequence[float]:
            run = mlflow.active_run()
            self.run_id = run.info.run_id if run else ""  # always there: the decorator made it
            # At once, not at the end: an interrupted trial keeps its parameters.
            self._client.log_batch(self.run_id, params=[Param(k, str(v)) for k, v in trial.params.items()])
            self._client.log_inputs(self.run_id, datasets=[self._dataset])
            return objective()

        values: Sequence[float] = self._callback.track_in_mlflow()(objective_in_run)(self._trial)
        return values

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        """Log the epochs that are not logged yet."""
        if len(epochs) > self._logged_epochs:
            self._log(self._fresh(epochs))

    def result(self, result: TrialResult) -> None:
        """Log what the worker returned: remaining epochs, metrics, tags and how it was trained."""
        now = _milliseconds(time.time())
        tags = {
            "seed": str(result.seed),
            "worker": result.worker,
            "fed": result.path,
            "optimizer": str(result.training.get("optimizer", {}).get("name", "")),
            "loss": str(result.training.get("loss", "")),
        }
        if result.reason:
            tags["reason"] = result.reason
        metrics = [Metric(name, value, now, result.step) for name, value in result.metrics.items()]
        self._log(
            [*self._fresh(result.epochs), *metrics],
            [RunTag(name, redact(value)[:5000]) for name, value in tags.items() if value],
        )
        with tempfile.TemporaryDirectory() as folder:
            if result.training:
                Path(folder, "training.json").write_text(json.dumps(result.training, indent=2, default=str))
            if result.summary:
                Path(folder, "model_summary.txt").write_text(result.summary)
            if any(Path(folder).iterdir()):
                self._client.log_artifacts(self.run_id, folder)

    def _fresh(self, epochs: Sequence[Epoch]) -> list[Metric]:
        """Return the metrics of epochs that are not logged yet, which count as logged from here on."""
        fresh = epochs[self._logged_epochs :]
        self._logged_epochs = len(epochs)
        return [
            Metric(name, value, _milliseconds(epoch.time), epoch.step)
            for epoch in fresh
            for name, value in epoch.logs.items()
        ]

    def _log(self, metrics: Sequence[Metric], tags: Sequence[RunTag] = ()) -> None:
        """Log metrics and tags in one request, or in one for every 1000 metrics."""
        for start in range(0, max(1, len(metrics)), _BATCH):
            self._client.log_batch(
                self.run_id, metrics=metrics[start : start + _BATCH], tags=tags if start == 0 else ()
            )

    def failed(self, error: TrialFailed) -> None:
        """Say in the run why the trial failed."""
        self._client.set_tag(self.run_id, "reason", redact(error.reason)[:5000])
        if error.traceback:
            self._client.log_text(self.run_id, redact(error.traceback), "traceback.txt")

    def finish(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Give the run the trial's value, parameters and tags, and the status of its fate."""
        _finish(self._callback, self._client, study, trial, self.run_id)


def bury(definition: Definition, study: optuna.Study, run_id: str, reason: str) -> None:
    """End the runs that a killed search left behind: its trials' by their fate, its own as KILLED.

    Args:
        definition: The study file.
        study: The study; no trial of that search is RUNNING in it any more.
        run_id: The killed search's run.
        reason: What to write on the runs of trials that died with it.
    """
    client = MlflowClient()
    with suppress(MlflowException):  # the run may have been deleted
        experiment = client.get_run(run_id).info.experiment_id
        mlflow.set_experiment(experiment_id=experiment)
        trials = {trial.system_attrs.get(attributes.RUN_ID): trial for trial in study.get_trials(deepcopy=False)}
        for run in _runs_under(client, experiment, run_id):
            trial = trials.get(run.info.run_id)
            if trial is None:
                client.set_terminated(run.info.run_id, "FAILED")
            elif "state" not in run.data.tags or run.info.status == "RUNNING":
                _finish(_callback(definition, trial.number), client, study, trial, run.info.run_id)
                if trial.state == TrialState.FAIL:
                    client.set_tag(run.info.run_id, "reason", reason)
        client.set_terminated(run_id, "KILLED")


def _runs_under(client: MlflowClient, experiment: str, run_id: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _callback(definition: Definition, number: int) -> optuna_integration.MLflowCallback:
    """Return a callback for one trial: its lock is held for a whole trial, so each has its own."""
    several = len(definition.metrics) > 1
    return optuna_integration.MLflowCallback(
        tracking_uri=mlflow.get_tracking_uri(),
        metric_name=[f"{OBJECTIVE}_{metric}" for metric in definition.metrics] if several else [OBJECTIVE],
        create_experiment=False,
        mlflow_kwargs={"run_name": f"trial-{number:05d}"},
    )


def _finish(callback: Any, client: MlflowClient, study: optuna.Study, trial: FrozenTrial, run_id: str) -> None:
    callback(study, trial)
    status = _STATUS[trial.state]
    if status != "FINISHED":  # the callback ends every run as FINISHED
        ended = _milliseconds(trial.datetime_complete.timestamp()) if trial.datetime_complete else None
        client.set_terminated(run_id, status, end_time=ended)


def metrics_of(run_id: str) -> dict[str, float]:
    """Return the last value of each metric of a run; empty when the run is gone."""
    with suppress(MlflowException):
        return dict(MlflowClient().get_run(run_id).data.metrics)
    return {}


def _dataset(data: DataSummary) -> Dataset:
    """Return the data set as `mlflow.data` describes one, without the data themselves."""
    schema: dict[str, Any]
    if data.columns:
        schema = {"mlflow_colspec": [{"name": name, "type": kind, "required": False} for name, kind in data.columns]}
    else:
        inputs = [_tensor_json(spec) for spec in data.inputs]
        schema = {"mlflow_tensorspec": {"features": json.dumps(inputs), "targets": None}}
    profile = {"task": data.task, "features_shape": [list(spec.shape) for spec in data.inputs], **data.rows}
    return Dataset(
        name=data.name,
        digest=data.digest,
        source_type="search",
        source=json.dumps({"uri": redact(data.source)}),
        schema=json.dumps(schema),
        profile=json.dumps(profile),
    )


def _tensor_json(spec: Any) -> dict[str, Any]:
    tensor = {"type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": list(spec.shape)}}
    return {"name": spec.name, **tensor} if spec.name else tensor


def _readable(parameter: Any) -> str:
    values = parameter.model_dump().items()
    return ", ".join(f"{key} {value}" for key, value in values if value not in (None, False))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
