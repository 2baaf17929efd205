"""Where studies are kept: a journal file, a database, or Optuna's proxy. Opened here and nowhere else."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import optuna.storages.journal
from optuna.storages import BaseStorage

from search.errors import StorageError, one_line
from search.study import journal
from search.studyfile.registry import check_storage, install
from search.studyfile.secret import SecretUrl, revealed
from search.system.retry import retried

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING_SECONDS = 3.0  # how long another search may take to create a database's tables

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(url: str, *, create: bool = True, on_message: Callable[[str], None] = lambda _: None) -> BaseStorage:
    """Open an Optuna storage.

    Args:
        url: A database URL, `grpc://host:port`, or the path of a journal.
        create: Whether a storage that is not there yet is begun.
        on_message: Told what was mended, and when a database is away.

    Raises:
        StorageError: It cannot be reached, or its driver is not installed.
    """
    check_storage(url)
    shown, url = SecretUrl(url), revealed(url)
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=10)
            return proxy
        if "://" in url:
            return _relational(url, create, on_message)
        if create:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
        journal.repair(Path(url), on_message)
        backend = optuna.storages.journal.JournalFileBackend(url, journal.lock_of(Path(url)))
        return optuna.storages.JournalStorage(backend)
    except StorageError:
        raise
    except ImportError as error:  # Optuna raises its own, from the one that names the module
        named = error if error.name else error.__cause__
        raise StorageError(f"storage {shown}: {install(getattr(named, 'name', None) or '')}") from None
    except OSError as error:
        raise _unwritable(error, url) or StorageError(f"storage {shown} cannot be used ({one_line(error)})") from None
    except Exception as error:
        if "://" not in url and (damaged := journal.damaged_record(Path(url))) is not None:
            raise StorageError(f"{url}: record {damaged} is damaged; restore a copy, or delete that line") from None
        raise StorageError(
            f"storage {shown} cannot be used ({one_line(error)}); is it up, and the URL right?"
        ) from None


def _relational(url: str, create: bool, on_message: Callable[[str], None]) -> BaseStorage:
    import sqlalchemy.exc

    from search.study.database import PatientStorage

    options: dict[str, Any] = {} if url.startswith("sqlite") else {"pool_pre_ping": True}
    if url.startswith(("postgresql", "mysql")):
        options["connect_args"] = {"connect_timeout": 10}
    if not create and not _holds_studies(url, options):
        raise StorageError(f"storage {url} holds no study; give the storage that the search used")

    def opened() -> PatientStorage:
        return PatientStorage(
            url, engine_kwargs=options, skip_table_creation=not create, skip_compatibility_check=not create
        )

    def passes(error: Exception) -> bool:  # searches that open a fresh database at once create its tables twice
        return isinstance(error, sqlalchemy.exc.DatabaseError) and _reachable(url, options)

    storage = retried(opened, passes, _OPENING_SECONDS)
    storage.on_message = on_message
    return storage


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


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn an error of the storage inside this block into a `StorageError`."""
    import sqlalchemy.exc  # what Optuna's database storage raises beside its own error

    away: tuple[type[Exception], ...] = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
    if str(url).startswith("grpc://"):
        import grpc  # type: ignore[import-untyped]

        away = (*away, grpc.RpcError)
    try:
        yield
    except away as error:
        raise StorageError(f"storage {url} cannot be used ({one_line(error.__cause__ or error)})") from error
    except OSError as error:
        told = _unwritable(error, url)
        if told is None:
            raise
        raise told from error


def _unwritable(error: OSError, url: str) -> StorageError | None:
    """Return what to say where a disk is full, read-only or broken; None for other errors."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return None
    what = error.filename or f"storage {url}"
    return StorageError(f"{what} cannot be written ({error.strerror}); fix that, then continue with --resume")


def file_of(url: str) -> Path | None:
    """Return the file that a storage is, None for a server."""
    if "://" not in url:
        return Path(url)
    if not url.startswith("sqlite"):
        return None
    import sqlalchemy

    return Path(sqlalchemy.make_url(url).database or "")


def folder_of(url: str) -> Path:
    """Return the folder in which a storage's file lies; `studies` for a server."""
    file = file_of(url)
    return Path("studies") if file is None else file.parent
