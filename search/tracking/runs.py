"""A search and its trials in MLflow: the only home of `MLflowCallback` and of MLflow's runs.

It never trains and never chooses. Each function writes what the study says, starts from what is
there, and may be called again.
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import optuna
import optuna_integration
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from optuna.trial import FrozenTrial, TrialState

from search.errors import redact
from search.study import attributes, ranking
from search.study.attributes import Confirmed
from search.study.comparable import comparable_trials
from search.studyfile.schema import Definition
from search.studyfile.secret import without_secrets
from search.system.retry import retried
from search.tracking import by_hand, entries, origin
from search.tracking.entries import distinct, legal, milliseconds
from search.tracking.pages import descriptions, experiment, pictures, views
from search.training.result import Epoch, TrialResult

OBJECTIVE = "objective"
TRIAL, SEARCH_ID = "trial", "search_id"  # tags by which a run is found again
ENSEMBLE = "ensemble"  # the tag `kind` of the run of an averaged model
CONFIRMS = "confirms"  # of a training under a new seed: the number of its trial
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
_ASKED = ("n_trials", "timeout", "sampler", "pruner", "seed", "workers")  # settings that a description names

# Deprecated in optuna-integration 4.9, removed in 6.0; asked for, so used and pinned below 6.
warnings.filterwarnings("ignore", message=".*MLflowCallback.*", category=FutureWarning)


def _dataset(facts: Mapping[str, str]) -> Dataset:
    """Return a search's data as MLflow shows them; what another version of this package says further is left out."""
    known = inspect.signature(Dataset).parameters
    return Dataset(**{name: value for name, value in facts.items() if name in known})


