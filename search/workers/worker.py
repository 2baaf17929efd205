"""What runs in a worker process, local or on a cluster: the data and study stay between trials.

It talks to Optuna's storage and returns results; it never talks to MLflow.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import platform
import secrets
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from search.budget import RUN_AGAIN
from search.code.digest import digests_of
from search.data.loading import TrialData
from search.errors import ModelError, RowsChanged, SearchError, printable, raised, redact
from search.reporting import data as data_picture
from search.reporting import plots
from search.reporting.address import Address
from search.study import attributes, orders, ranking, samplers, storage
from search.study.comparable import comparable_study
from search.study.files import checkpoint_name
from search.studyfile.objects import provide
from search.studyfile.schema import Definition
from search.studyfile.settings import Settings
from search.system import machine
from search.training import result as results
from search.training import trial
from search.training.dry_run import DryRun, dry_run
from search.training.model import has_user_code
from search.training.probes import probes
from search.training.training import seeds_of_its_own
from search.workers import sharing
from search.workers.devices import check_devices, make_virtual, operations_at_once, spread

STOPPED = f"stopped; {RUN_AGAIN}"
OBJECTS = "objects"  # the folder, among shipped files, of large data that a program gave
_LOGGED = 50_000  # characters of a trial's prints that are kept, at the beginning and at the end
_COLLECT_BYTES = 100_000_000
_LIVE_SECONDS = 2.0  # how often a long trial's epochs reach the storage, and so MLflow


@dataclass(frozen=True)
class Job:
    """All that a worker needs to train trials of one search.

    Attributes:
        settings: The search.
        environment: Variables for the user's code, MLflow's URI among them.
        shipped: Where the user's files were put on workers of a cluster; the study file's path is
            then relative to that folder.
        threads: Threads of a worker that was not started for this search.
        checkpoints: The folder in which each trial has a folder of checkpoints; empty where workers do not see it.
        stop_file: A file whose presence asks running trials to stop at their next epoch.
        guarded: Whether the same trial may be given to a worker twice, as dask does.
        basis: What the search's values are measured on.
        shared: The folder in which workers of this machine share data; empty where each has its own.
        url: The address of the study's page in MLflow's UI; empty where MLflow does not show it.
    """

    settings: Settings
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    shipped: str = ""
    threads: int = 0
    checkpoints: str = ""
    stop_file: str = ""
    guarded: bool = False
    basis: Mapping[str, Any] = field(default_factory=dict, repr=False)
    shared: str = ""
    url: str = ""

    @property
    def definition(self) -> Definition:
        """The study file."""
        return self.settings.definition


@dataclass
class _Cache:
    """What this process keeps between trials; of one study at a time."""

    key: str = ""
    definition: Definition | None = None
    data: TrialData | None = None
    storage: BaseStorage | None = None
    stored: tuple[str, str] = ("", "")
    memory: int = 0  # resident bytes after the last collection


_cache = _Cache()


def warm(threads: int) -> None:
    """Make the framework ready for trials on this many threads, in a process that has run nothing yet."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Every trial traces a model of its own, which TensorFlow takes for a mistake.
        logging.getLogger("tensorflow").addFilter(lambda record: "tf.function retracing" not in record.getMessage())
        with suppress(RuntimeError):  # a cluster's worker may have used TensorFlow before
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(operations_at_once())
            for device in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(device, True)
            make_virtual()


def try_out(job: Job) -> DryRun:
    """Load the data and build one model, creating nothing.

    Raises:
        UsageError: The data or the model cannot be used.
    """
    tried: DryRun = _with_our_errors("loading the data or building the first model", _tried_out, job)
    return tried


def _tried_out(job: Job) -> DryRun:
    check_devices(job.definition)
    started = time.perf_counter()
    definition, data = _data(job, first=True)
    seconds = time.perf_counter() - started
    said = digests_of(definition)
    with spread(definition):
        tried = dry_run(definition, data, probes(definition), seconds)
    return replace(tried, data=replace(tried.data, code=said))


