"""The Optuna study and the storage it is kept in: opened, created, continued, never searched here."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import optuna.storages.journal
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from search import space
from search.definition import Definition
from search.errors import StorageError, did_you_mean, one_line, redact
from search.ranking import CONSTRAINTS, best_trials, constraints_of, feasible, pareto_front
from search.samplers import make_pruner, make_sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CONSTRAINTS",
    "FINISHED",
    "HEARTBEAT_SECONDS",
    "METRICS",
    "SEARCH",
    "best_trials",
    "constraints_of",
    "create",
    "default_storage",
    "describe",
    "feasible",
    "load",
    "make_pruner",
    "make_sampler",
    "open_storage",
    "pareto_front",
    "storage_errors",
    "warm_start",
]

METRICS = "metrics"
SEARCH = "search"
HEARTBEAT_SECONDS = 30  # after twice as long without one, a trial in a database counts as dead
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def default_storage(name: str) -> str:
    """Return the journal that a study is kept in unless the user says otherwise."""
    return f"studies/{name}.journal"


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Open an Optuna storage.

    Args:
        url: A database URL, `grpc://host:port`, or the path of a journal.
        create: Whether a storage that is not there yet is begun.

    Raises:
        StorageError: It cannot be reached, or its driver is not installed.
    """
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=10)
            return proxy
        if "://" in url:
            return _relational(url, create)
        if create:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(url)
        return optuna.storages.JournalStorage(backend)
    except StorageError:
        raise
    except ModuleNotFoundError as error:
        raise StorageError(f"storage {url}: {_install(error.name or '')}") from None
    except Exception as error:
        raise StorageError(f"storage {url} cannot be used ({one_line(error)}); is it up, and the URL right?") from None


def _relational(url: str, create: bool) -> BaseStorage:
    import sqlalchemy.exc

    options: dict[str, Any] = {} if url.startswith("sqlite") else {"pool_pre_ping": True}
    if url.startswith(("postgresql", "mysql")):
        options["connect_args"] = {"connect_timeout": 10}
    if not create and not _holds_studies(url, options):
        raise StorageError(f"storage {url} holds no study; give the storage that the search used")
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_SECONDS,
                skip_table_creation=not create,
                skip_compatibility_check=not create,
            )
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError):
            # Searches that open a fresh database at the same moment create its tables twice.
            if attempt == 4 or not _reachable(url, options):
                raise
    raise AssertionError("unreachable")


def _holds_studies(url: str, options: dict[str, Any]) -> bool:
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, **options)
    try:
        return sqlalchemy.inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _reachable(url: str, options: dict[str, Any]) -> bool:
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, **options)
    try:
        with engine.connect():
            return True
    except sqlalchemy.exc.SQLAlchemyError:
        return False
    finally:
        engine.dispose()


def _install(module: str) -> str:
    extra = {"psycopg": "postgresql", "psycopg2": "postgresql", "grpc": "grpc"}.get(module)
    if module == "psycopg2":
        return "write postgresql+psycopg://… and pip install 'search[postgresql]'"
    if extra:
        return f"pip install 'search[{extra}]'"
    return f"its driver '{module}' is not installed; pip install {module}"


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn an error of the storage inside this block into a `StorageError`."""
    import sqlalchemy.exc  # what Optuna's database storage raises beside its own error

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StorageError(f"storage {url} cannot be used ({one_line(error)})") from error


def create(
    definition: Definition, name: str, storage: BaseStorage, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """Create the study, or load it when it exists.

    Raises:
        StorageError: The study exists with other directions or a space Optuna cannot continue.
    """
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=list(definition.directions),
            load_if_exists=True,
        )
    except ValueError as error:
        raise StorageError(
            f"study '{name}': {one_line(error)}; keep metric and direction, or use --study-name"
        ) from None
    directions = tuple(each.name.lower() for each in study.directions)
    kept = study.user_attrs.get("metric", list(definition.metrics))
    if directions != definition.directions or kept != list(definition.metrics):
        raise StorageError(
            f"study '{name}' was begun with metric {', '.join(kept)} ({', '.join(directions)}); "
            "put metric and direction back, or start anew with --study-name"
        )
    if "metric" not in study.user_attrs:
        study.set_user_attr("metric", list(definition.metrics))
    space.check_unchanged(definition, study.get_trials(deepcopy=False))
    return study


def load(name: str, storage_url: str) -> optuna.Study:
    """Return an existing study, to look at it; nothing is created.

    Raises:
        StorageError: The storage or the study does not exist.
    """
    file = _file_of(storage_url)
    if file is not None and not file.is_file():
        raise StorageError(f"study '{name}': there is no {file}; run the search first, or give its --storage")
    storage = open_storage(storage_url, create=False)
    try:
        with storage_errors(storage_url):
            return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = sorted(optuna.get_all_study_names(storage))
        has = f"it has {', '.join(known[:20])}" if known else "it has none"
        raise StorageError(f"no study '{name}' in {storage_url}; {has}{did_you_mean(name, known)}") from None


def _file_of(url: str) -> Path | None:
    """Return the file that a storage is, None for a server."""
    if "://" not in url:
        return Path(url)
    if not url.startswith("sqlite"):
        return None
    import sqlalchemy

    return Path(sqlalchemy.make_url(url).database or "")


def describe(url: str) -> str:
    """Return a storage URL without its credentials."""
    return redact(url)


def warm_start(definition: Definition) -> list[dict[str, Any]]:
    """Return the configurations of another study's best trials that lie in this study's space.

    Raises:
        StorageError: There is no such study.
    """
    wanted = definition.search.warm_start
    if wanted is None:
        return []
    try:
        other = load(wanted.study, wanted.storage or default_storage(wanted.study))
    except StorageError as error:
        raise StorageError(f"search.warm_start: {error}") from None
    complete = [t for t in other.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(other.directions) == len(definition.directions):
        complete = best_trials(definition, complete)
    inside = [
        {name: value for name, value in trial.params.items() if space.contains(definition, name, value)}
        for trial in complete[: wanted.n_trials]
    ]
    return [configuration for configuration in inside if configuration]
