"""A study's journal file, checked before anything is appended to it: a torn end is cut, and said."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from search.errors import StorageError
from search.system.whole import whole

_TAIL = 1_000_000  # bytes at the end that are checked
_RECORD = b'{"op_code"'  # how each record begins
_CREATES_STUDY = 0  # the operation that each journal begins with
_GRACE_SECONDS = 10  # how long a process may hold a journal's lock: it appends some lines
_BEGINNING_SECONDS = 3.0  # how long another process may take from making a journal to its first record


def lock_of(path: Path) -> JournalFileOpenLock:
    """Return the lock of a journal, which is taken over when the process that holds it was killed.

    Optuna waits for ever for a link that names nothing, which is its own lock of a journal given by a relative path.
    """
    link, deadline = Path(f"{path.absolute()}.lock"), time.monotonic() + _GRACE_SECONDS
    while link.is_symlink() and not link.exists():
        if time.monotonic() > deadline:
            link.unlink(missing_ok=True)
        time.sleep(0.1)
    return JournalFileOpenLock(str(path.absolute()), grace_period=_GRACE_SECONDS)


def check(path: Path, on_message: Callable[[str], None] = lambda _: None) -> None:
    """Cut a journal back to its last whole record, after a copy was made; does nothing to a whole one.

    A process that was killed, a full disk or a power failure can leave half a record or zeros at
    the end. Optuna forgives that until something is appended; then the journal is unreadable.

    Args:
        path: The journal.
        on_message: Told what was done.

    Raises:
        StorageError: The journal is empty, or damaged before its end.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise StorageError(f"{path} is a folder, not a journal; give a file")
    _wait_until_begun(path)
    _check_beginning(path)
    lock = lock_of(path)
    lock.acquire()
    try:
        start, tail = _tail_of(path)
        repaired = _repaired(tail, path, start)
        if repaired == tail:
            return
        copy = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        with whole(copy) as made:
            shutil.copyfile(path, made)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(repaired)
            file.truncate()
    finally:
        lock.release()
    on_message(f"{path} ended in half a record; it is cut back to its last whole one (a copy is {copy.name})")


def _wait_until_begun(path: Path) -> None:
    deadline = time.monotonic() + _BEGINNING_SECONDS
    while path.stat().st_size == 0:
        if time.monotonic() > deadline:
            raise StorageError(f"{path} is empty, so it was damaged; restore it, or delete it to begin a new study")
        time.sleep(0.1)


def _check_beginning(path: Path) -> None:
    """Refuse a journal that lost its first record: Optuna would begin the study anew, without a word."""
    with path.open("rb") as file:
        first = file.readline()
    if _whole(first) and json.loads(first).get("op_code") != _CREATES_STUDY:
        raise StorageError(f"{path} does not begin with a study, so its first records are lost; restore a copy")


def _tail_of(path: Path) -> tuple[int, bytes]:
    """Return the last records, and where they start; at least one record's beginning is before them, or none."""
    start, tail = path.stat().st_size, b""
    with path.open("rb") as file:
        while start:
            start = max(0, start - _TAIL)
            file.seek(start)
            tail = file.read()
            cut = tail.find(b"\n") + 1
            if start and 0 < cut < len(tail):  # else it begins within the last record, which is a long one
                return start + cut, tail[cut:]
    return 0, tail


def _repaired(tail: bytes, path: Path, start: int) -> bytes:
    """Return the whole records of a journal's end.

    Raises:
        StorageError: A record before the last ones is damaged.
    """
    lines = tail.split(b"\n")
    torn = lines.pop()
    kept = []
    for index, line in enumerate(lines):
        if _whole(line):
            kept.append(line)
            continue
        # Half a record, to which another process appended a whole one.
        suffix = line[line.rfind(_RECORD) :] if _RECORD in line else b""
        if suffix and _whole(suffix):
            kept.append(suffix)
        elif any(map(_whole, lines[index + 1 :])):
            raise StorageError(
                f"{path}: record {_line_number(path, start, index)} is damaged, and others follow it; restore a copy, "
                "or delete that line; only that record is lost"
            )
    if torn and _whole(torn):
        kept.append(torn)
    if not kept:
        raise StorageError(f"{path} is not an Optuna journal; give another path, or restore a copy")
    return b"".join(line + b"\n" for line in kept)


def _whole(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _line_number(path: Path, start: int, index: int) -> int:
    with path.open("rb") as file:
        return file.read(start).count(b"\n") + index + 1


def damaged_record(path: Path) -> int | None:
    """Return the number of the first line that is no record; None when all are, or it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return next((number for number, line in enumerate(file, 1) if not _whole(line.rstrip(b"\n"))), None)
    return None
