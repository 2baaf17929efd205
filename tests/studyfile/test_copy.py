"""`python -m search.new`: a first study of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.errors import StudyFileError, UsageError
from search.studyfile.copy import copy_study
from search.studyfile.load import find_study, load_definition, shipped_studies
from tests.conftest import command

FILES = {
    "blobs": [],
    "breast_cancer": ["data/breast_cancer.csv"],
    "demand": ["demand.py"],
    "diabetes": [],
    "digits": ["digits.py"],
    "reuters": ["reuters.py"],
    "reviews": ["reviews.py"],
    "tickets": ["tickets.py"],
}


@pytest.mark.parametrize("source", sorted(FILES))
def test_a_copy_is_a_whole_study_under_its_own_name(tmp_path: Path, source: str) -> None:
    """A user's first study would miss a file, or continue the shipped study by its name."""
    original = shipped_studies()[source]
    written = copy_study("mine", original, tmp_path / "studies")
    assert written == [tmp_path / "studies" / name for name in ["mine.toml", *FILES[source]]]
    copy = load_definition(written[0])
    assert copy.name == "mine"
    before, now = original.read_text().splitlines(), written[0].read_text().splitlines()
    assert [(a, b) for a, b in zip(before, now, strict=True) if a != b] == [(f'name = "{source}"', 'name = "mine"')]


def test_every_shipped_study_can_be_copied() -> None:
    """A study would ship that nobody can start from."""
    assert sorted(shipped_studies()) == sorted(FILES)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second call would destroy what the user wrote into the first copy."""
    source = shipped_studies()["digits"]
    copy_study("mine", source, tmp_path)
    (tmp_path / "mine.toml").write_text("my work")
    with pytest.raises(UsageError, match=r"mine.toml exists already; give the new study another name"):
        copy_study("mine", source, tmp_path)
    assert (tmp_path / "mine.toml").read_text() == "my work"
    (tmp_path / "digits.py").write_text("my code")
    with pytest.raises(UsageError, match=r"digits.py exists already and is another file than .*; move it away"):
        copy_study("second", source, tmp_path)
    assert (tmp_path / "digits.py").read_text() == "my code"
    assert not (tmp_path / "second.toml").exists()


def test_two_studies_may_share_a_file(tmp_path: Path) -> None:
    """A second variation of the same study could not be made."""
    source = shipped_studies()["digits"]
    copy_study("one", source, tmp_path)
    assert copy_study("two", source, tmp_path) == [tmp_path / "two.toml"]


@pytest.mark.parametrize("name", ["../mine", "a/b", "..\\mine"])
def test_a_path_is_no_name(tmp_path: Path, name: str) -> None:
    """A file would appear outside studies/, or under another name than the study's."""
    with pytest.raises(UsageError, match="is a path, not a study name"):
        copy_study(name, shipped_studies()["blobs"], tmp_path / "studies")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a:b", " mine", "x" * 201])
def test_a_name_that_mlflow_refuses(tmp_path: Path, name: str) -> None:
    """The copy would be refused only when it is run."""
    with pytest.raises(StudyFileError, match="is not a valid name for an MLflow experiment and model"):
        copy_study(name, shipped_studies()["blobs"], tmp_path / "studies")
    assert not list(tmp_path.iterdir())


def test_a_local_data_file_of_a_function_comes_along(tmp_path: Path) -> None:
    """A copy of a study whose function reads a file would not run."""
    source = tmp_path / "source"
    copy_study("news", shipped_studies()["reuters"], source)
    (source / "stories.npz").write_bytes(b"stories")
    text = (source / "news.toml").read_text().replace("{ words = 2000 }", '{ words = 9, path = "stories.npz" }')
    (source / "news.toml").write_text(text)
    written = copy_study("mine", source / "news.toml", tmp_path / "studies")
    assert [path.name for path in written] == ["mine.toml", "reuters.py", "stories.npz"]


def test_the_command(tmp_path: Path) -> None:
    """If this fails, `python -m search.new` prints a traceback, or does not say what it wrote."""
    first = command("search.new", "mine", "--from", "digits", cwd=tmp_path)
    assert (first.returncode, first.stdout.split()) == (0, ["studies/mine.toml", "studies/digits.py"])
    again = command("search.new", "mine", "--from", "digits", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: studies/mine.toml exists already; give the new study another name\n"


def test_the_copy_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, `python -m search.run mine` does not find what was just made."""
    copy_study("mine", shipped_studies()["blobs"], tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    assert load_definition(find_study("mine")).name == "mine"