def _with_our_errors(what: str, function: Callable[[Job], Any], job: Job) -> Any:
    """Call a function in which the user's code runs, and turn whatever that raises into an error of ours.

    An error of a class of the user's own, also as another's cause, cannot be read in another process; one
    that is no `Exception` (`sys.exit`, `KeyboardInterrupt`) would end that process. The folder that the
    user's code may have left is returned to.
    """
    folder, process = Path.cwd(), os.getpid()
    try:
        return function(job)
    except BaseException as error:
        told = error if isinstance(error, SearchError) else ModelError(raised(what, error))
        told.add_note(printable(redact(traceback.format_exc()), _LOGGED))
        told.__cause__ = told.__context__ = None
    finally:
        _end_forked(process)
        os.chdir(folder)
    raise told


def _end_forked(process: int) -> None:
    """End a process that the user's code forked from this one and let run on: it would answer in our place."""
    if os.getpid() != process:
        os._exit(0)


def train(job: Job, number: int, run_id: str = "") -> results.TrialResult:
    """Train the trial of this number, which must be RUNNING, and return what became of it."""
    definition, data = _with_our_errors("loading the data", _data, job)
    storage = _storage(job)
    seed = trial.seed_of(job.settings.seed, number)
    # Parameters that a builder suggests are sampled here, each trial from a seed of its own.
    sampler_name = job.settings.sampler if job.settings.sampler in ("tpe", "random") else "random"
    whole = optuna.load_study(
        study_name=job.settings.study_name,
        storage=storage,
        sampler=samplers.make_sampler(definition, sampler_name, seed),
        pruner=samplers.make_pruner(definition, job.settings.pruner),
    )
    current = comparable_study(whole, job.basis)
    trial_id = attributes.id_of(storage, current, number)
    kept = storage.get_trial(trial_id)
    if kept.state != TrialState.RUNNING:  # a cluster runs a finished task again when its worker dies
        return results.TrialResult(number, "died", seed, reason=f"the trial was {kept.state.name} already")
    begun = ""
    if job.guarded:
        if worker := kept.system_attrs.get(attributes.BEGUN):
            return results.TrialResult(number, "died", seed, reason=f"its worker died: it had begun on {worker}")
        begun = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
        storage.set_trial_system_attr(trial_id, attributes.BEGUN, begun)
    _run_user_code_in(job, run_id)
    live = _Live(storage, trial_id, job.stop_file, begun)
    checkpoints = Path(job.checkpoints, checkpoint_name(number)) if job.checkpoints else None

    with _alone(definition) as log:
        result = trial.run(
            definition,
            data,
            optuna.trial.Trial(current, trial_id),
            seed=job.settings.seed,
            is_kept=lambda values: ranking.worth_keeping(definition, current, values, number, job.settings.models_kept),
            on_epochs=live,
            checkpoints=checkpoints,
        )
    return replace(result, log=log.text())


def train_again(job: Job, number: int, seed: int | None = None) -> results.TrialResult:
    """Train a finished trial's configuration once more; the study is not told.

    Args:
        seed: In place of the study's, with folds on new splits; None trains it as it was, to have its model.
    """
    definition, data = _data(job)
    if seed is not None and definition.data.folds:
        data = TrialData(definition, fold_seed=seed)
    keep = seed is None or job.settings.ensemble > 1
    params, seed = _retrained(job, number), job.settings.seed if seed is None else seed
    with _alone(definition) as log:
        result = trial.run(definition, data, params, seed=seed, is_kept=lambda _: keep, on_epochs=lambda _: None)
    return replace(result, log=log.text())


def _retrained(job: Job, number: int) -> trial.RetrainedTrial:
    study = optuna.load_study(study_name=job.settings.study_name, storage=_storage(job))
    params = next(each.params for each in study.get_trials(deepcopy=False) if each.number == number)
    os.environ.pop("MLFLOW_RUN_ID", None)  # the user's own logging would change the run of another trial
    return trial.RetrainedTrial(params, number)


