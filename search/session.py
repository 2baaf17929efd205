"""One call of `search.run`, from a study file to a registered model: what the command does, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage

from search import resume
from search.budget import OnProgress, Stage
from search.data.summary import DataSummary
from search.errors import ClusterError, Interrupted, StorageError, one_line
from search.finish import HURRY, INTERRUPTED, Begun, OnMessage, finish
from search.optimize import NoMirror, Search
from search.outcome import Outcome
from search.stopping import check_terminator
from search.study import attributes, create, samplers
from search.study.spool import Spool
from search.study.storage import open_storage, storage_errors
from search.studyfile.references import from_outside
from search.studyfile.settings import Settings, described
from search.tracking.pages import pictures
from search.tracking.pages.dataset import dataset_of
from search.workers import local as workers
from search.workers import worker
from search.workers.base import Pool, in_background
from search.workers.fresh import check_loads

if TYPE_CHECKING:
    from search.tracking.mirror import Mirror
    from search.tracking.runs import SearchRun


def search(settings: Settings, on_progress: OnProgress, on_message: OnMessage = lambda _: None) -> Outcome:
    """Run a search: check everything, then train, record and register.

    Args:
        settings: What to do.
        on_progress: Called at each trial's beginning and end.
        on_message: Called with a line for the person: what is going on, and what went wrong on the way.

    Raises:
        UsageError: Something asked for cannot be; nothing was created.
        NoTrialCompleted: No trial of the study is complete.
        Interrupted: Ctrl-C; what finished is kept, and the best so far is registered.
    """
    started = time.monotonic()
    definition = settings.definition
    samplers.make_pruner(definition, settings.pruner)
    samplers.make_sampler(definition, settings.sampler, settings.seed)
    check_terminator(definition)
    _say_what_runs(settings, on_message)
    with ExitStack() as stack:
        pool = _pool(settings)
        stack.callback(pool.close)
        on_message(Stage(f"{pool.description}; loading the data and building the first model"))
        if settings.storage.startswith("sqlite"):
            on_message("the study is kept in SQLite; a journal file or PostgreSQL is about ten times faster")
        job = pool.reach(worker.Job(settings.located()))
        checked = in_background(pool.check, job)
        publish = _open_store(settings, stack)
        if not settings.offline and not checked.done():
            pictures.prepare()
        tried = checked.result()
        data = tried.data
        for line in (data.facts, *(f"warning: {each}" for each in data.doubts)):
            on_message(line)
        check_loads(definition, tried)
        storage = _storage(settings, on_message)
        publish()
        with storage_errors(settings.storage):
            session = _Session(settings, storage, pool, job, data, on_message, stack)
            interrupted = session.train(on_progress)
            outcome = finish(session.begun(), session.stopped, started, in_a_hurry=interrupted is not None)
        if interrupted is not None:
            interrupted.outcome = outcome
            raise interrupted
        return outcome


def _say_what_runs(settings: Settings, on_message: OnMessage) -> None:
    """Name what the study file runs or reads that does not lie in its folder."""
    outside = from_outside(settings.definition.references, settings.definition.folder)
    if outside:
        on_message(f"{settings.definition.path.name} uses what lies outside its folder: {'; '.join(outside)}")


def _open_store(settings: Settings, stack: ExitStack) -> Callable[[], None]:
    """Choose MLflow's store and see that it can be used; returns what brings a new one into being."""
    if settings.offline:
        return lambda: None
    # 2 s, while workers import the framework and load the data
    from search.tracking import mirror, store  # noqa: F401 - the mirror is needed soon

    uri = store.set_uri(settings.tracking_uri)
    stack.enter_context(store.mirrored())
    return stack.enter_context(store.fresh_store(uri))


def _pool(settings: Settings) -> Pool:
    # A search that is resumed may owe more trials than the study file's budget.
    n_trials, gpus = 10**9 if settings.resume else settings.n_trials, settings.definition.fit.gpus
    if settings.cluster is None:
        return workers.LocalPool(settings.workers, n_trials, settings.gpu_share, gpus)
    try:
        from search.workers.cluster import ClusterPool
    except ModuleNotFoundError:
        raise ClusterError("--cluster needs dask.distributed; pip install 'search[cluster]'") from None
    return ClusterPool(settings.cluster, settings.workers, n_trials, settings.gpu_share * gpus)


def _storage(settings: Settings, on_message: OnMessage) -> BaseStorage:
    if settings.resume and "://" not in settings.storage and not Path(settings.storage).is_file():
        raise StorageError(f"no study to resume: there is no journal {settings.storage}")
    return open_storage(settings.storage, on_message=on_message)


