"""Rows in files: read chunk by chunk from CSV, Parquet and NPZ, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import DataError, did_you_mean, one_line
from search.system.whole import whole

SUFFIXES = (".csv", ".parquet", ".npz")
_SAMPLE = 100  # rows that tell how a CSV file is written


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        rows: A data frame, or arrays by name.
        done: The share of the file that was read with it, in [0, 1].
    """

    rows: Any
    done: float


def check_suffix(path: Path, option: str) -> None:
    """Refuse a file of a kind that is neither read nor written here.

    Raises:
        DataError: Its suffix is not `.csv`, `.parquet` or `.npz`.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{option}: {path}: use {', '.join(SUFFIXES)}{did_you_mean(suffix, SUFFIXES)}")


def read(path: Path, size: int, texts: tuple[str, ...] = ()) -> Iterator[Chunk]:
    """Yield the rows of a file in chunks.

    Args:
        path: A CSV, Parquet or NPZ file.
        size: Rows of a chunk.
        texts: Columns of a CSV to read as text whatever they hold: chunk by chunk nothing else is certain.

    Raises:
        DataError: The file is not there, cannot be read, or has no rows.
    """
    if not path.is_file():
        raise DataError(f"--input: no file {path}")
    chunks, any_rows = _READERS[path.suffix.lower()](path, size, texts), False
    while True:
        try:
            chunk = next(chunks, None)
        except DataError:
            raise
        except Exception as error:  # whatever the file's library raises
            raise DataError(f"--input: {path} cannot be read ({one_line(error)})") from error
        if chunk is None:
            break
        any_rows = True
        yield chunk
    if not any_rows:
        raise DataError(f"--input: {path} has no rows")


def _read_csv(path: Path, size: int, texts: tuple[str, ...]) -> Iterator[Chunk]:
    import pandas as pd

    total, form = max(1, path.stat().st_size), csv_form(path)
    header = pd.read_csv(path, nrows=0, **form)
    kinds: Any = {name: str for name in texts if name in header.columns}
    with path.open("rb") as file:
        for frame in pd.read_csv(file, chunksize=size, dtype=kinds, **form):
            if len(frame):
                yield Chunk(frame, file.tell() / total)


def csv_form(path: Path) -> dict[str, Any]:
    """Return how pandas reads a CSV file of one column by commas, but of several by semicolons or tabs."""
    import pandas as pd

    header = pd.read_csv(path, nrows=0)
    first = str(header.columns[0]) if len(header.columns) == 1 else ""
    separator = next((each for each in ";\t" if each in first), None)
    if separator is None:
        return {}
    cells = pd.read_csv(path, sep=separator, nrows=_SAMPLE, dtype=str).stack()
    comma = separator == ";" and cells.astype(str).str.fullmatch(r"-?\d*,\d+").any()
    return {"sep": separator, **({"decimal": ","} if comma else {})}


def _read_parquet(path: Path, size: int, _: tuple[str, ...]) -> Iterator[Chunk]:
    parquet = _pyarrow()
    file, read_rows = parquet.ParquetFile(path), 0
    for batch in file.iter_batches(batch_size=size):
        if batch.num_rows:
            read_rows += batch.num_rows
            yield Chunk(batch.to_pandas(), read_rows / max(1, file.metadata.num_rows))


def _read_npz(path: Path, size: int, _: tuple[str, ...]) -> Iterator[Chunk]:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file}
    lengths = {len(each) if each.ndim else -1 for each in arrays.values()}
    count = max(lengths, default=0)
    for start in range(0, count, size):
        rows = {name: each[start : start + size] for name, each in arrays.items() if each.ndim and len(each) == count}
        yield Chunk(rows, min(1.0, (start + size) / count))


_READERS: Mapping[str, Callable[[Path, int, tuple[str, ...]], Iterator[Chunk]]] = {
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


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with suppress(OSError):
        path.unlink()
