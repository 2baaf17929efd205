"""Rows in files: CSV, Parquet and NPZ, read alike by a study, `search.predict` and `promote --data`; written whole."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import DataError, did_you_mean, one_line
from search.system.whole import whole

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from search.studyfile.schema import DataDefinition, Definition

SUFFIXES = (".csv", ".parquet", ".npz")
_SEPARATORS = (",", ";", "\t", "|")
_RARE = (" ", ":", "^", "~")  # only where they alone give the columns that a file must have
_ALL = 2**31 - 1  # rows of a chunk
_SAMPLE = 100  # rows that tell how a CSV file is written
_BYTES = 1_000_000  # of a file, that tell its encoding
# Options of a study's file that say which rows and columns the study takes, or hold secrets: other files have others.
_OF_THE_STUDY = ("nrows", "chunksize", "iterator", "usecols", "index_col", "skipfooter", "storage_options")
_ENCODINGS = ("cp1252", "cp1250", "cp1251", "cp932", "gb18030", "latin-1")
_PLAIN = {"sep", "na_values", "decimal", "thousands", "dtype", "parse_dates"}  # options that leave the header alone
_BY_PANDAS = re.compile(r"Unnamed: \d+|.*\.\d+")  # names that no file has
_OF_HEADERS = (
    *("encoding", "encoding_errors", "quotechar", "quoting", "skiprows", "header", "comment", "compression"),
    "skipinitialspace",
)


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Attributes:
        kind: `csv`, `parquet` or `npz`: of which files the options are; empty for none.
        options: The study's `[data] options`.
        texts: Columns of a CSV that are text whatever they hold: leading zeros stay.
        wanted: Columns that it must have, by which its separator is recognised.
    """

    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()

    def options_of(self, kind: str) -> dict[str, Any]:
        """Return the options of files of a kind."""
        return dict(self.options) if kind == self.kind else {}


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        rows: A data frame, or arrays by name.
        done: The share of the file that was read with it, in [0, 1].
    """

    rows: Any
    done: float


def travelling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a study's file that other files for its model are read with too."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        with suppress(TypeError, ValueError):  # what only Python knows
            kept |= {} if name in _OF_THE_STUDY else {name: json.loads(json.dumps(value))}
    return kept


def check(path: Path, option: str) -> None:
    """Refuse a file that is not there, or of a kind that is not read here.

    Raises:
        DataError: Says which.
    """
    check_suffix(path, option)
    if not path.is_file():
        raise DataError(f"{option}: no file {path}")


def check_suffix(path: Path, option: str) -> None:
    """Refuse a file of a kind that is neither read nor written here.

    Raises:
        DataError: Its suffix is not `.csv`, `.parquet` or `.npz`.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{option}: {path}: use {', '.join(SUFFIXES)}{did_you_mean(suffix, SUFFIXES)}")


def read(path: Path, size: int, form: Form, option: str = "--input") -> Iterator[Chunk]:
    """Yield the rows of a file in chunks.

    Args:
        path: A CSV, Parquet or NPZ file.
        size: Rows of a chunk.
        form: How it is written.
        option: What named it.

    Raises:
        DataError: The file is not there, cannot be read, or has no rows.
    """
    check(path, option)
    any_rows = False
    with telling(path, form, option):
        for chunk in _READERS[path.suffix.lower()](path, size, form):
            any_rows = True
            yield chunk
    if not any_rows:
        raise DataError(f"{option}: {path} has no rows")


def table(path: Path, form: Form, option: str) -> pd.DataFrame:
    """Return all rows of a CSV or Parquet file.

    Raises:
        DataError: As `read`.
    """
    import pandas as pd

    check(path, option)
    with telling(path, form, option):
        if path.suffix.lower() == ".parquet":
            _pyarrow()
            return pd.read_parquet(path)
        found: pd.DataFrame = next(_read_csv(path, _ALL, form)).rows
        return found


def arrays(path: Path, form: Form) -> dict[str, NDArray[Any]]:
    """Return the arrays of an NPZ file, those that the study names `x` and `y` under these names."""
    names = {str(given): name for name, given in form.options_of("npz").items()}
    with np.load(path) as file:
        return {names.get(name, name): file[name] for name in file}


def check_columns(definition: Definition) -> None:
    """Refuse a table without rows, or without a column that the study names, by the file's first lines.

    What is written in another way than usual is left to whoever reads the whole file.

    Raises:
        DataError: Says which.
    """
    settings, path = definition.data, definition.data_file
    if path is None or not settings.reader.table or set(settings.options) - _PLAIN:
        return
    headers = {"": _columns_of(path)} if settings.kind == "parquet" else _headers(path, settings)
    named = {name for names in settings.named.values() for name in names}
    if headers and not any(named <= set(header) for header in headers.values()):
        usual = [header for mark, header in headers.items() if mark not in _RARE or mark == settings.options.get("sep")]
        check_named(settings, max(usual, key=len))


