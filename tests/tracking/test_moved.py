"""A project whose folder was moved: told in a line by each command, mended by one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from search.tracking import moved
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
def project(tmp_path: Path) -> Path:
    """A project that was moved from `old`."""
    unpack(tmp_path / "old")
    (tmp_path / "old" / "rows.csv").write_text("a,b\n0.5,1.0\n2.0,-1.0\n")
    return (tmp_path / "old").rename(tmp_path / "new ü")


def assert_refused(project: Path, old: Path, why: str) -> None:
    """Every command says in a line why the store is another project's, and what mends it."""
    for asked in COMMANDS:
        done = command(*asked, cwd=project)
        assert done.returncode == 2, asked
        (line,) = done.stderr.splitlines()
        assert f"keeps its artifacts in {old}, {why}" in line
        assert line.endswith(f"python -m search.sync --moved-from '{old}'")


def test_a_moved_project_is_told_and_mended(project: Path) -> None:
    """Models would not load, and new ones be written where the folder was."""
    old = project.with_name("old")
    before = (project / "studies" / "kept.journal").read_bytes()
    assert_refused(project, old, "which is gone; where the project was moved: ")
    assert (project / "studies" / "kept.journal").read_bytes() == before
    assert not old.exists()
    mended = command("search.sync", "kept", "--moved-from", str(old), cwd=project)
    assert mended.returncode == 0, mended.stderr + mended.stdout
    assert f"lie in {project} now; a copy from before is {project / 'mlflow.db.before-move'}" in mended.stderr
    predicted = command(*PREDICT, cwd=project)
    assert predicted.returncode == 0, predicted.stderr
    assert len((project / "out.csv").read_text().splitlines()) == 3
    assert command("search.sync", "kept", "--check", cwd=project).returncode == 0
    assert not old.exists()


def test_a_copied_project_is_told_and_gets_artifacts_of_its_own(tmp_path: Path) -> None:
    """A search in the copy would write its models into the first project's folder."""
    old, copy = unpack(tmp_path / "old"), tmp_path / "copy"
    (old / "rows.csv").write_text("a,b\n0.5,1.0\n2.0,-1.0\n")
    shutil.copytree(old, copy)
    before = sorted(str(each) for each in old.rglob("*"))
    assert_refused(copy, old, "of which this folder is a copy, and would write there")
    assert command("search.promote", "kept", "--history", cwd=old).returncode == 0
    mended = command("search.sync", "kept", "--moved-from", str(old), cwd=copy)
    assert mended.returncode == 0, mended.stderr + mended.stdout
    assert command("search.run", "kept", "-n", "1", "--accept-new-code", "--quiet", cwd=copy).returncode == 0
    assert sorted(str(each) for each in old.rglob("*")) == before, "nothing is written to the first project"
    shutil.rmtree(old)
    predicted = command(*PREDICT, cwd=copy)
    assert predicted.returncode == 0, predicted.stderr


def test_a_link_to_the_projects_folder_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that is reached by another name would be refused."""
    old, link = unpack(tmp_path / "old"), tmp_path / "link"
    link.symlink_to(old)
    assert command("search.promote", "kept", "--history", cwd=link).returncode == 0
    monkeypatch.chdir(link)
    moved.refuse(link / "mlflow.db")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("/nowhere",), "names no artifacts in /nowhere; it names "),
        (("OLD", "--check"), "--check with --moved-from"),
        (("OLD", "--tracking-uri", "http://127.0.0.1:9"), "is no SQLite file here"),
    ],
)
def test_what_cannot_be_mended_is_told(asked: tuple[str, ...], said: str, project: Path) -> None:
    """A slip in the folder's name would damage the only database."""
    before = (project / "mlflow.db").read_bytes()
    given = [str(project.with_name("old")) if each == "OLD" else each for each in asked]
    done = command("search.sync", "kept", "--moved-from", *given, cwd=project)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert (project / "mlflow.db").read_bytes() == before
    assert not (project / "mlflow.db.before-move").exists()