class _Session:
    """One search, once everything was checked: claimed and trained."""

    def __init__(
        self,
        settings: Settings,
        storage: BaseStorage,
        pool: Pool,
        job: worker.Job,
        data: DataSummary,
        on_message: OnMessage,
        stack: ExitStack,
    ) -> None:
        self._definition, self._storage, self._pool, self._data = settings.definition, storage, pool, data
        self._on_message = on_message
        pruner = samplers.make_pruner(self._definition, settings.pruner)
        sampler = optuna.samplers.RandomSampler()  # never asked: Sampling asks the study's own
        self._study = create.create(self._definition, settings.study_name, storage, sampler, pruner)
        create.check_data(self._study, settings, data)
        self._spool = Spool(settings)
        self._recovered = resume.recover_killed_searches(
            self._study, storage, self._spool, lambda number: worker.goes_on(job, number)
        )
        self._has_trials = bool(self._study.get_trials(deepcopy=False))
        self._unfinished = resume.claim_interrupted(self._study, self._spool) if settings.resume else None
        if self._unfinished is not None:
            self._claim = self._unfinished.claim
            settings = replace(settings, n_trials=self._unfinished.left)
        else:
            self._claim = self._begin(settings)
        stack.callback(self._claim.release)
        self._settings = settings
        self._spool.put_data(self._claim.record.search_id, data)
        self._run, self._mirror = self._open_mirror()
        self._url, self._serve = self._announce_page()
        stop_file = str(self._spool.stop_file(self._claim.record.search_id).absolute())
        self._job = replace(job, environment=self._environment(), stop_file=stop_file)
        self.stopped = ""  # why it ended before its budget was spent

    def _begin(self, settings: Settings) -> resume.Claim:
        asked = described(settings, len(self._pool.slots))
        facts = {"described": asked, "dataset": dataset_of(self._data), "registers": settings.register}
        return resume.begin(self._study, self._spool, settings.n_trials, **facts)

    def _open_mirror(self) -> tuple[SearchRun | None, Mirror | None]:
        """Open this search's run, and begin to show its trials, and those that earlier searches left."""
        if self._settings.offline:
            return None, None
        from search.tracking import mirror, store
        from search.tracking.agreement import search_runs

        search_id = self._claim.record.search_id
        searches = search_runs(self._definition, self._study)
        run = searches[search_id]
        with store.store_errors(store.uri()):
            run.open()
            run.running()
            if len(searches) == 1 and self._unfinished is None and run.has_earlier():
                self._on_message(
                    f"MLflow shows earlier searches of '{self._study.study_name}' that this study does not have; "
                    f"a new study begins in {self._settings.storage}"
                )
        fresh = "" if self._unfinished else search_id
        shown = mirror.Mirror(
            self._study, self._storage, self._definition, searches, self._spool, self._on_message, fresh
        )
        for number in self._left_behind(searches):
            shown.update(number)
        return run, shown

    def _announce_page(self) -> tuple[str, str]:
        """Say where the search can be watched; returns the page's address and the command that serves it."""
        if self._run is None:
            return "", ""
        from search.tracking import store
        from search.tracking.pages import descriptions, views

        page = views.page_of(store.uri(), self._run.experiment_id, self._run.run_id)
        about = descriptions.of_experiment(self._definition, self._study.study_name)
        files = f"The trials' pages, models, plots and files are in MLflow: {page.url}"
        attributes.set_note(self._storage, self._study.study_name, f"{about}\n\n{files}")
        served = f" (served by: {page.serve})" if page.serve else ""
        self._on_message(f"watch it at {page.url}{served}")
        return page.url, page.serve

    def _left_behind(self, searches: Mapping[str, SearchRun]) -> list[int]:
        """Return the trials of earlier searches that MLflow does not show as the study has them."""
        from search.tracking import agreement

        # A search may have begun, and even ended, since `searches` was read.
        records = [each for each in resume.search_records(self._study) if each.search_id in searches]
        over = {each.search_id: searches[each.search_id] for each in records if each.state != "running"}
        if self._unfinished is not None:
            over[self._claim.record.search_id] = searches[self._claim.record.search_id]
        if over and not any(run.is_known() for run in over.values()):
            self._on_message("MLflow shows nothing of this study's earlier searches; they are written again")
        else:
            unsettled = {each.search_id for each in records if each.state != "finished"} | self._recovered
            over = {search_id: run for search_id, run in over.items() if search_id in unsettled}
        return agreement.due(self._definition, self._study, over, self._spool.waiting())

    def _environment(self) -> dict[str, str]:
        """Return what lets the user's own code reach MLflow from a worker."""
        if self._run is None:
            return {}
        from search.tracking import store

        return {"MLFLOW_TRACKING_URI": store.absolute_uri(), "MLFLOW_EXPERIMENT_ID": self._run.experiment_id}

    def begun(self) -> Begun:
        """Return what the end of the search needs to know."""
        return Begun(
            self._settings,
            self._study,
            self._claim,
            self._spool,
            self._pool,
            self._job,
            self._data,
            self._run,
            self._mirror,
            self._url,
            self._serve,
            self._on_message,
        )

    def train(self, on_progress: OnProgress) -> Interrupted | None:
        """Run the trials; returns the interruption when Ctrl-C ended them early."""
        searching = Search(
            self._settings,
            self._study,
            self._storage,
            self._claim.record.search_id,
            self._job,
            self._mirror or NoMirror(),
            self._spool,
            on_progress,
            self._claim.record_heartbeat,
        )
        if self._unfinished is not None:
            searching.go_on(self._unfinished.running)
            searching.retry(self._unfinished.begun)
        searching.enqueue(create.first_configurations(self._definition, self._study, new=not self._has_trials))
        try:
            searching.optimize(self._pool.slots)
        except Interrupted as error:
            return error
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self.stopped = searching.stopped
        return None

    def _fail(self, error: BaseException) -> None:
        """Note, as far as possible, that the search ended by an error."""
        with suppress(Exception):
            self._claim.ended(INTERRUPTED, one_line(error))
        if self._mirror is not None and self._run is not None:
            self._mirror.drain(HURRY)
            with suppress(Exception):
                self._run.end("FAILED", {}, {"reason": str(error)})
            self._mirror.close()
