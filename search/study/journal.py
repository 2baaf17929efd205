"""A study's journal file, checked before anything is appended to it: a torn end is cut, and said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from search.errors import StorageError
from search.system.retry import waited
from search.system.whole import write

_CHECKED = 2_000  # records at the end that are checked
_RECORD = b'{"op_code"'  # how each record begins
_CREATES_STUDY = 0  # the operation that each journal begins with
_GRACE_SECONDS = 10  # how long a process may hold a journal's lock: it appends some lines
_BEGINNING_SECONDS = 3.0  # how long another process may take from making a journal to its first record


def lock_of(path: Path) -> JournalFileOpenLock:
    """Return the lock of a journal, which is taken over when the process that holds it was killed.

    Optuna waits for ever for a link that names nothing, which is its own lock of a journal given by a relative path.
    """
    link = Path(f"{path.absolute()}.lock")
    if not waited(lambda: not link.is_symlink() or link.exists(), _GRACE_SECONDS):
        link.unlink(missing_ok=True)
    return JournalFileOpenLock(str(path.absolute()), grace_period=_GRACE_SECONDS)


def repair(path: Path, on_message: Callable[[str], None] = lambda _: None) -> None:
    """Cut a journal back to its last whole record, after a copy was made; does nothing to a whole one.

    A process that was killed, a full disk or a power failure can leave half a record or zeros at
    the end. Optuna forgives that until something is appended; then the journal is unreadable.

    Args:
        on_message: Told what was done.

    Raises:
        StorageError: The journal is empty, or damaged before its end.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise StorageError(f"{path} is a folder, not a journal; give a file")
    if not waited(lambda: path.stat().st_size > 0, _BEGINNING_SECONDS):
        raise StorageError(f"{path} is empty, so it was damaged; restore it, or delete it to begin a new study")
    lock = lock_of(path)
    lock.acquire()
    try:
        content = path.read_bytes()
        start, repaired = _repaired(content, path)
        if content[start:] == repaired:
            return
        copy = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        write(copy, content)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(repaired)
            file.truncate()
    finally:
        lock.release()
    on_message(f"{path} ended in half a record; it is cut back to its last whole one (a copy is {copy.name})")


def _repaired(content: bytes, path: Path) -> tuple[int, bytes]:
    """Return where the last records of a journal begin, and those of them that are whole.

    Raises:
        StorageError: A record before the last ones is damaged, or the first ones are lost.
    """
    *lines, torn = content.split(b"\n")
    if lines and _whole(lines[0]) and json.loads(lines[0]).get("op_code") != _CREATES_STUDY:  # Optuna begins it anew
        raise StorageError(f"{path} does not begin with a study, so its first records are lost; restore a copy")
    unchecked = max(0, len(lines) - _CHECKED)
    kept = []
    for number, line in enumerate(lines[unchecked:], unchecked + 1):
        # Half a record, to which another process appended a whole one, is cut down to that one.
        found = next((each for each in (line, line[line.rfind(_RECORD) :]) if _whole(each)), None)
        if found is not None:
            kept.append(found)
        elif any(map(_whole, lines[number:])):
            raise StorageError(
                f"{path}: record {number} is damaged, and others follow it; restore a copy, or delete that line; "
                "only that record is lost"
            )
    if torn and _whole(torn):
        kept.append(torn)
    if not kept:
        raise StorageError(f"{path} is not an Optuna journal; give another path, or restore a copy")
    return sum(map(len, lines[:unchecked])) + unchecked, b"".join(line + b"\n" for line in kept)


def _whole(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def damaged_record(path: Path) -> int | None:
    """Return the number of the first line that is no record; None when all are, or it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return next((number for number, line in enumerate(file, 1) if not _whole(line.rstrip(b"\n"))), None)
    return None
