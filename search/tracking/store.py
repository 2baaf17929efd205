"""MLflow's tracking store: chosen, created when it is new, and told apart from one that is away."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.errors import TrackingError, UsageError, one_line, printable
from search.studyfile.secret import revealed
from search.system import whole
from search.tracking import moved

_SQLITE = "sqlite:///"
_FROM_OUTSIDE = ("API request to", "Unable to locate", *"45")  # how a server's errors begin: 403 Client Error
_LONGEST = 200  # characters of a reason that is not known
# What in the error of a server or database tells why it cannot be used; libraries wrap it in hundreds of characters.
_REASONS = (
    (r"Connection refused", "connection refused: nothing listens there"),
    (r"resolve|name resolution|Name or service not known", "there is no such host"),
    (r"timed out|timeout expired", "no answer in time"),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH, or MLFLOW_TRACKING_INSECURE_TLS=true",
    ),
    (r"WRONG_VERSION_NUMBER", "it does not speak https"),
    (r"error code 401", "HTTP status 401; log in by MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"),
    (r"error code 403|^403 ", "HTTP status 403: this user may not do it"),
    (r"error code 404|valid JSON", "what answers there is not an MLflow server"),
    (r"(?:error code |too many |^)(\d\d\d) ?", r"HTTP status \1"),
    (r"NoCredentials|Unable to locate credentials", "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (r"Connection (?:aborted|reset)|closed connection|closed the connection", "the connection was closed"),
)

# What MLflow says of a URI that it cannot use, or not like this, and what would be right.
_NOT_LIKE_THIS = (
    (
        r"filesystem tracking backend",
        "MLflow keeps runs in a database now, not in a folder; use sqlite:///mlflow.db, and `mlflow migrate-filestore`",
    ),
    (r"Databricks credential", "no credentials for Databricks; set DATABRICKS_HOST and DATABRICKS_TOKEN"),
    (r"Unity Catalog tracking URI", "this is a registry's URI; the tracking store is `databricks`"),
    (
        r"got unsupported URI",
        "MLflow knows no such store; use sqlite:///FILE, http(s)://HOST, postgresql+psycopg:// or mysql://",
    ),
)

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)
# They log the whole statement of each request that fails, and credentials that miss; we say such errors once.
for _name in ("mlflow.store.db.utils", "mlflow.utils.databricks_utils"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def set_uri(uri: str | None) -> str:
    """Choose MLflow's tracking store, and return its URI; None keeps MLflow's own choice."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.pop("MLFLOW_RUN_ID", None)  # else the first run of ours would resume that one
    if "MLFLOW_TRACKING_INSECURE_TLS" in os.environ:  # else each request would warn of what the user asked for
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    if uri is not None:
        mlflow.set_tracking_uri(revealed(uri))
    elif not _chosen() and mlflow.get_tracking_uri().startswith(_SQLITE):
        # MLflow percent-encodes its default's path, which only some versions of SQLAlchemy decode.
        mlflow.set_tracking_uri(_sqlite_uri(Path(unquote(mlflow.get_tracking_uri().removeprefix(_SQLITE)))))
    return mlflow.get_tracking_uri()


def _chosen() -> bool:
    """Return whether the user named a tracking store."""
    return bool(mlflow.is_tracking_uri_set())  # type: ignore[no-untyped-call]


@contextmanager
def fresh_store(uri: str) -> Iterator[Callable[[], None]]:
    """Prepare the tracking store, and yield a function that brings it into being.

    A SQLite file that does not exist is made beside its place and appears there only when the
    function is called, all or nothing: bad input leaves no trace, and searches started at the same
    moment never meet a half-made one.

    Raises:
        TrackingError: The store cannot be reached or used.
    """
    path = _sqlite_path(uri)
    if path is None or path.exists():
        with store_errors(uri), _impatient():
            _connect(uri)
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        yield lambda: None
        return
    with store_errors(uri), _file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-")
    with folder as name:
        made, copy = Path(name) / "made", Path(name) / "copy"
        with store_errors(uri), _file_errors(path):
            MlflowClient(tracking_uri=_sqlite_uri(made)).search_experiments(max_results=1)
            shutil.copyfile(made, copy)

        yield lambda: whole.first(copy, path)  # where another search was first, its store serves this one too


def _connect(uri: str) -> None:
    """Try a database once: MLflow itself would try for 100 seconds, and log each try."""
    path = _sqlite_path(uri)
    if path is not None and path.exists() and not path.is_file():
        raise TrackingError(f"MLflow tracking store {uri}: {path} is a folder, not a database; move it, or say another")
    if uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        timeout = {"connect_timeout": 10} if uri.startswith(("postgresql", "mysql")) else {}
        engine = sqlalchemy.create_engine(uri, connect_args=timeout)
        try:
            with engine.connect() as connection:
                sqlalchemy.inspect(connection).get_table_names()  # SQLite opens its file only when it is asked
        except sqlalchemy.exc.OperationalError as error:
            if "database is locked" not in str(error):  # MLflow waits for that
                raise
        finally:
            engine.dispose()
    if path is not None and path.is_file():
        moved.refuse(path)


