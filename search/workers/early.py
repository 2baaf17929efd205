"""Loads a study's large file while the framework is imported: in a process of its own, which needs no framework.

It is told by standard input what to load, writes the files that workers map, and ends with the search. Whatever goes
wrong here the first worker meets again, and says.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.studyfile.schema import Definition

_CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import search  # this very one, wherever it lies
del sys.path[0]
from search.workers.early import main
main()
"""
_LARGE = 32_000_000  # bytes of a file from which on a process of its own is worth while


def begin(definition: Definition, folder: str) -> subprocess.Popen[bytes] | None:
    """Begin to load a study's data into the folder that its workers share.

    Args:
        definition: The study file.
        folder: The search's folder, see `sharing`; empty where workers share none.

    Returns:
        The process, which ends when the data are there; None where the first worker loads them as soon.
    """
    if not folder or definition.data_file is None:
        return None
    with suppress(OSError):
        if definition.data_file.stat().st_size < _LARGE:
            return None
        # -P: no module of the user's that lies in the working directory hides one that is imported here
        process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-P", "-c", _CODE, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _tell(process, (definition, folder))
        return process
    return None


def _tell(process: subprocess.Popen[bytes], told: Any) -> None:
    """Tell the process what to load; standard input stays open, and closes when this process ends."""
    assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
    process.stdin.write(pickle.dumps(told))
    process.stdin.flush()


def main() -> None:
    """Load what standard input says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search
    definition, folder = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by this search
    threading.Thread(target=_end_with_the_search, daemon=True).start()
    from search.workers import sharing

    sharing.trial_data(definition, folder, first=True)


def _end_with_the_search() -> None:
    while os.read(0, 1):  # not by a buffer, whose lock Python wants when the process ends
        pass
    os._exit(1)
