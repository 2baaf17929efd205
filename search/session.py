"""One call of `search.run`, from a study file to a registered model: what the command does, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from search import resume
from search.budget import OnProgress, Stage
from search.context import Context, OnMessage
from search.data.summary import DataSummary
from search.errors import ClusterError, Interrupted, SearchError, StorageError, one_line
from search.figures import plural
from search.handover.finish import HURRY, INTERRUPTED, finish
from search.handover.outcome import Outcome
from search.optimize import Search
from search.stopping import check_terminator
from search.study import attributes, create, ranking, samplers, space
from search.study.comparable import check_data, comparable_trials
from search.study.files import StudyFiles
from search.study.proposals import Suggestion
from search.study.storage import folder_of, open_storage, storage_errors
from search.studyfile.load import check_objects, keep_made
from search.studyfile.references import from_outside
from search.studyfile.schema import Definition
from search.studyfile.settings import Settings, described
from search.system import machine
from search.tracking.pages import pictures
from search.tracking.pages.dataset import dataset_of
from search.tracking.user_code import keep
from search.workers import local as workers
from search.workers import worker
from search.workers.base import Pool, in_background
from search.workers.fresh import check_loads

if TYPE_CHECKING:
    from search.tracking.runs import SearchRun


_TAKEN_OVER = 5  # configurations that are trained first on new rows, at most half of the trials


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
    check_objects(definition, settings.objects)
    samplers.make_pruner(definition, settings.pruner)
    samplers.make_sampler(definition, settings.sampler, settings.seed)
    check_terminator(definition)
    create.check_warm_start(definition, settings.study_name, settings.storage)
    _say_what_runs(settings, on_message)
    with ExitStack() as stack:
        pool = _pool(settings)
        stack.callback(pool.close)
        on_message(Stage(f"{pool.description}; loading the data and building the first model"))
        if settings.storage.startswith("sqlite"):
            on_message("the study is kept in SQLite; a journal file or PostgreSQL is about ten times faster")
        job = pool.reach(worker.Job(settings.located()))
        checked = in_background(pool.dry_run, job)
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
            context, searching = _begin(settings, started, storage, pool, job, data, on_progress, on_message, stack)
            interrupted = _train(context, searching)
            outcome = finish(context, searching.stopped, interrupted, paused=searching.paused)
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


def _say_what_is_learned(definition: Definition, study: optuna.Study, on_message: OnMessage) -> None:
    """Say from how many earlier trials the sampler learns, where the space has changed since some of them."""
    finished = comparable_trials(study, ranking.FINISHED)
    used = sum(space.translated(definition, trial.params) is not None for trial in finished)
    if used < len(finished):
        on_message(f"the sampler learns from {used} of {len(finished)} earlier trials; the others lie in another space")


def _storage(settings: Settings, on_message: OnMessage) -> BaseStorage:
    return open_storage(settings.storage, on_message=on_message)


def _begin(
    settings: Settings,
    started: float,
    storage: BaseStorage,
    pool: Pool,
    job: worker.Job,
    data: DataSummary,
    on_progress: OnProgress,
    on_message: OnMessage,
    stack: ExitStack,
) -> tuple[Context, Search]:
    """Create or continue the study, claim the search, and open its run in MLflow."""
    definition = settings.definition
    pruner = samplers.make_pruner(definition, settings.pruner)
    sampler = optuna.samplers.RandomSampler()  # never asked: Sampling asks the study's own
    study = create.create(definition, settings.study_name, storage, sampler, pruner)
    new = not study.get_trials(deepcopy=False)
    files = _files(settings, study, on_message, new=new)
    recovered = resume.recover_killed_searches(study, storage, files, on_message)
    resumed = resume.to_resume(study) if settings.resume else None
    earlier = comparable_trials(study, ranking.FINISHED)
    basis = check_data(study, settings, data, resumed.basis if resumed is not None else None)
    if not settings.offline:
        _check_experiment(study)
    _say_what_is_learned(definition, study, on_message)
    if settings.objects:
        with suppress(OSError):  # beside the journal nothing can be written: the commands do not know the study
            if why := keep_made(definition, folder_of(settings.storage)):
                on_message(f"warning: {why}")
    enqueued = create.first_configurations(definition, study, new=new)
    if earlier and not comparable_trials(study, ranking.FINISHED):
        enqueued += _taken_over(settings, study, earlier, on_message)
    else:
        enqueued += [each for each in resume.left_to_try(definition, study, basis) if each not in enqueued]
    first: list[Suggestion] = []
    if settings.resume:
        unfinished = resume.claim_interrupted(study, files, definition.search.retries)
        claim, first = unfinished.claim, unfinished.first
        settings = settings.model_copy(update={"n_trials": unfinished.left})
        claim.write(basis=basis, trivial=data.trivial)  # an earlier release noted none
    else:
        asked = described(settings, len(pool.slots))
        facts = {"described": asked, "dataset": dataset_of(data), "registers": settings.registers, "basis": basis}
        facts |= {"trivial": data.trivial, "first": [each for each in enqueued if each not in definition.enqueue]}
        claim = resume.begin(study, files, settings.n_trials, **facts)
    stack.callback(claim.release)
    search_id = claim.record.search_id
    files.put_data(search_id, data)
    if settings.offline and definition.path.is_file():
        with suppress(OSError):  # `search.sync` then shows the code of its own time
            keep(definition, files.origin(search_id))
    checkpoints = str(files.checkpoints) if pool.sees(files.folder) else ""
    job = replace(job, stop_file=str(files.stop_file(search_id)), checkpoints=checkpoints, basis=basis)
    context = Context(settings, started, study, storage, claim, files, pool, job, data, on_progress, on_message)
    context = context if settings.offline else _with_mlflow(context, recovered)
    return context, Search(context, first, enqueued)


def _check_experiment(study: optuna.Study) -> None:
    from search.tracking import agreement, store

    with store.store_errors(store.uri()):
        agreement.check_experiment(study)


def _files(settings: Settings, study: optuna.Study, on_message: OnMessage, *, new: bool) -> StudyFiles:
    """Return the study's files; of a new study, tell of those of others of its name."""
    if settings.state:
        attributes.set_state(study, str(Path(settings.state).absolute()))
    files = StudyFiles(study, settings)
    if not machine.is_writable(files.folder):
        raise StorageError(f"{files.folder} cannot be written; name a folder for the study's files with --state DIR")
    files.take_over()
    for left in files.strangers() if new else ():
        on_message(f"{left} belongs to another study named '{settings.study_name}', which may be gone; it is not read")
    return files