@contextmanager
def existing_store(uri: str) -> Iterator[None]:
    """Use a tracking store that must exist; nothing is created where there is none.

    Raises:
        TrackingError: There is no such store, or it cannot be reached.
    """
    if not exists(uri):
        raise TrackingError(f"no MLflow store {uri} here; run a search first, or say --tracking-uri")
    with store_errors(uri):
        with _impatient():
            _connect(uri)
            if uri.startswith("http"):  # else each request to a server that is away would take minutes
                MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        yield


def exists(uri: str) -> bool:
    """Return whether a store may be there; of a server or database only asking tells."""
    path = _sqlite_path(uri)
    return path is None or path.is_file()


def rewrite_moved(uri: str, old: str, on_message: Callable[[str], None]) -> None:
    """Change the paths of a store's artifacts from `old` to the project's folder of now.

    Raises:
        UsageError: It is no SQLite file, or names nothing in that folder.
    """
    path = _sqlite_path(uri)
    if path is None or not path.is_file():
        raise UsageError(f"--moved-from: {uri} is no SQLite file here; only such a store keeps its project's paths")
    moved.rewrite(path, Path(old).absolute(), on_message)


def _sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite URI as SQLAlchemy reads it; None where there is no file."""
    if not uri.startswith("sqlite"):
        return None
    try:
        database = sqlalchemy.make_url(uri).database
    except sqlalchemy.exc.ArgumentError:
        return None
    return Path(database) if database and database != ":memory:" else None


def _sqlite_uri(path: Path, *, absolute: bool = False) -> str:
    """Return the URI that SQLAlchemy reads as this file: since its version 2.1 it decodes a path.

    MLflow makes the folder that the URI names without decoding it, so an encoded path is the last choice.
    """
    names = [str(path), *([] if absolute else [os.path.relpath(path)]), quote(str(path))]
    uris = [f"{_SQLITE}{name}" for name in names]
    return next((uri for uri in uris if (_sqlite_path(uri) or Path()).absolute() == path.absolute()), uris[0])


def artifact_location(name: str) -> str | None:
    """Return where the artifacts of a new experiment go; None for MLflow's own choice.

    MLflow takes the path of its default folder for a URI, and so reads `%`, `?` and `#` in it wrongly.
    """
    if _sqlite_path(uri()) is None or not set("%?#") & set(str(Path.cwd())):
        return None
    return (Path.cwd() / "mlruns" / quote(name, safe="").replace("%", "_")).as_uri()


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system inside this block into a `TrackingError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise TrackingError(f"MLflow tracking store {path} cannot be created ({reason})") from error


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn an error of MLflow's store inside this block into a `TrackingError`."""
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        known = next((advice for pattern, advice in _NOT_LIKE_THIS if re.search(pattern, str(error))), "")
        told = f": {known}" if known else f" ({reason_of(error)}); is it running, and the URI right?"
        raise TrackingError(f"MLflow tracking store {uri} cannot be used{told}") from error


def reason_of(error: BaseException) -> str:
    """Return in a few words why MLflow's store does not do what it was asked."""
    text = str(error)
    if (found := re.search(r"An error occurred \((\w+)\)[^:]*: (.+)", text)) is not None:  # of S3
        return printable(found.expand(r"\1: \2"), _LONGEST)
    if text.startswith(_FROM_OUTSIDE) or isinstance(error, sqlalchemy.exc.OperationalError):
        for pattern, reason in _REASONS:
            if (found := re.search(pattern, text)) is not None:
                return found.expand(reason)
    return printable(one_line(error), _LONGEST)


def restore(uri: str | None, experiment: str | None) -> None:
    """Set MLflow's tracking store and active experiment again as they were; None where none was chosen."""
    mlflow.set_tracking_uri(uri)  # type: ignore[arg-type]  # None gives the choice back to MLflow
    if experiment is not None and os.environ.get("MLFLOW_EXPERIMENT_ID") != experiment:
        with suppress(MlflowException):  # it was deleted meanwhile
            mlflow.set_experiment(experiment_id=experiment)


def uri() -> str:
    """Return the URI of the tracking store in use."""
    return str(mlflow.get_tracking_uri())


def absolute_uri() -> str:
    """Return the tracking store's URI as a process in another working directory reaches it."""
    path = _sqlite_path(uri())
    return uri() if path is None or path.is_absolute() else _sqlite_uri(path.absolute(), absolute=True)


def _impatient() -> AbstractContextManager[None]:
    """Ask a server for seconds, not the four minutes MLflow retries by default."""
    return _variables(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10")


def mirrored() -> AbstractContextManager[None]:
    """Make a request to a server that is away fail within a minute: the mirror tries again itself."""
    return _variables(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="60")


@contextmanager
def _variables(**names: str) -> Iterator[None]:
    """Set environment variables that are not set yet, inside this block."""
    ours = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name)
