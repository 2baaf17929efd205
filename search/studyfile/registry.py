"""What a study file names by a short word: samplers, pruners, kinds of data. One entry here makes one known everywhere.

An entry says where its code is, so that a study file is checked before any of it is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from search.errors import StorageError, TrackingError, did_you_mean
from search.studyfile.secret import SecretUrl, revealed

OWN = ("<file.py>:<function>", "<module>:<function>")  # how the user's own code is named


def parted(reference: str) -> tuple[str, str]:
    """Return what stands before and after a reference's colon, which is not that of a drive: `C:/mine.py:build`."""
    drive = 2 if re.match(r"[A-Za-z]:[\\/]", reference) else 0
    where, _, name = reference[drive:].partition(":")
    return reference[:drive] + where, name


@dataclass(frozen=True)
class Choice:
    """A sampler or a pruner.

    Attributes:
        code: `<module>:<name>` of the class, or of a function that makes one.
        defaults: Options where they differ from Optuna's own defaults.
        needs: The package that it needs; the extra of the entry's name installs it.
        several: Whether it takes several metrics.
    """

    code: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    several: bool = True


SAMPLERS = {
    "tpe": Choice("optuna.samplers:TPESampler", {"constant_liar": True}),  # trials run side by side
    "random": Choice("optuna.samplers:RandomSampler"),
    "gp": Choice("optuna.samplers:GPSampler", needs="torch", several=False),
    "cmaes": Choice("optuna.samplers:CmaEsSampler", needs="cmaes", several=False),
    "qmc": Choice("optuna.samplers:QMCSampler", {"scramble": True, "warn_independent_sampling": False}),
    "grid": Choice("optuna.samplers:GridSampler"),
    "nsga2": Choice("optuna.samplers:NSGAIISampler"),
}
PRUNERS = {
    "none": Choice("optuna.pruners:NopPruner"),
    "median": Choice("optuna.pruners:MedianPruner"),
    "percentile": Choice("optuna.pruners:PercentilePruner", {"percentile": 75.0}),
    "hyperband": Choice("search.study.brackets:HyperbandPruner"),
    "asha": Choice("optuna.pruners:SuccessiveHalvingPruner"),
    "patient": Choice("optuna.pruners:PatientPruner", {"patience": 5}),
    "wilcoxon": Choice("optuna.pruners:WilcoxonPruner"),
}


@dataclass(frozen=True)
class Source:
    """A kind of data source, named by the word before the colon.

    Attributes:
        reader: `<module>:<name>` of the function that reads it, called with the study file.
        what: What stands behind the colon.
        file: Whether that is a file.
        table: Whether the file has named columns, one of which is the target.
    """

    reader: str
    what: str
    file: bool = False
    table: bool = False


SOURCES = {
    "sklearn": Source("search.data.sources:read_sklearn", "<loader>"),
    "csv": Source("search.data.sources:read_csv", "<path>", file=True, table=True),
    "parquet": Source("search.data.sources:read_parquet", "<path>", file=True, table=True),
    "npz": Source("search.data.sources:read_npz", "<path>", file=True),
}
PYTHON = Source("search.data.sources:read_python", "<function>")  # any other word is a Python file or a module


# What Optuna and MLflow keep things in, by the scheme of its URL: the module that speaks to a database when the URL
# names no other.
_DATABASES = {
    "sqlite": "sqlite3",
    "postgresql": "psycopg2",
    "mysql": "MySQLdb",
    "mariadb": "MySQLdb",
    "oracle": "cx_Oracle",
    "mssql": "pyodbc",
}
_STORAGES = {**_DATABASES, "grpc": "grpc"}
_TRACKED = {**_DATABASES, **dict.fromkeys(("file", "http", "https", "databricks", "databricks-uc", "uc"), "")}
_DRIVERS = {each: each for each in ("psycopg", "psycopg2", "pg8000", "pymysql", "pyodbc", "oracledb")}
_DRIVERS |= {"mysqldb": "MySQLdb", "mysqlconnector": "mysql", "cx_oracle": "cx_Oracle"}


