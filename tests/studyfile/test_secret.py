"""URLs that hold a password: read from a file or a variable, and never shown."""

from __future__ import annotations

import json
import pickle
import tomllib
from pathlib import Path

import pytest
import sqlalchemy

from search.errors import UsageError
from search.studyfile.load import find_study, keep_made, load_definition
from search.studyfile.secret import SecretUrl, read_url, revealed, without_secrets
from search.studyfile.settings import arguments_of, resolve
from search.workers.worker import Job
from tests.studyfiles import definition

URL = "postgresql+psycopg://ann:s3cret@host/db"


def test_a_job_shows_no_password() -> None:
    """If this fails, dask writes the team's password to its log whenever a task fails."""
    job = Job(
        resolve(load_definition(find_study("blobs")), storage=URL, tracking_uri="https://ann:s3cret@mlflow.example")
    )
    for each in (job, pickle.loads(pickle.dumps(job))):
        assert "s3cret" not in f"{each!r} {each} {each.settings.storage:>5} {[each.settings.tracking_uri]}"
        assert revealed(each.settings.storage) == URL
        assert type(revealed(each.settings.storage)) is str
    assert sqlalchemy.make_url(job.settings.storage).password == "s3cret"
    assert "s3cret" not in arguments_of(job.settings)


def test_the_options_of_a_study_are_shown_without_their_secrets(tmp_path: Path) -> None:
    """A task that fails would log the password that a data function is given, with the rest of the study file."""
    (tmp_path / "own.py").write_text("def load(**options): ...")
    options = {"password": "s3cret", "table": "rows", "headers": {"Authorization": "Bearer s3cret"}, "dsn": URL}
    wanted = definition({"data.source": "own.py:load", "data.options": options}, folder=tmp_path)
    job = Job(resolve(wanted))
    shown = f"{job!r} {job} {wanted!r} {wanted} {wanted.data!r} {job.settings!r} {dict(job.settings)!r}"
    assert "s3cret" not in shown
    assert "'table': 'rows'" in shown
    assert pickle.loads(pickle.dumps(job)).definition.data.options == options


def test_a_url_in_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, the password stands in the list of processes and in the shell's history."""
    file = tmp_path / "url.txt"
    file.write_text(f"  {URL}\nnext line\n")
    monkeypatch.setenv("OUR_DATABASE", URL)
    blobs = load_definition(find_study("blobs"))
    for given in (f"@{file}", "env:OUR_DATABASE"):
        settings = resolve(blobs, storage=given, tracking_uri=given)
        assert revealed(settings.storage) == URL == revealed(settings.tracking_uri or "")
        assert arguments_of(settings) == f"blobs --storage {given} --tracking-uri {given}"
    assert str(read_url("studies/password=x.journal")) == "studies/password=x.journal", "a path is itself"
    assert read_url(SecretUrl(URL, "env:X")).given == "env:X"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("@nowhere.txt", "nowhere.txt cannot be read (No such file or directory); after @ give a file"),
        ("@.", ". cannot be read (Is a directory)"),
        ("@empty.txt", "the first line of empty.txt is empty; write the URL there"),
        ("@binary.bin", "binary.bin is not a text file"),
        (
            "env:OUR_DATABSE",
            "the environment variable 'OUR_DATABSE' is not set; did you mean 'OUR_DATABASE'?",
        ),
        ("env:EMPTY", "the environment variable 'EMPTY' is empty"),
        ("env:", "the environment variable '' is not set"),
    ],
)
def test_what_is_not_there_is_told(given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a study is begun in a journal named `env:X`, or an error shows what a file holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUR_DATABASE", URL)
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError) as caught:
        read_url(given)
    assert str(caught.value).startswith(said)


def test_a_job_on_another_machine_finds_the_same_file() -> None:
    """A cluster's worker would make an empty database in its own folder, and each trial die."""
    for given, wanted in {
        "sqlite:///s.db": f"sqlite:///{Path.cwd()}/s.db",
        "sqlite:////abs/s.db?timeout=9": "sqlite:////abs/s.db?timeout=9",
        "sqlite:///:memory:": "sqlite:///:memory:",
        "a.journal": f"{Path.cwd()}/a.journal",
        URL: URL,
    }.items():
        assert revealed(resolve(definition(), storage=given).located().storage) == wanted


CODE = 'def build(trial, data):\n    layer(mask_token="", password="p")\n    connect(("X-Auth-Token", "s3cret"))\n'


def test_a_study_file_without_its_secrets_is_still_one(tmp_path: Path) -> None:
    """`search.reproduce` would not read the study file that MLflow keeps; a study of a notebook could not begin."""
    shown = json.loads(without_secrets(json.dumps({"objects": {"build": CODE}, "options": {"password": "s3cret"}})))
    assert shown["options"] == {"password": "***"}
    assert shown["objects"]["build"] == CODE.replace('"p"', '"***"').replace('"s3cret"', '"***"')
    text = (
        '[data]\noptions = { password = "s3cret", port = 5, token = 77, keys = ["a"] }\n'
        '[model]\nmask_token = "[MASK]"\n'
        '[space]\nuse_token = { type = "categorical", choices = [true, false] }\n'
    )
    dsn = without_secrets('[data]\noptions = { conninfo = "host=db password=s3cret dbname=x" }\n')
    assert tomllib.loads(dsn)["data"]["options"]["conninfo"] == "host=db password=*** dbname=x"
    assert tomllib.loads(without_secrets('password = """s3cret"""'))["password"] == "***"
    made = json.loads(without_secrets('{"password": "p:w@rd1", "pin": 5, "api_key": 77, "dsn": "https://u:p@h/x"}'))
    assert made == {"password": "***", "pin": 5, "api_key": "***", "dsn": "https://***@h/x"}
    read = tomllib.loads(without_secrets(text))
    assert read["data"]["options"] == {"password": "***", "port": 5, "token": "***", "keys": ["a"]}
    assert read["model"] == {"mask_token": "[MASK]"}
    assert read["space"]["use_token"]["choices"] == [True, False]


def test_a_file_of_the_user_s_own_is_not_overwritten(tmp_path: Path) -> None:
    """A study made in Python would replace the user's `movies.json`."""
    wanted = definition({"name": "movies"}, folder=tmp_path).model_copy(update={"text": '{"study": {}}'})
    (tmp_path / "movies.json").write_text('{"titles": ["Metropolis"]}')
    assert "is a file of another kind" in keep_made(wanted, tmp_path)
    assert "Metropolis" in (tmp_path / "movies.json").read_text()
    (tmp_path / "movies.json").unlink()
    assert keep_made(wanted, tmp_path) == keep_made(wanted, tmp_path) == ""
