"""Journals that were torn: a night's search would be unreadable for good."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from search.errors import StorageError
from search.study import journal as journals
from search.study.storage import open_storage


def journal(folder: Path, trials: int = 3) -> Path:
    path = folder / "kept.journal"
    study = optuna.create_study(study_name="kept", storage=open_storage(str(path)))
    for number in range(trials):
        study.add_trial(optuna.trial.create_trial(value=float(number)))
    return path


def numbers(path: Path) -> list[float]:
    study = optuna.load_study(study_name="kept", storage=open_storage(str(path)))
    study.add_trial(optuna.trial.create_trial(value=9.0))
    again = optuna.load_study(study_name="kept", storage=open_storage(str(path)))
    return [trial.value for trial in again.trials if trial.value is not None]


@pytest.mark.parametrize("cut", [1, 2, 10, 60])
def test_a_torn_end_is_cut_and_said(tmp_path: Path, cut: int) -> None:
    """The next record would be appended to half a one, and the study be lost."""
    path = journal(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    said: list[str] = []
    open_storage(str(path), on_message=said.append)
    expected = [0.0, 1.0, 2.0] if cut == 1 else [0.0, 1.0]  # without its line's end the last record is whole
    assert numbers(path) == [*expected, 9.0]
    assert "cut back to its last whole one" in said[0]
    assert [copy.read_bytes() for copy in tmp_path.glob("*.damaged-*")] == [whole[:-cut]]


@pytest.mark.parametrize("end", [b"\0" * 4096, b"\0" * 10 + b"\n", b'{"op_code":', b"\xff\xfe"])
def test_zeros_and_rubbish_at_the_end_are_cut(tmp_path: Path, end: bytes) -> None:
    """A power failure, which leaves zeros, would end the study."""
    path = journal(tmp_path)
    with path.open("ab") as file:
        file.write(end)
    assert numbers(path) == [0.0, 1.0, 2.0, 9.0]


def test_a_record_appended_to_half_a_one_is_kept(tmp_path: Path) -> None:
    """What a worker wrote after another one was killed would be lost."""
    path = journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20] + lines[-1])
    assert numbers(path) == [0.0, 1.0, 2.0, 9.0]


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    """The person would be told that the storage cannot be used, and not where to look."""
    path = journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"rubbish\n", *lines[1:]]))
    with pytest.raises(StorageError, match=r"record 2 is damaged, and others follow it"):
        open_storage(str(path))


def test_an_empty_journal_is_never_a_new_study(tmp_path: Path) -> None:
    """A full disk that emptied the file would look like a study that nobody began."""
    path = tmp_path / "kept.journal"
    path.touch()
    with pytest.raises(StorageError, match=r"is empty, so it was damaged; restore it, or delete it"):
        open_storage(str(path))


def test_a_whole_journal_is_left_alone(tmp_path: Path) -> None:
    """Every start would leave a copy behind."""
    path = journal(tmp_path)
    before = path.read_bytes()
    open_storage(str(path))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_record_longer_than_what_is_checked_is_whole(tmp_path: Path) -> None:
    """A trial of many thousand epochs would make the study unreadable."""
    path = journal(tmp_path)
    study = optuna.load_study(study_name="kept", storage=open_storage(str(path)))
    study.set_user_attr("long", "x" * 1_500_000)
    whole = path.read_bytes()
    assert numbers(path) == [0.0, 1.0, 2.0, 9.0]
    path.write_bytes(whole[:-100])
    assert numbers(path) == [0.0, 1.0, 2.0, 9.0]
    assert b"xxx" not in path.read_bytes()


def test_lost_first_records_and_a_folder_are_told(tmp_path: Path) -> None:
    """The study would begin anew without a word, or the search end in a traceback."""
    path = journal(tmp_path)
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    with pytest.raises(StorageError, match="does not begin with a study, so its first records are lost"):
        open_storage(str(path))
    with pytest.raises(StorageError, match="is a folder, not a journal"):
        open_storage(str(tmp_path))


DIES_WITH_THE_LOCK = """
import os, signal
from optuna.storages.journal import JournalFileSymlinkLock
JournalFileSymlinkLock("studies/kept.journal").acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lock_whose_holder_was_killed_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's own lock waits for ever: `--resume` hung without a word after a kill at the wrong moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journals, "_GRACE_SECONDS", 3)
    (tmp_path / "studies").mkdir()
    path = journal(tmp_path / "studies")
    subprocess.run([sys.executable, "-c", DIES_WITH_THE_LOCK], cwd=tmp_path, check=False)
    link = path.with_name("kept.journal.lock")
    assert link.is_symlink()
    assert not link.exists(), "it names the journal by a path that is wrong from its folder"
    assert numbers(path.relative_to(tmp_path)) == [0.0, 1.0, 2.0, 9.0]
    assert not link.is_symlink()


def test_a_lock_that_changes_hands_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would write at once where many write often."""
    monkeypatch.setattr(journals, "_GRACE_SECONDS", 3)
    path, held = journal(tmp_path), list[bool]()
    link = tmp_path / "kept.journal.lock"
    link.touch()
    waiting = threading.Thread(target=lambda: held.append(journals.lock_of(path).acquire()))
    waiting.start()
    for _ in range(10):  # longer than one holder may have it
        time.sleep(0.5)
        following = tmp_path / "following"
        following.touch()
        following.replace(link)
    assert not held
    link.unlink()
    waiting.join(5)
    assert held == [True]
