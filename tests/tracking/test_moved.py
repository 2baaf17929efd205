"""A project whose folder was moved: told in a line by each command, mended by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import command
from tests.upgrading import unpack

PREDICT = ("search.predict", "kept", "--input", "rows.csv", "--output", "out.csv")
COMMANDS = [
    PREDICT,
    ("search.run", "kept", "-n", "1", "--quiet"),
    ("search.sync", "kept", "--check"),
    ("search.promote", "kept", "--history"),
]


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A project that was moved from `old`."""
    unpack(tmp_path / "old")
    (tmp_path / "old" / "rows.csv").write_text("a,b\n0.5,1.0\n2.0,-1.0\n")
    return (tmp_path / "old").rename(tmp_path / "new ü")


def test_a_moved_project_is_told_and_mended(moved: Path) -> None:
    """Models would not load, and new ones be written where the folder was."""
    old = moved.with_name("old")
    before = (moved / "studies" / "kept.journal").read_bytes()
    for asked in COMMANDS:
        done = command(*asked, cwd=moved)
        assert done.returncode == 2, asked
        (line,) = done.stderr.splitlines()
        assert f"keeps its artifacts in {old}, which is gone; where the project was moved: " in line
        assert line.endswith(f"python -m search.sync --moved-from '{old}'")
    assert (moved / "studies" / "kept.journal").read_bytes() == before
    assert not old.exists()
    mended = command("search.sync", "kept", "--moved-from", str(old), cwd=moved)
    assert mended.returncode == 0, mended.stderr + mended.stdout
    assert f"lie in {moved} now; a copy from before is {moved / 'mlflow.db.before-move'}" in mended.stderr
    predicted = command(*PREDICT, cwd=moved)
    assert predicted.returncode == 0, predicted.stderr
    assert len((moved / "out.csv").read_text().splitlines()) == 3
    assert command("search.sync", "kept", "--check", cwd=moved).returncode == 0
    assert not old.exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("/nowhere",), "names no artifacts in /nowhere; it names "),
        (("OLD", "--check"), "--check with --moved-from"),
        (("OLD", "--tracking-uri", "http://127.0.0.1:9"), "is no SQLite file here"),
    ],
)
def test_what_cannot_be_mended_is_told(asked: tuple[str, ...], said: str, moved: Path) -> None:
    """A slip in the folder's name would damage the only database."""
    before = (moved / "mlflow.db").read_bytes()
    given = [str(moved.with_name("old")) if each == "OLD" else each for each in asked]
    done = command("search.sync", "kept", "--moved-from", *given, cwd=moved)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert (moved / "mlflow.db").read_bytes() == before
    assert not (moved / "mlflow.db.before-move").exists()
