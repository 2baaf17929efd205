"""One call of `search.run`, from a study file to a registered model: what the command does, in order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage

from search.data.summary import DataSummary
from search.errors import ClusterError, Interrupted, NoTrialCompleted, StorageError, redact
from search.optimize import Hook, Search
from search.register import Best, best_of, register_best
from search.resume import Record, Unfinished, bury_the_dead, newest_interrupted
from search.study import create, plots, ranking, samplers
from search.study.storage import open_storage, storage_errors
from search.studyfile.settings import Settings
from search.workers import local as workers
from search.workers import worker

if TYPE_CHECKING:
    from search.tracking.registry import Registered
    from search.tracking.runs import SearchRun


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        n_trials: How many of its trials are `complete`, `pruned` and `failed`.
        died: Failed trials among them that died with their worker, beside the budget.
        best: The best trial of the whole study.
        front: The Pareto front, when there are several metrics.
        model: The registered version of the best trial; None with `--no-register`.
        newly_registered: Whether this search registered it.
        stopped: Why the search ended before its budget was spent, if it did.
        table: The best trials, for the terminal.
    """

    study: str
    experiment_id: str
    search_run_id: str
    n_trials: dict[str, int]
    died: int
    best: Best
    front: tuple[int, ...]
    model: Registered | None
    newly_registered: bool
    stopped: str
    seconds: float
    workers: str
    data: DataSummary
    table: tuple[Best, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        values = self.best.values
        model = None
        if self.model is not None:
            names = ("name", "version", "alias", "uri")
            model = {name: getattr(self.model, name) for name in names}
        several = {"pareto_front": list(self.front)} if len(values) > 1 else {}
        return {
            "study": self.study,
            "experiment_id": self.experiment_id,
            "search_run_id": self.search_run_id,
            "n_trials": self.n_trials,
            "best": {
                "number": self.best.number,
                "value": values[0] if len(values) == 1 else list(values),
                "params": self.best.params,
                "run_id": self.best.run_id,
                "metrics": self.best.metrics,
            },
            **several,
            "model": model,
            "stopped": self.stopped or None,
            "seconds": round(self.seconds, 3),
        }


def search(settings: Settings, hook: Hook, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Run a search: check everything, then train, record and register.

    Args:
        settings: What to do.
        hook: Told of each trial's beginning and end.
        say: Told what is going on before the first trial.

    Raises:
        UsageError: Something asked for cannot be; nothing was created.
        NoTrialCompleted: No trial of the study is complete.
        Interrupted: Ctrl-C; what finished is kept.
    """
    started = time.monotonic()
    samplers.make_pruner(settings.definition, settings.pruner)
    samplers.make_sampler(settings.definition, settings.sampler, settings.seed)
    with ExitStack() as stack:
        pool = _pool(settings)
        stack.callback(pool.close)
        job = worker.Job(settings.located())
        say(f"{pool.description}; loading the data and building the first model")
        if settings.storage.startswith("sqlite"):
            say("the study is kept in SQLite; a journal file or PostgreSQL is about ten times faster")
        job = pool.reach(job)
        checked = stack.enter_context(ThreadPoolExecutor(1)).submit(pool.check, job)
        from search.tracking import runs, store  # 2 s, while workers import the framework and load the data

        uri = store.set_uri(settings.tracking_uri)
        publish = stack.enter_context(store.fresh_store(uri))
        data = checked.result()
        storage = _storage(settings)
        publish()
        with storage_errors(settings.storage), store.store_errors(uri):
            optuna_study = _study(settings, storage)
            bury_the_dead(settings.definition, optuna_study, storage)
            unfinished = newest_interrupted(optuna_study) if settings.resume else None
            begun_before = bool(optuna_study.get_trials(deepcopy=False))
            run = runs.SearchRun(
                settings.definition, settings.study_name, data, unfinished.record.run_id if unfinished else None
            )
            settings = _with_budget(settings, unfinished)
            record = Record(run.run_id, unfinished.record.n_trials if unfinished else settings.n_trials, "running")
            record.write(optuna_study)
            job = _with_environment(job, uri, run)
            searching = Search(settings, optuna_study, storage, run, job, data, hook)
            if unfinished:
                searching.retry(unfinished.begun)
            else:
                run.describe(_described(settings, pool))
                if not begun_before:
                    searching.enqueue([*settings.definition.enqueue, *create.warm_start(settings.definition)])
            try:
                searching.optimize(pool.slots)
            except BaseException as error:
                status = "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"
                record.ended("interrupted", optuna_study)
                _end(run, searching, status, {"reason": str(error)})
                raise
            record.ended("finished", optuna_study)
            return _outcome(settings, searching, optuna_study, run, data, pool, job, started)


def _pool(settings: Settings) -> workers.Pool:
    if settings.cluster is None:
        return workers.LocalPool(settings.workers, settings.n_trials, settings.gpu_share)
    try:
        from search.workers.cluster import ClusterPool
    except ModuleNotFoundError:
        raise ClusterError("--cluster needs dask.distributed; pip install 'search[cluster]'") from None
    return ClusterPool(settings.cluster, settings.workers, settings.n_trials, settings.gpu_share)


def _storage(settings: Settings) -> BaseStorage:
    if settings.resume and "://" not in settings.storage and not Path(settings.storage).is_file():
        raise StorageError(f"no study to resume: there is no journal {settings.storage}")
    return open_storage(settings.storage)


def _study(settings: Settings, storage: BaseStorage) -> optuna.Study:
    pruner = samplers.make_pruner(settings.definition, settings.pruner)
    sampler = optuna.samplers.RandomSampler()  # never asked: Sampling asks the study's own
    return create.create(settings.definition, settings.study_name, storage, sampler, pruner)


def _with_budget(settings: Settings, unfinished: Unfinished | None) -> Settings:
    return replace(settings, n_trials=unfinished.left) if unfinished else settings


def _with_environment(job: worker.Job, uri: str, run: SearchRun) -> worker.Job:
    """Let the user's own code reach MLflow from a worker."""
    where = uri if "://" in uri and not uri.startswith("sqlite") else _absolute_sqlite(uri)
    environment = {"MLFLOW_TRACKING_URI": where, "MLFLOW_EXPERIMENT_ID": run.experiment_id}
    return replace(job, environment=environment)


def _absolute_sqlite(uri: str) -> str:
    prefix = "sqlite:///"
    return f"{prefix}{Path(uri.removeprefix(prefix)).absolute()}" if uri.startswith(prefix) else uri


def _described(settings: Settings, pool: workers.Pool) -> dict[str, object]:
    definition = settings.definition
    return {
        "n_trials": settings.n_trials,
        "timeout": settings.timeout,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "seed": settings.seed,
        "workers": len(pool.slots),
        "metric": ", ".join(definition.metrics),
        "direction": ", ".join(definition.directions),
        "storage": redact(settings.storage),
    }


def _outcome(
    settings: Settings,
    searching: Search,
    optuna_study: optuna.Study,
    run: SearchRun,
    data: DataSummary,
    pool: workers.Pool,
    job: worker.Job,
    started: float,
) -> Outcome:
    """Register the best trial's model, write the search's outcome to its run, and return it."""
    definition = settings.definition
    trials = optuna_study.get_trials(deepcopy=False)
    ranked = ranking.best_trials(definition, trials)
    if not ranked:
        _end(run, searching, "FAILED", {"reason": "no trial completed"})
        reasons = "see the runs' tag 'reason' in mlflow ui"
        raise NoTrialCompleted(
            f"no trial of study '{settings.study_name}' completed ({searching.counts.pruned} pruned, "
            f"{searching.counts.failed} failed); {reasons}"
        )
    best = best_of(ranked[0])
    # Workers draw, side by side and with the plotting library imported, while we register.
    drawn = [pool.slots[i % len(pool.slots)].submit(worker.draw, job, name) for i, name in enumerate(plots.PLOTS)]
    front = tuple(t.number for t in ranking.pareto_front(definition, trials)) if len(definition.metrics) > 1 else ()
    model, new = (
        register_best(settings.study_name, definition, ranked[0], best, data) if settings.register else (None, False)
    )
    with tempfile.TemporaryDirectory() as folder:
        plots.table(optuna_study, definition, Path(folder))
        for plot in drawn:
            for name, content in plot.result().items():
                Path(folder, name).write_bytes(content)
        run.artifacts(Path(folder))
    tags = {"best.trial": str(best.number), "best.run_id": best.run_id}
    tags |= {f"best.{name}": str(value) for name, value in best.params.items()}
    if model is not None:
        tags["model"] = model.uri
    if searching.stopped:
        tags["stopped"] = searching.stopped
    values = zip(definition.metrics, best.values, strict=True)
    _end(run, searching, "FINISHED", tags, {f"best_{name}": value for name, value in values})
    counts = searching.counts
    return Outcome(
        study=settings.study_name,
        experiment_id=run.experiment_id,
        search_run_id=run.run_id,
        n_trials={"complete": counts.complete, "pruned": counts.pruned, "failed": counts.failed},
        died=counts.died,
        best=best,
        front=front,
        model=model,
        newly_registered=new,
        stopped=searching.stopped,
        seconds=time.monotonic() - started,
        workers=pool.description,
        data=data,
        table=(best, *(best_of(trial) for trial in ranked[1:5])),
    )


def _end(
    run: SearchRun, searching: Search, status: str, tags: dict[str, str], metrics: dict[str, float] | None = None
) -> None:
    counts = searching.counts
    numbers = {"complete": counts.complete, "pruned": counts.pruned, "failed": counts.failed}
    run.end(status, {**{f"trials_{k}": float(v) for k, v in numbers.items()}, **(metrics or {})}, tags)