@contextmanager
def finished(job: Job, number: int) -> Iterator[tuple[Definition, TrialData, trial.RetrainedTrial]]:
    """Give the study file, the data and the parameters of a finished trial to what runs inside this block."""
    definition, data = _data(job)
    params = _retrained(job, number)
    with _alone(definition):
        yield definition, data, params


@contextmanager
def _alone(definition: Definition) -> Iterator[_Log]:
    """Train inside this block: prints are kept, seeds are the trial's own, and nothing of it stays afterwards."""
    folder, process = Path.cwd(), os.getpid()
    try:
        with _standard_descriptors(), _printed() as log, seeds_of_its_own(), spread(definition):
            yield log
    finally:
        _end_forked(process)
        os.chdir(folder)  # the user's code may have gone elsewhere
        _forget_model(definition)


@contextmanager
def _standard_descriptors() -> Iterator[None]:
    """Open standard input, output and error again after this block where the user's code closed or replaced them."""
    kept = {}
    for descriptor in range(3):
        with suppress(OSError):  # it was not open
            kept[descriptor] = os.dup(descriptor)
    try:
        yield
    finally:
        for descriptor, copy in kept.items():
            with suppress(OSError):  # the user's code closed the copy too
                if not _same_file(descriptor, copy):
                    os.dup2(copy, descriptor)
                os.close(copy)


def _same_file(descriptor: int, copy: int) -> bool:
    try:
        return os.path.sameopenfile(descriptor, copy)
    except OSError:
        return False


class _Log(io.TextIOBase):
    """Passes text on to a stream, and keeps its first and last part."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._first, self._last = stream, "", ""

    def write(self, text: str) -> int:
        """Pass text on; a stream that cannot encode it gets question marks."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        room = max(0, _LOGGED - len(self._first))
        self._first, self._last = self._first + text[:room], (self._last + text[room:])[-_LOGGED:]
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def text(self) -> str:
        """Return what was written, its middle left out where it was long."""
        between = "\n…\n" if len(self._last) == _LOGGED else ""
        return redact(f"{self._first}{between}{self._last}")


@contextmanager
def _printed() -> Iterator[_Log]:
    """Keep what is printed inside this block."""
    log = _Log(sys.stderr)
    with redirect_stdout(log), redirect_stderr(log):
        yield log


def draw(job: Job, plot: str) -> dict[str, bytes]:
    """Draw one plot of the study, and return the file by its name; nothing when it has too few trials."""
    current = optuna.load_study(study_name=job.settings.study_name, storage=_storage(job))
    with tempfile.TemporaryDirectory() as folder:
        files = plots.draw(comparable_study(current, job.basis), job.definition, plot, Path(folder), Address(job.url))
        return {file.name: file.read_bytes() for file in files}


def draw_data(job: Job) -> dict[str, bytes]:
    """Draw the data, and return the file by its name; nothing where they differ from trial to trial."""
    data = _data(job)[1].same
    picture = b"" if data is None else data_picture.draw(data)
    return {data_picture.FILE: picture} if picture else {}


class _Live:
    """Passes a long trial's epochs on through Optuna's storage, every two seconds at most.

    Args:
        begun: What the trial says of where it trains, on a cluster: once it says otherwise it was given up here.
    """

    def __init__(self, storage: BaseStorage, trial_id: int, stop_file: str, begun: str) -> None:
        self._storage, self._trial_id, self._stop_file, self._begun = storage, trial_id, stop_file, begun
        self._sent, self._last = 0, time.monotonic()

    def __call__(self, epochs: list[results.Epoch]) -> None:
        if self._stop_file and os.path.exists(self._stop_file):
            raise trial.TrialStopped(STOPPED)
        now = time.monotonic()
        if now - self._last < _LIVE_SECONDS:
            return
        fresh = [asdict(epoch) for epoch in epochs[self._sent :]]
        self._storage.set_trial_system_attr(
            self._trial_id, f"{attributes.EPOCHS}:{self._sent}", json.loads(json.dumps(fresh))
        )
        self._sent, self._last = len(epochs), now
        kept = self._storage.get_trial(self._trial_id)
        if self._begun and kept.system_attrs.get(attributes.BEGUN) != self._begun:
            raise trial.TrialStopped(STOPPED)
        order = orders.of_trial(kept)
        if order is not None:
            raise optuna.TrialPruned(str(order))


