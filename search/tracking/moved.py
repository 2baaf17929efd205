"""Artifacts of a project whose folder was moved or copied: MLflow's local stores keep absolute paths."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from search.errors import TrackingError, UsageError
from search.figures import plural

_PATHS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
_FILE = "file://"


def refuse(database: Path) -> None:
    """Refuse a store that names the folder of which its project was moved away or copied.

    Raises:
        TrackingError: The artifacts lie beside the database, and the store names another folder.
    """
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        for location in _locations(connection):
            for old, new in _moves(location, database):
                if not location.exists():
                    why = "which is gone; where the project was moved"
                elif _is_copy(location, old, new, database):
                    why = "of which this folder is a copy, and would write there; to let the copy have its own"
                else:
                    continue
                mend = f"python -m search.sync --moved-from '{old}'"
                raise TrackingError(f"{database} keeps its artifacts in {old}, {why}: {mend}")


def _is_copy(location: Path, old: Path, new: Path, database: Path) -> bool:
    """Return whether a project with artifacts and database lies in both folders, which are not one."""
    inside = database.absolute()
    if not inside.is_relative_to(new) or not (old / inside.relative_to(new)).is_file():
        return False
    return not (new / location.relative_to(old)).samefile(location)


def _locations(connection: sqlite3.Connection) -> Iterator[Path]:
    """Yield the folders of the experiments' artifacts, where they are folders."""
    try:
        found = connection.execute("SELECT artifact_location FROM experiments LIMIT 1000").fetchall()
    except sqlite3.DatabaseError:  # it is none of MLflow's, as MLflow says
        return
    for (location,) in found:
        path = Path(unquote(location.removeprefix(_FILE)) if str(location).startswith(_FILE) else str(location))
        if path.is_absolute():
            yield path


def _moves(location: Path, database: Path) -> Iterator[tuple[Path, Path]]:
    """Yield where an artifact folder's project may have been, and where it is: beside the database, or here."""
    for old in location.parents:
        for new in (database.absolute().parent, Path.cwd()):
            if old != new and (new / location.relative_to(old)).exists():
                yield old, new


def rewrite(database: Path, old: Path, on_message: Callable[[str], None]) -> None:
    """Change the paths of a store's artifacts to the project's folder of now; a copy of the database is kept.

    Args:
        database: The store's SQLite file.
        old: Where the project's folder was.
        on_message: Told what was done.

    Raises:
        UsageError: The store names nothing in that folder, or it is not what has moved here.
    """
    with closing(sqlite3.connect(database, timeout=60.0)) as connection:
        inside = [each for each in _locations(connection) if each.is_relative_to(old)]
        if not inside:
            raise UsageError(f"--moved-from: {database} names no artifacts in {old}; {_named(connection)}")
        here = next((new for each in inside for was, new in _moves(each, database) if was == old), None)
        if here is None:
            raise UsageError(f"--moved-from: what was in {old} is not in {Path.cwd()}; move it here first")
        copy = _free(database)
        with closing(sqlite3.connect(copy)) as kept:
            connection.backup(kept)
        with connection:
            count = _replace(connection, str(old), str(here))
    on_message(f"{database}: {plural(count, 'path')} in {old} lie in {here} now; a copy from before is {copy}")


def _replace(connection: sqlite3.Connection, old: str, new: str) -> int:
    """Replace the folder at the beginning of every path, plain or as a URI; returns how many were changed."""
    count = 0
    for table, column in _PATHS.items():
        for before, after in ((old, new), (_FILE + quote(old), _FILE + quote(new))):
            changed = connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                (after, len(before) + 1, len(before) + 1, f"{before}/"),
            )
            count += changed.rowcount
    return count


def _named(connection: sqlite3.Connection) -> str:
    """Return where the artifacts are, in words."""
    folders = sorted({str(each.parent) for each in _locations(connection)})
    return f"it names {', '.join(folders)}" if folders else "it names no folder at all"


def _free(database: Path) -> Path:
    """Return a name beside the database that nothing has."""
    names = (database.with_name(f"{database.name}.before-move{suffix}") for suffix in ("", *map(str, range(2, 1_000))))
    return next(each for each in names if not each.exists())