def check_named(settings: DataDefinition, known: Sequence[str]) -> None:
    """Refuse a column that the study names and its table does not have.

    Raises:
        DataError: Says which.
    """
    for key, names in settings.named.items():
        for name in names:
            if name not in known:
                has = ", ".join(known[:30]) + (", …" if len(known) > 30 else "")
                raise DataError(
                    f"data.{key}: no column '{name}' in {settings.source} (it has {has}){did_you_mean(name, known)}"
                )


def _headers(path: Path, settings: DataDefinition) -> dict[str, list[str]]:
    """Return a CSV file's columns by each separator that it may have; none where they cannot be read like that.

    Raises:
        DataError: It has no rows.
    """
    named = {name for names in settings.named.values() for name in names}
    chosen = str(settings.options.get("sep") or ",")
    if path.suffix != ".csv" or len(chosen) > 1 or any(map(_BY_PANDAS.fullmatch, named)):
        return {}
    try:
        over = int(_begins_with_separator(path, {}))
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(itertools.islice(filter(str.strip, file), over + 2))[over:]
    except (UnicodeDecodeError, OSError):
        return {}
    if "".join(lines).count('"') % 2:  # a name of several lines
        return {}
    if len(lines) < 2:
        raise DataError(f"data.source: {settings.source} has no rows")
    marks = dict.fromkeys((chosen, *_SEPARATORS, *_RARE))
    return {mark: next(csv.reader(lines, delimiter=mark)) for mark in marks}


def _columns_of(path: Path) -> list[str]:
    """Return a Parquet file's columns; an index that it keeps is no column.

    Raises:
        DataError: It cannot be read.
    """
    with telling(path, Form(), "data.source"):
        return [str(name) for name in _pyarrow().read_schema(path).names]


@contextmanager
def telling(path: Path, form: Form, option: str) -> Iterator[None]:
    """Tell in one line why a file cannot be read."""
    try:
        yield
    except DataError:
        raise
    except UnicodeDecodeError as error:
        found = encoding_of(path, form)
        mended = f"; it can be read in {found}: save it in {error.encoding}" if found else ""
        raise DataError(f"{option}: {path} is not written in {error.encoding}{mended}") from None
    except StopIteration:
        raise DataError(f"{option}: {path} has no rows") from None
    except Exception as error:  # whatever the file's library raises
        raise DataError(f"{option}: {path} cannot be read ({one_line(error)})") from error


def _read_csv(path: Path, size: int, form: Form) -> Iterator[Chunk]:
    import pandas as pd

    options = csv_options(path, form)
    header = _header(path, options)
    dates = [name for name in as_list(options.pop("parse_dates", ())) if name in header]
    kinds: Any = options.pop("dtype", {})
    if isinstance(kinds, Mapping):
        kinds = {**dict.fromkeys(set(form.texts) & set(header) - set(dates), str), **kinds}
    options |= {"chunksize": size, "dtype": kinds, "parse_dates": dates}
    total = max(1, path.stat().st_size)
    with path.open("rb") as file:
        for frame in pd.read_csv(file, **options):
            if len(frame):
                yield Chunk(frame, file.tell() / total)


def csv_options(path: Path, form: Form) -> dict[str, Any]:
    """Return pandas' options for a CSV file; detect `;`, tab or `|` when commas do not give the columns."""
    import pandas as pd

    options = form.options_of("csv")
    if "delimiter" in options:  # pandas' other name for it
        options["sep"] = options.pop("delimiter")
    if "skiprows" not in options and _begins_with_separator(path, options):
        options["skiprows"] = 1
    given = options.get("sep")
    if "names" in options:
        return options
    headers = {
        mark: _header(path, {**options, "sep": mark}) for mark in dict.fromkeys((given or ",", *_SEPARATORS, *_RARE))
    }
    fitting = [mark for mark, names in headers.items() if form.wanted and set(form.wanted) <= set(names)]
    several = [mark for mark, names in headers.items() if len(names) > 1 and mark not in _RARE]
    separator = (fitting or several or [given or ","])[0]
    if separator in (given, ",") and (given is None or separator == given):
        return options
    for name in ("sep", *(("decimal", "thousands") if given else ())):  # a file written in another way
        options.pop(name, None)
    options["sep"] = separator
    if "decimal" not in options and options.get("thousands") != ",":
        plain = {name: value for name, value in options.items() if name in _OF_HEADERS}
        cells = pd.read_csv(path, sep=separator, nrows=_SAMPLE, dtype=str, **plain).stack().astype(str)
        points = cells.str.fullmatch(r"-?\d+\.\d+") & ~cells.str.fullmatch(r"-?\d{1,3}(?:\.\d{3})+")
        commas = cells.str.fullmatch(r"-?[\d.]*,\d+")
        if commas.any() and commas.sum() >= points.sum():
            options["decimal"] = ","
    return options