def check_storage(url: str) -> None:
    """Refuse a storage of no known kind, or one whose driver is not installed; nothing is opened or imported.

    Raises:
        StorageError: Says which, and what would be right.
    """
    right = "the path of a journal, sqlite:///FILE, postgresql+psycopg://…, mysql+pymysql://… or grpc://host:port"
    if wrong := _wrong_url(url, _STORAGES, "sqlalchemy.dialects", right):
        raise StorageError(f"storage {SecretUrl(url)}: {wrong}")


def check_tracking(uri: str) -> None:
    """Refuse an MLflow tracking store of no known kind, or one whose driver is not installed.

    Raises:
        TrackingError: Says which, and what would be right.
    """
    right = "sqlite:///FILE, postgresql+psycopg://…, mysql+pymysql://… or http://host:port"
    if wrong := _wrong_url(uri, _TRACKED, "mlflow.tracking_store", right):
        raise TrackingError(f"MLflow tracking store {SecretUrl(uri)}: {wrong}")


def _wrong_url(url: str, known: Mapping[str, str], plugins: str, right: str) -> str:
    """Return what is wrong with a URL and what would be right; nothing where it is a path, or its kind is known."""
    scheme, found, _ = revealed(url).partition("://")
    kind, _, driver = scheme.lower().partition("+")
    if not found or any(each.name.startswith(kind) for each in entry_points(group=plugins)):
        return ""
    if kind not in known:
        return f"'{scheme}' is no kind of store{did_you_mean(kind, known) or ';'} use {right}"
    module = _DRIVERS.get(driver, "") if driver else known[kind]
    return install(module) if module and importlib.util.find_spec(module) is None else ""


def install(module: str) -> str:
    """Return how to install the driver of a storage, or which other to name."""
    extra = {"psycopg": "postgresql", "grpc": "grpc"}.get(module)
    if module == "psycopg2":
        return "write postgresql+psycopg://… and pip install 'search[postgresql]'"
    if extra:
        return f"pip install 'search[{extra}]'"
    if module == "MySQLdb":
        return "write mysql+pymysql://… and pip install pymysql"
    return f"its driver '{module}' is not installed; pip install {module}"


def choice(known: Mapping[str, Choice], word: str) -> Choice:
    """Return the entry of this name; a reference to the user's own code is one of its own."""
    return known.get(word) or Choice(word)


def alternatives(words: list[str]) -> str:
    """Return quoted words as what may be written: `'a', 'b' or 'c'`."""
    *before, last = map(repr, words)
    return f"{', '.join(before)} or {last}"


def _one_of(known: Mapping[str, Choice]) -> tuple[AfterValidator, WithJsonSchema]:
    def check(word: str) -> str:
        if word not in known and not all(parted(word)):
            raise ValueError(f"{word!r}; use {alternatives([*known, *OWN])}{did_you_mean(word, known)}")
        return word

    schema = {"anyOf": [{"enum": [*known]}, {"type": "string", "pattern": "^.+:.+$"}]}
    return AfterValidator(check), WithJsonSchema(schema)


_FORMS = [*(f"{kind}:{each.what}" for kind, each in SOURCES.items()), *OWN]
_SOURCE_SCHEMA = {
    "type": "string",
    "pattern": "^.+:.+$",
    "description": f"Where the data come from: {', '.join(f'`{each}`' for each in _FORMS)}.",
}


def _source(source: str) -> str:
    if not all(parted(source)):
        raise ValueError(f"{source!r} is not a valid source; use {alternatives(_FORMS)}")
    return source


SamplerName = Annotated[str, *_one_of(SAMPLERS)]
PrunerName = Annotated[str, *_one_of(PRUNERS)]
SourceName = Annotated[str, AfterValidator(_source), WithJsonSchema(_SOURCE_SCHEMA)]