def _data(job: Job, *, first: bool = False) -> tuple[Definition, TrialData]:
    given = hashlib.sha256(job.settings.objects).hexdigest()
    key = f"{job.definition.digest}:{job.definition.path}:{job.shipped}:{given}"
    stale = _cache.key != key or first or not _has_rows_of(job, _cache.data)
    if stale or _cache.data is None or _cache.definition is None:
        if job.threads:
            warm(job.threads)
        _forget_shipped(job.shipped)
        provide(job.settings.objects, shipped_folder(job.shipped) / OBJECTS if job.shipped else None)
        definition = job.definition
        if job.shipped:
            definition = definition.model_copy(update={"path": shipped_folder(job.shipped) / definition.path})
        definition = definition.averaging(job.settings.ensemble)
        _cache.data = sharing.trial_data(definition, job.shared, first=first)
        _cache.definition, _cache.key = definition, key
    if not _has_rows_of(job, _cache.data):
        raise RowsChanged(
            f"the rows of {job.definition.data.source} changed while the search ran; put them back, or search the new "
            "ones with --accept-new-data"
        )
    return _cache.definition, _cache.data


def _has_rows_of(job: Job, data: TrialData | None) -> bool:
    """Return whether a process has the rows that the search began with, as far as that can be told."""
    same = data.same if data is not None else None
    return same is None or not job.basis or (same.digest, same.cut) == (job.basis["rows"], job.basis["parts"])


def _forget_shipped(key: str) -> None:
    """Forget the user's modules of an earlier search: this one's files may have the same names."""
    others = str(Path(tempfile.gettempdir()) / "search-shipped-")
    for name, module in sys.modules.copy().items():
        file = str(getattr(module, "__file__", None) or "")
        if file.startswith(others) and key not in file:
            del sys.modules[name]
    sys.path[:] = [each for each in sys.path if not each.startswith(others) or key in each]


def shipped_folder(key: str) -> Path:
    """Return where the files shipped under this key lie."""
    return Path(tempfile.gettempdir()) / f"{key}-{machine.user()}"


def versions() -> dict[str, str]:
    """Return the versions that must be the same wherever trials of one search run."""
    names = ("search", "keras", "tensorflow", "optuna")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _storage(job: Job) -> BaseStorage:
    wanted = (job.settings.storage, job.shipped)  # a cluster's worker outlives files that are made anew
    if _cache.storage is None or _cache.stored != wanted:
        _cache.storage, _cache.stored = storage.open_storage(job.settings.storage), wanted
    return _cache.storage


def _run_user_code_in(job: Job, run_id: str) -> None:
    """Point `mlflow.log_…` in the user's code to the trial's run."""
    os.environ.update(job.environment)
    if run_id:
        os.environ["MLFLOW_RUN_ID"] = run_id


def _forget_model(definition: Definition) -> None:
    """Give up what Keras keeps of the last model, and end the run that the user's own code may have used."""
    import keras

    # Collecting takes up to 0.2 s, more with every trial; Python does it in its own time, and at once only
    # where models are large enough to matter. Without code of the user's own there is nothing else to clear,
    # and TensorFlow keeps what it has optimised.
    grown = 0 < _cache.memory < machine.resident_memory() - _COLLECT_BYTES
    if grown or has_user_code(definition):
        keras.backend.clear_session(free_memory=grown)
    if grown or not _cache.memory:
        _cache.memory = machine.resident_memory()
    mlflow = sys.modules.get("mlflow")
    while mlflow is not None and mlflow.active_run() is not None:
        mlflow.end_run("RUNNING")
