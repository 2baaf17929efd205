"""How processes are started where a container lacks what they usually use."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from search.errors import UsageError
from search.workers import process
from tests.faults.night import small_disk

WITHOUT_SHARED_MEMORY = """
import os
import pebble
from search.workers import process

process._PRELOAD = "json"
assert isinstance(process._Context().RLock(), process._NoLock)
pool = pebble.ProcessPool(max_workers=1, context=process._prepared())
assert pool.schedule(os.getpid).result(60) != os.getpid()
assert pool.schedule(pow, args=(2, 5)).result(60) == 32
pool.close()
pool.join()
"""


def test_a_container_without_shared_memory_trains(tmp_path: Path) -> None:
    """A search would end in `No such file or directory` before its first trial."""
    there = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if there.returncode:
        pytest.skip("no file system can be hidden here")
    (tmp_path / "code.py").write_text(WITHOUT_SHARED_MEMORY)
    hidden = f"mount -t tmpfs -o ro none /dev/shm && exec {sys.executable} {tmp_path}/code.py"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", hidden], capture_output=True, text=True, timeout=120, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_a_full_temporary_folder_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best model of a night could not be logged, or plots would be missing without a reason."""
    with small_disk(tmp_path / "small", 2) as mounted:
        if not mounted:
            pytest.skip("no file system can be mounted here")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
        with pytest.raises(UsageError, match=r"temporary folder .*small has 2 MB left, a search needs 50; .* TMPDIR$"):
            process.start_forkserver()