def _taken_over(
    settings: Settings, study: optuna.Study, earlier: Sequence[FrozenTrial], on_message: OnMessage
) -> list[dict[str, Any]]:
    """Return the configurations of earlier rows that are tried first on new ones, and say which."""
    champion = ""
    if not settings.offline:
        from search.tracking import registry, store

        with suppress(SearchError), store.store_errors(store.uri()):
            version = registry.holder(settings.study_name, registry.CHAMPION)
            champion = version.tags.get("trial", "") if version is not None else ""
    most = max(1, min(_TAKEN_OVER, (settings.n_trials + 1) // 2))
    taken = create.taken_over(settings.definition, study, earlier, champion, most)
    named = ", ".join(f"{each}{' (the champion)' if str(each) == champion else ''}" for each in taken)
    first = f"the configurations of trials {named} are trained first" if taken else "none fits the space of now"
    on_message(f"the data or the code changed; not compared any more: {plural(len(earlier), 'earlier trial')}; {first}")
    return list(taken.values())


def _with_mlflow(context: Context, recovered: set[str]) -> Context:
    """Return the search with its run in MLflow, its trials shown from now on, and those that earlier ones left."""
    from search.tracking import mirror, store
    from search.tracking.agreement import search_runs

    settings, study = context.settings, context.study
    searches = search_runs(context.definition, study, context.files)
    run = searches[context.search_id]
    with store.store_errors(store.uri()):
        run.open()
        run.running()
        if len(searches) == 1 and not settings.resume and run.has_earlier():
            context.on_message(
                f"MLflow shows earlier searches of '{study.study_name}' that this study does not have; "
                f"a new study begins in {settings.storage}"
            )
    fresh = "" if settings.resume else context.search_id
    shown = mirror.Mirror(
        study, context.storage, context.definition, searches, context.files, context.on_message, fresh
    )
    for number in _left_behind(context, searches, recovered):
        shown.update(number)
    # What lets the user's own code reach MLflow from a worker.
    environment = {"MLFLOW_TRACKING_URI": store.absolute_uri(), "MLFLOW_EXPERIMENT_ID": run.experiment_id}
    url, serve = _announce_page(context, run)
    job = replace(context.job, environment=environment, url=url)
    return replace(context, run=run, mirror=shown, job=job, url=url, serve=serve)


def _announce_page(context: Context, run: SearchRun) -> tuple[str, str]:
    """Say where the search can be watched; returns the page's address and the command that serves it."""
    from search.tracking import store
    from search.tracking.pages import descriptions, views

    page, name = views.page_of(store.uri(), run.experiment_id, run.run_id), context.study.study_name
    about = descriptions.of_experiment(context.definition, name)
    files = f"The trials' pages, models, plots and files are in MLflow: {page.url}"
    attributes.set_note(context.storage, name, f"{about}\n\n{files}")
    served = f" (served by: {page.serve})" if page.serve else ""
    context.on_message(f"watch it at {page.url}{served}")
    return page.url, page.serve


def _left_behind(context: Context, searches: Mapping[str, SearchRun], recovered: set[str]) -> list[int]:
    """Return the trials of earlier searches that MLflow does not show as the study has them."""
    from search.tracking import agreement

    # A search may have begun, and even ended, since `searches` was read.
    records = [each for each in resume.search_records(context.study) if each.search_id in searches]
    over = {each.search_id: searches[each.search_id] for each in records if each.state != "running"}
    if context.settings.resume:
        over[context.search_id] = searches[context.search_id]
    if over and not any(run.is_known() for run in over.values()):
        context.on_message("MLflow shows nothing of this study's earlier searches; they are written again")
    else:
        unsettled = {each.search_id for each in records if each.state != "finished"} | recovered
        over = {search_id: run for search_id, run in over.items() if search_id in unsettled}
    return agreement.due(context.definition, context.study, over, context.files.waiting())


def _train(context: Context, searching: Search) -> Interrupted | None:
    """Run the trials; returns the interruption when Ctrl-C ended them early."""
    try:
        searching.optimize(context.pool.slots)
    except Interrupted as error:
        return error
    except BaseException as error:
        _fail(context, error)
        raise
    return None


def _fail(context: Context, error: BaseException) -> None:
    """Note, as far as possible, that the search ended by an error."""
    with suppress(Exception):
        context.claim.ended(INTERRUPTED, one_line(error))
    if context.run is not None:
        context.mirror.outbox.drain(HURRY)
        with suppress(Exception):
            context.run.end("FAILED", {}, {"reason": str(error)})
    context.mirror.close()
