"""Files and folders that appear whole or not at all. No other module writes to a partial name and renames it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a name to write a file or folder to; it takes the place of `path` when the block ends well.

    The name lies in a folder of its own beside `path`, so writers of one path do not meet, and the last one wins.

    Raises:
        OSError: Nothing can be written there; it names `path`.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            made = Path(folder, path.name)
            yield made
            os.replace(made, path)
    except OSError as error:
        if error.filename is None or f"{os.sep}.{path.name}-" in str(error.filename):
            raise OSError(error.errno, error.strerror, str(path)) from error  # else it names nothing, or a partial name
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made where it is not there.

    Raises:
        OSError: It cannot be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as made:
        made.write_bytes(content)


def first(made: Path, path: Path) -> None:
    """Give a whole file the name `path`, unless there is one of that name.

    Raises:
        OSError: `path` cannot be written.
    """
    try:
        os.link(made, path)
    except FileExistsError:
        return
    except (AttributeError, OSError):  # no such links here
        if not path.exists():
            os.replace(made, path)
