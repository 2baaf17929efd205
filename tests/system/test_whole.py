"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from search.system import whole


def test_what_is_written_in_part_leaves_the_last_one(tmp_path: Path) -> None:
    """A kill or a full disk would leave half a model, which the next search reads."""
    path = tmp_path / "deep" / "model.keras"
    whole.write(path, b"first")
    with pytest.raises(ZeroDivisionError, match="zero"), whole.whole(path) as made:
        made.write_bytes(b"sec" if made.write_bytes(b"s") / 0 else b"")
    assert path.read_bytes() == b"first"
    whole.write(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    """A reader would find a checkpoint's state without its weights."""
    with whole.whole(tmp_path / "state") as made:
        made.mkdir()
        (made / "one").write_text("1")
        assert not (tmp_path / "state").exists()
    assert [each.name for each in (tmp_path / "state").iterdir()] == ["one"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    """A person would read of a temporary name that is gone, or of no file at all."""
    path = tmp_path / "model.keras"
    with pytest.raises(OSError, match=r"disk is full.*/model\.keras'$"), whole.whole(path):
        raise OSError(errno.ENOSPC, "disk is full")
    with (
        pytest.raises(FileNotFoundError, match=r"/gone/model\.keras'$"),
        whole.whole(tmp_path / "gone" / "model.keras"),
    ):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_two_files_has_the_name(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two searches that begin together one would remove the other's MLflow store."""
    if not links:
        monkeypatch.delattr("os.link")
    for text in ("one", "two"):
        made = tmp_path / f"made-{text}"
        made.write_text(text)
        whole.first(made, tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_text() == "one"
