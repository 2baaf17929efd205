"""The JSON Schema of a study file: what editors complete and mark while a study is written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from search.studyfile import json_schema
from search.studyfile.load import shipped_studies
from tests.conftest import command


@pytest.mark.parametrize("path", shipped_studies().values(), ids=lambda path: path.stem)
def test_every_shipped_study_names_the_schema_and_meets_it(path: Path) -> None:
    """An editor would mark a correct study as wrong."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"#:schema ./{json_schema.FILE}"
    jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), json_schema.json_schema())


def test_the_shipped_schema_is_the_one_that_files_are_read_by() -> None:
    """An editor would not know a new key; `python -m search.new --schema` writes the file anew."""
    (folder,) = {path.parent for path in shipped_studies().values()}
    assert (folder / json_schema.FILE).read_text(encoding="utf-8") == json_schema.as_text()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"direction": "minimise"}, "minimise"),
        ({"pah": "x"}, "pah"),
        ({"space": {"width": {"type": "int", "low": 1}}}, "is not valid under any of the given schemas"),
        ({"fit": {"callbacks": [3]}}, "3"),
        ({"data": {}}, "source"),
    ],
)
def test_a_wrong_study_is_marked(wrong: dict[str, object], what: str) -> None:
    """A person would learn of a mistyped key only from the next run."""
    study = tomllib.loads(shipped_studies()["blobs"].read_text(encoding="utf-8")) | wrong
    with pytest.raises(jsonschema.ValidationError, match=what):
        jsonschema.validate(study, json_schema.json_schema())


def test_both_forms_of_a_callback_are_allowed() -> None:
    """An editor would mark the short form that the README shows."""
    study = tomllib.loads(shipped_studies()["blobs"].read_text(encoding="utf-8"))
    study["fit"] = {"callbacks": ["EarlyStopping", {"class": "mine.py:Watcher", "patience": 3}]}
    jsonschema.validate(study, json_schema.json_schema())


def test_new_prints_the_schema_and_puts_it_beside_the_copy(tmp_path: Path) -> None:
    """The first line of a person's study would name a file that is not there."""
    printed = command("search.new", "--schema", cwd=tmp_path)
    assert json.loads(printed.stdout) == json_schema.json_schema(), printed.stderr
    done = command("search.new", "mine", cwd=tmp_path)
    assert done.stdout.split() == ["studies/mine.toml"], done.stderr
    assert (tmp_path / "studies" / json_schema.FILE).read_text(encoding="utf-8") == json_schema.as_text()
    nameless = command("search.new", cwd=tmp_path)
    assert nameless.returncode == 2
    assert "NAME is missing" in nameless.stderr