def _begins_with_separator(path: Path, options: Mapping[str, Any]) -> bool:
    """Return whether a file's first line is Excel's `sep=;`, which is no header."""
    with path.open(encoding=options.get("encoding", "utf-8-sig"), errors="ignore") as file:
        return re.fullmatch(r'"?sep=.?"?\s*', file.readline(_BYTES)) is not None


def _header(path: Path, options: Mapping[str, Any]) -> list[str]:
    import pandas as pd

    known: dict[str, Any] = {name: options[name] for name in (*_OF_HEADERS, "sep", "names") if name in options}
    known |= {"nrows": 0 if known.get("header", 0) is not None else 1}
    known |= {} if len(known.get("sep") or ",") == 1 else {"engine": "python"}
    return list(map(str, pd.read_csv(path, **known)))


def encoding_of(path: Path, form: Form) -> str:
    """Return an encoding in which a CSV file can be read and has its columns; an empty text where none is known."""
    with path.open("rb") as file:
        content = file.read(_BYTES)
    for name in ("utf-16", "utf-16-le", "utf-16-be") if b"\0" in content else _ENCODINGS:
        with suppress(UnicodeError):
            content.decode(name)
            tried = replace(form, kind="csv", options={**form.options_of("csv"), "encoding": name})
            if set(form.wanted) <= set(_header(path, csv_options(path, tried))):
                return name
    return ""


def as_list(value: Any) -> list[str]:
    """Return columns that an option of pandas names as a list; none for true and false."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []


def _read_parquet(path: Path, size: int, _: Form) -> Iterator[Chunk]:
    parquet = _pyarrow()
    file, read_rows = parquet.ParquetFile(path), 0
    for batch in file.iter_batches(batch_size=size):
        if batch.num_rows:
            read_rows += batch.num_rows
            yield Chunk(batch.to_pandas(), read_rows / max(1, file.metadata.num_rows))


def _read_npz(path: Path, size: int, form: Form) -> Iterator[Chunk]:
    known = arrays(path, form)
    count = max((len(array) if array.ndim else -1 for array in known.values()), default=0)
    for start in range(0, count, size):
        some = slice(start, start + size)
        rows = {name: array[some] for name, array in known.items() if array.ndim and len(array) == count}
        yield Chunk(rows, min(1.0, (start + size) / count))


_READERS: Mapping[str, Callable[[Path, int, Form], Iterator[Chunk]]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}


def frame(arrays: Mapping[str, Any]) -> Any:
    """Return arrays of one dimension as a table's columns."""
    import pandas as pd

    return pd.DataFrame(dict(arrays))


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise DataError("parquet needs pyarrow; pip install 'search[parquet]'") from None
    return parquet


@contextmanager
def output(path: Path, option: str) -> Iterator[Path]:
    """Yield a name to write an option's file to; it takes the place of `path` when the block ends well.

    Raises:
        DataError: `path` cannot be written.
    """
    if path.is_dir():
        raise DataError(f"{option}: {path} is a folder; name a file")
    try:
        with whole(path) as made:
            yield made
    except OSError as error:
        raise DataError(f"{option}: {path} cannot be written ({one_line(error)})") from None


class Output:
    """A file of columns or arrays that grows chunk by chunk.

    Args:
        path: Where; its suffix says the format.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._arrays = path, dict[str, list[Any]]()
        self._writer: Any = None

    def add(self, arrays: Mapping[str, Any], classes: tuple[str, ...] = ()) -> None:
        """Append rows.

        Args:
            arrays: Arrays by name; one with several values a row becomes several columns of a table.
            classes: What the columns of `probability` and of several labels are named by.
        """
        if self._path.suffix.lower() == ".npz":
            for name, array in arrays.items():
                self._arrays.setdefault(name, []).append(np.asarray(array))
            return
        import pandas as pd

        frame = pd.DataFrame(dict(_columns(arrays, classes)))
        if self._path.suffix.lower() == ".csv":
            frame.to_csv(self._path, mode="a", header=not self._path.exists(), index=False)
            return
        import pyarrow

        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        if self._writer is None:
            self._writer = _pyarrow().ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()
        if self._arrays:
            with self._path.open("wb") as file:  # a name would get a second suffix where it is spelt .NPZ
                np.savez(file, **{name: np.concatenate(parts) for name, parts in self._arrays.items()})  # type: ignore[arg-type]


def _columns(arrays: Mapping[str, Any], classes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, array in arrays.items():
        values = np.asarray(array)
        if values.ndim == 1:
            yield name, values
            continue
        flat = values.reshape(len(values), -1)
        by_class = name.startswith(("label", "probability")) and flat.shape[1] == len(classes)
        names = classes if by_class else tuple(map(str, range(flat.shape[1])))
        if flat.shape[1] == 1:
            yield name, flat[:, 0]
        else:
            yield from ((f"{name}_{each}", flat[:, index]) for index, each in enumerate(names))