class SearchRun:
    """One search in MLflow: the parent run, and the runs of its trials under it.

    Nothing is written before `open`.

    Args:
        definition: The study file.
        name: The study's name; the experiment has it too.
        search_id: The search, as the study knows it; a tag of its run.
        described: The search's settings, its run's parameters.
        dataset: The data, as `dataset_of` describes them; empty when they are not known.
        began: When the search began, ISO 8601.

    Attributes:
        definition: The study file, as the search began with it.
    """

    def __init__(
        self,
        definition: Definition,
        name: str,
        search_id: str,
        described: Mapping[str, str],
        dataset: Mapping[str, str],
        began: str,
    ) -> None:
        self.definition, self._name, self._search_id = definition, name, search_id
        self._described, self._began = described, datetime.fromisoformat(began)
        self._facts = dict(dataset)
        self._dataset = (
            DatasetInput(_dataset(dataset), [InputTag("mlflow.data.context", "training")]) if dataset else None
        )
        self._client = MlflowClient()
        self._lock = threading.Lock()
        self._places: dict[str, str] = {}  # where the files of a trial's run go
        self.experiment_id = self.run_id = ""

    @property
    def _title(self) -> str:
        return f"search {self._began.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    def open(self) -> None:
        """Find the experiment and the search's run, or create them.

        Raises:
            TrackingError: The experiment is deleted.
        """
        with self._lock:
            if self.run_id:
                return
            self.experiment_id = experiment.find_or_create(self._client, self.definition, self._name)
            if "MLFLOW_EXPERIMENT_ID" in os.environ:  # else runs of another experiment than the active one are refused
                mlflow.set_experiment(experiment_id=self.experiment_id)
            views.save(self._client, self.experiment_id, self._name, self.definition, objectives(self.definition))
            self.run_id = self._find() or self._restore() or self._create()

    def has_earlier(self) -> bool:
        """Return whether the experiment holds a search that is over."""
        over = f"tags.{SEARCH_ID} != '{self._search_id}' and attributes.status != 'RUNNING'"
        return bool(self._client.search_runs([self.experiment_id], over, max_results=1))

    def running(self) -> None:
        """Show a run that is continued as RUNNING."""
        self._client.update_run(self.run_id, status="RUNNING")

    def _find(self) -> str:
        found = self._client.search_runs([self.experiment_id], f"tags.{SEARCH_ID} = '{self._search_id}'", max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _restore(self) -> str:
        return by_hand.restored_search(self._client, self.experiment_id, self._search_id)

    def _create(self) -> str:
        experiment.try_artifacts(self._client, self.experiment_id)
        tags = {**self._tags, SEARCH_ID: self._search_id, "kind": "search"}
        asked = ", ".join(f"{name} {value}" for name, value in self._described.items() if name in _ASKED)
        tags["mlflow.note.content"] = descriptions.of_search(
            self.definition, [], [], self._link, state=f"**Running** ({asked}).", dataset=self._facts, run_id=""
        )
        run = self._client.create_run(self.experiment_id, milliseconds(self._began.timestamp()), tags, self._title)
        run_id = str(run.info.run_id)
        params = [Param(key, redact(value)) for key, value in self._described.items()]
        self._client.log_batch(run_id, params=params)
        file = self.definition.path.name or "study.toml"
        self._client.log_text(run_id, without_secrets(self.definition.text), f"study/{file}")
        origin.log(self._client, run_id, self.definition)
        self._log_dataset(run_id)
        return run_id

    def _log_dataset(self, run_id: str) -> None:
        """Log the data set to the search's run, which creates it, before trials do so side by side."""
        if self._dataset is None:
            return
        # Another search may create the same data set in this moment.
        datasets = [self._dataset]
        retried(
            lambda: self._client.log_inputs(run_id, datasets=datasets), lambda e: isinstance(e, MlflowException), 1.0
        )

    @cached_property
    def source(self) -> dict[str, str]:
        """MLflow's own tags of what made a run or a logged model."""
        tags = {"mlflow.source.name": "python -m search.run", "mlflow.source.type": "LOCAL"}
        with suppress(Exception):
            import getpass

            tags["mlflow.user"] = getpass.getuser()
        commit = (origin.git("rev-parse", "HEAD") or "").strip()
        return {**tags, **({"mlflow.source.git.commit": commit} if commit else {})}

    @cached_property
    def _tags(self) -> dict[str, str]:
        """Tags of the search's run and of each of its trials'."""
        versions = ", ".join(f"{name} {version}" for name, version in origin.versions().items())
        return {"study": self._name, "versions": versions, **self.source}

    def find_trial(self, number: int) -> str:
        """Return the run of a trial; empty when there is none."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}' AND tags.{TRIAL} = '{number}'"
        found = self._client.search_runs([self.experiment_id], query, max_results=1)
        return self._noted(found[0]) if found else ""

    def restore_trial(self, trial: FrozenTrial) -> str:
        """Return a trial's run that somebody deleted, or whose search's run was; it is shown again. Empty for none."""
        return by_hand.restored_trial(self._client, self.experiment_id, trial, TRIAL, self.run_id)

    def create_trial(self, trial: FrozenTrial) -> str:
        """Create the run of a trial, and return it."""
        began = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
        tags = {**self._tags, MLFLOW_PARENT_RUN_ID: self.run_id, TRIAL: str(trial.number)}
        run = self._client.create_run(self.experiment_id, milliseconds(began), tags, descriptions.trial_name(trial))
        run_id = self._noted(run)
        if self._dataset is not None:
            self._client.log_inputs(run_id, datasets=[self._dataset])
        return run_id

    def _noted(self, run: Run) -> str:
        self._places[run.info.run_id] = run.info.artifact_uri
        return str(run.info.run_id)

    def show_confirmed(self, run_id: str, number: int, confirmed: Confirmed) -> None:
        """Show what a trial's configuration reached under new seeds: on its run, and each training as a run under it.

        Trainings that are shown already are left as they are.
        """
        now = milliseconds(time.time())
        numbers = {"mean": confirmed.mean, "std": confirmed.std, "seeds": float(len(confirmed.values))}
        shown = [Metric(f"confirmed_{name}", value, now, 0) for name, value in numbers.items() if value is not None]
        entries.log(self._client, run_id, shown)
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}' AND tags.{CONFIRMS} = '{number}'"
        known = {run.data.tags.get("seed") for run in entries.runs(self._client, self.experiment_id, query)}
        for index, (seed, metrics) in enumerate(zip(confirmed.seeds, confirmed.metrics, strict=True), 1):
            if str(seed) in known:
                continue
            tags = {**self._tags, MLFLOW_PARENT_RUN_ID: run_id, CONFIRMS: str(number), "seed": str(seed)}
            run = self._client.create_run(self.experiment_id, now, tags, f"trial-{number:05d} · seed {index}")
            own = str(run.info.run_id)
            entries.log(self._client, own, [Metric(name, value, now, 0) for name, value in metrics.items()])
            self._client.set_terminated(own, "FINISHED")

    def log_epochs(self, run_id: str, epochs: Sequence[Epoch], params: Mapping[str, Any]) -> None:
        """Log these epochs' metrics, and parameters, of a trial that runs."""
        entries.log(self._client, run_id, _metrics(epochs), params=entries.renamed(params))

    def finish_trial(
        self,
        run_id: str,
        study: optuna.Study,
        trial: FrozenTrial,
        result: TrialResult | None,
        logged: int,
        model_id: str,
        *,
        again: bool,
    ) -> None:
        """Give a trial's run its metrics, parameters and tags through `MLflowCallback`, and its status last.

        Args:
            run_id: The trial's run.
            study: Its study.
            trial: The trial.
            result: What its worker returned; None where nothing is known of it.
            logged: How many of the result's epochs are logged already.
            model_id: Its logged model, which the metrics of its epoch are logged to, too; empty when there is none.
            again: Whether some of this may be logged already: a model refuses a metric that it has with other data.
        """
        metrics, tags = list[Metric](), dict[str, str]()
        if result is not None:
            tags = self._log_files(run_id, result)
            metrics = [*_metrics(result.epochs[logged:], result.step, model_id), *self._once(result, model_id)]
        if again and model_id:
            known = self._client.get_logged_model(model_id).metrics or ()
            there = {(each.key, each.timestamp, each.step) for each in known}
            metrics = [each for each in metrics if (legal(each.key), each.timestamp, each.step) not in there]
        renamed = {shown: name for name, shown in distinct(trial.params).items() if shown != name}
        if renamed:
            tags[origin.PARAMETER_NAMES] = json.dumps(renamed)
        _Callback(self.definition, run_id, metrics, tags)(study, trial)
        self._client.set_terminated(run_id, STATUS[trial.state], end_time=_ended(trial))

    def _log_files(self, run_id: str, result: TrialResult) -> dict[str, str]:
        """Log how a trial was trained, with a picture of how a kept model errs; return its tags."""
        picture = self._picture(result)
        texts = {"model_summary.txt": result.summary, "traceback.txt": redact(result.traceback), "log.txt": result.log}
        if result.training:
            texts["training.json"] = json.dumps(result.training, indent=2, default=str)
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                if text:
                    Path(folder, name).write_text(text, encoding="utf-8", errors="replace")
            if picture:
                Path(folder, descriptions.ERRORS).write_bytes(picture)
            if any(Path(folder).iterdir()):  # the client would read each run again to learn where they go
                known = self._places.get(run_id) or self._client.get_run(run_id).info.artifact_uri
                place = get_artifact_repository(known, mlflow.get_tracking_uri())
                place.log_artifacts(folder)  # type: ignore[no-untyped-call]
        return {
            "mlflow.note.content": descriptions.of_trial(result, run_id, [descriptions.ERRORS] if picture else []),
            "seed": str(result.seed),
            "worker": result.worker,
            "trained_by": result.path,
            "optimizer": str(result.training.get("optimizer", {}).get("name", "")),
            "loss": str(result.training.get("loss", "")),
            "reason": result.reason,
        }

    def _once(self, result: TrialResult, model_id: str) -> Iterator[Metric]:
        """Yield what is measured once a trial."""
        now = milliseconds(result.epochs[-1].time if result.epochs else time.time())
        about = (model_id, self._facts.get("name"), self._facts.get("digest")) if model_id else ()
        for name, value in result.metrics.items():
            yield Metric(name, value, now, result.step_of(name), *about)
        if result.fate == "complete":
            yield Metric(views.TRIAL, float(result.number), now, 0)

    @staticmethod
    def _picture(result: TrialResult) -> bytes:
        """Return the picture of a trial; without it the page still has the numbers."""
        with suppress(Exception):
            return pictures.of_trial(result)
        return b""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Write the search's outcome and end its run as `FINISHED`, `FAILED` or `KILLED`."""
        now = milliseconds(time.time())
        entries.log(self._client, self.run_id, [Metric(name, value, now, 0) for name, value in metrics.items()], tags)
        self._client.set_terminated(self.run_id, status)

    def artifacts(self, folder: Path) -> None:
        """Add the files of a folder to the search's run."""
        self._client.log_artifacts(self.run_id, str(folder))

    def describe(self, study: optuna.Study, state: str, *, pictures: bool = False) -> None:
        """Bring the search's description and the curve of its best value up to date.

        Args:
            study: The study.
            state: What goes on, in a sentence.
            pictures: Whether to show the pictures among the run's artifacts.
        """
        trials = attributes.trials_of_search(study, self._search_id)
        shown: list[str] = []
        if pictures:
            with suppress(OSError):  # artifacts that cannot be listed are not shown
                there = {each.path for each in self._client.list_artifacts(self.run_id)}
                shown = [name for name in descriptions.PICTURES if name in there]
        known = comparable_trials(study)
        text = descriptions.of_search(
            self.definition,
            trials,
            ranking.best_trials(self.definition, known),
            self._link,
            state=state,
            dataset=self._facts,
            run_id=self.run_id,
            pictures=shown,
        )
        curve = [
            Metric("best_so_far", value, milliseconds(ended), number)
            for number, value, ended in descriptions.best_so_far(self.definition, trials)
        ]
        objective = objectives(self.definition)
        views.save(self._client, self.experiment_id, self._name, self.definition, objective, known)
        with suppress(MlflowException):
            search = self._markdown(self._title, self.run_id)
            experiment.describe(self._client, self.experiment_id, self.definition, self._name, known, search)
        shown_curve = curve if len(self.definition.metrics) == 1 else []
        entries.log(self._client, self.run_id, shown_curve, {"mlflow.note.content": text})

    def _link(self, trial: FrozenTrial) -> str:
        """Return a trial's number as Markdown that opens its run."""
        run_id = str(trial.system_attrs.get(attributes.RUN_ID, "")) or self.find_trial(trial.number)
        return self._markdown(str(trial.number), run_id) if run_id else str(trial.number)

    def _markdown(self, text: str, run_id: str) -> str:
        return f"[{text}](#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning)"

    def status(self) -> str:
        """Return the status of the search's run."""
        return str(self._client.get_run(self.run_id).info.status)

    def trial_runs(self) -> Iterator[Run]:
        """Yield every run nested under the search's."""
        yield from entries.runs(self._client, self.experiment_id, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}'")

    def is_known(self) -> bool:
        """Return whether MLflow has the study's experiment and this search's run; writes nothing."""
        experiment = self._client.get_experiment_by_name(self._name)
        if experiment is None:
            return False
        self.experiment_id = str(experiment.experiment_id)
        self.run_id = self._find()
        return bool(self.run_id)


def objectives(definition: Definition) -> list[str]:
    """Return the metrics of a run that hold its trial's values."""
    several = len(definition.metrics) > 1
    return [legal(f"{OBJECTIVE}_{metric}") for metric in definition.metrics] if several else [OBJECTIVE]


def model_of_run(run_id: str) -> str:
    """Return the logged model of a trial's run, when it is ready; else empty."""
    client = MlflowClient()
    outputs = client.get_run(run_id).outputs
    for output in outputs.model_outputs if outputs else ():
        with suppress(MlflowException):
            model = client.get_logged_model(output.model_id)
            if model.status == LoggedModelStatus.READY:
                return str(model.model_id)
    return ""


def logged_models(experiments: Iterable[str], numbers: Mapping[str, int]) -> dict[int, str]:
    """Return the ids of the ready models of these runs, by the number that belongs to each run."""
    found = mlflow.search_logged_models(list(experiments), output_format="list") if experiments else []
    ready = ((str(each.source_run_id), str(each.model_id)) for each in found if each.status == LoggedModelStatus.READY)
    return {numbers[run_id]: model_id for run_id, model_id in ready if run_id in numbers}


class _Callback(optuna_integration.MLflowCallback):  # type: ignore[misc]  # it has no types
    """MLflowCallback for one trial whose run is there already: logs all in one request, and what else there is to log.

    Unchanged, it reads such a run twice, writes it three times, and ends it as FINISHED whatever became of the trial.
    Without the tags that nobody reads: distributions, direction, times, the number once more.

    Args:
        definition: The study file.
        run_id: The trial's run.
        metrics: What else to log.
        tags: Likewise.
    """

    def __init__(self, definition: Definition, run_id: str, metrics: Iterable[Metric], tags: Mapping[str, str]) -> None:
        self._names = objectives(definition)
        super().__init__(metric_name=self._names, create_experiment=False)
        self._run_id, self._metrics, self._tags = run_id, metrics, tags

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:  # noqa: ARG002 - as the method it replaces
        """Log a trial's values, parameters and user attributes.

        A pruned trial has no value: Optuna gives it the last one it reported, by which it could stand before the best.
        """
        ended = _ended(trial) or milliseconds(time.time())  # the same when it is logged again
        complete = trial.state == TrialState.COMPLETE
        values = (
            [Metric(name, each, ended, 0) for name, each in zip(self._names, trial.values, strict=True)]
            if complete
            else []
        )
        named = {} if complete else {MLFLOW_RUN_NAME: descriptions.trial_name(trial)}  # it tells the state of others
        tags = {"state": trial.state.name, **named, **trial.user_attrs, **self._tags}
        entries.log(MlflowClient(), self._run_id, [*values, *self._metrics], tags, entries.renamed(trial.params))


def _metrics(epochs: Sequence[Epoch], step: int = 0, model_id: str = "") -> list[Metric]:
    """Return the metrics of epochs; those of one step are also the logged model's."""
    return [
        Metric(name, value, milliseconds(epoch.time), epoch.step, model_id if epoch.step == step and model_id else None)
        for epoch in epochs
        for name, value in epoch.logs.items()
    ]


def _ended(trial: FrozenTrial) -> int | None:
    return milliseconds(trial.datetime_complete.timestamp()) if trial.datetime_complete else None
