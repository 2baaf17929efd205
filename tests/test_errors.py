"""The error tree: one line each, no secret in it, and the same on the other side of a process."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.studyfiles  # noqa: F401 - keeps hypothesis's files out of the checkout
from search import errors
from search.errors import (
    DataError,
    ModelError,
    SearchError,
    StudyFileError,
    TrialFailed,
    did_you_mean,
    one_line,
    redact,
)
from search.studyfile.references import load_object

WORDS = st.text(st.characters(whitelist_categories=("L", "N", "P"), blacklist_characters="@"), min_size=6, max_size=20)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://ann:s3cret@host/db", "s3cret"),
        ("postgresql+psycopg://ann:s3/cr@et@host:5432/db is down", "cr@et"),
        ("https://ghp_token@github.com/x", "ghp_token"),
        ("mysql://u:p%40ss@h/d and sqlite:///x.db", "p%40ss"),
        ("host?token=abc123&x=1", "abc123"),
        ("connection failed: user=ann password=s3cret host=x", "s3cret"),
        ("s3://b?aws_secret_key=AKIA1", "AKIA1"),
        ("https://h/x?api_key=s3cret&b=1", "s3cret"),
        ("https://h/x?X-Amz-Signature=abcdef", "abcdef"),
        ("host=x sslpassword=s3c,re;t dbname=y", "s3c"),
        ("password='s3 cr\\'et' host=x", "et'"),
        ("Authorization: Bearer a.b", "a.b"),
        ("Authorization: Basic YWJj", "YWJj"),
        ("{'Authorization': 'Bearer abc'}", "abc"),
        ("Authorization=Bearer%20abcdef", "abcdef"),
        ("ann:s3/cr@et@host:5432/db refused", "cr@et"),
        ("postgresql://u:p@s/s@h/d", "@s/s"),
        ("postgresql://u:p%40s%2Fs@h/d", "p%40s"),
        ("a postgresql://u:p#x?y@h/d", "p#x"),
        ("aws_secret_access_key = AK/IA+x=", "AK/IA"),
        ("AWS_SESSION_TOKEN=abc", "abc"),
        ('{"db_password": "x \\"y"}', "y"),
        ("redis://:s3cret@h/0", "s3cret"),
        ("--password s3cret", "s3cret"),
        ("git clone with ghp_0123456789abcdef0123", "ghp_0"),
        ("Cookie: session=abc123", "abc123"),
        ("https://h/cb?code=s3cret&jwt=x", "s3cret"),
        ("https://h/x?auth=s3cret", "s3cret"),
        ("host=x user=u pass=s3cret", "s3cret"),
        ("secretKey: s3cret", "s3cret"),
        ("password=[ab]s3cret", "s3cret"),
        ("password={type}s3cret host=x", "s3cret"),
        ("password = ['a', 's3cret']", "s3cret"),
        ("[('X-Auth-Token', 's3cret'), ('Accept', 'json')]", "s3cret"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzM2NyZXQifQ.c2lnbmF0dXJl", "c2lnb"),
        ("Databricks refused dapi0123456789abcdef0123456789abcdef", "dapi0123"),
        ("key sk-proj-0123456789abcdefghij is expired", "sk-proj-0"),
        ("?next=https%3A%2F%2Fann%3As3cret%40host%2F", "s3cret"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    ],
)
def test_no_message_holds_a_secret(text: str, secret: str) -> None:
    """A password in a terminal, log or MLflow tag would be lost to whoever reads it."""
    assert secret not in redact(text)
    assert secret not in str(SearchError(text))
    assert secret not in one_line(ValueError(text))


@given(user=WORDS, password=WORDS)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_no_password_survives_in_any_url(user: str, password: str) -> None:
    """An odd character in a password would let it through."""
    user = "".join(each for each in user if each not in "/?#:") or "ann"
    shown = redact(f"cannot reach postgresql://{user}:{password}@db.example/x")
    assert shown == "cannot reach postgresql://***@db.example/x"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///mlflow.db",
        "http://localhost:5000/#/x",
        "studies/blobs.journal",
        "a@b",
        "models:/blobs@challenger",
        "a basic model",
        "monkey: 5, keyword = 3",
        "bypass=True, one_pass = 3, sk-learn",
        "columns are ['token', 'label']",
        "12:30 ann@example.org",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """A message that hides the file or host would help nobody."""
    assert redact(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "x://",
        "a:",
        "://a:b@",
        "password=",
        'password="',
        "Authorization ",
        "--",
        "?key",
        "@:",
        "%3A%2F%2Fa",
        "('token', ",
    ],
)
def test_a_long_text_is_read_once(part: str) -> None:
    """An error of a megabyte would hold up the search for hours, one look at each pair of characters."""
    assert redact(part * (1_000_000 // len(part)))


def test_a_message_is_one_line() -> None:
    """Two lines in a terminal would hide the one that says what to do."""
    assert str(SearchError("first\nsecond\u2028third\x1b[31m")) == "first second third?[31m"
    assert one_line(ValueError("\n  what  \nwhere")) == "ValueError: what"
    assert one_line(KeyError()) == "KeyError"


KERAS = "Exception encountered when calling L.call().\n\n{}\n\nArguments received by L.call():\n  • x=tf.Tensor(…)"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (KERAS.format("\x1b[1mshapes differ\x1b[0m"), "shapes differ"),
        (KERAS.format(""), "Exception encountered when calling L.call()."),
        ("Wrong:\n  * the first\n  * the second", "Wrong: * the first"),
        ("Traceback (most recent call last):\n  File 'a.py'\nKeyError: 'age'\n", "KeyError: 'age'"),
        ("{{function_node __wrapped__Next_device_/job:a}} No such file: a.png [Op:Next] name: ", "No such file: a.png"),
    ],
)
def test_a_frameworks_words_around_a_cause_are_left_out(message: str, told: str) -> None:
    """The reason of a failed trial would be the call's arguments, a heading, or the first line of a traceback."""
    assert one_line(ValueError(message)) == f"ValueError: {told}"


OWN = """
import json

def key(trial):
    return trial.params["widht"]

def pieces(trial):
    params = trial.params
    return params[
        "widht"
    ]

def popped(trial):
    return trial.params.pop("widht")

def column(trial):
    import pandas
    table = pandas.DataFrame({"price": [1], "rooms": [2]})
    return table["pirce"]

def attribute(trial):
    return trial.parms

def variable(trial):
    return trail.params

def imported(trial):
    from json import laods

def parsed(trial):
    json.loads("{")

def behind(trial):
    try:
        key(trial)
    except KeyError as error:
        raise RuntimeError("no model") from error

def exported(trial):
    import os
    return os.environ["NOT_THERE"]

def sent(trial):
    from multiprocessing import get_context
    with get_context("spawn").Pool(1) as pool:
        pool.map(key, [trial])
"""


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("key", "line 5, in key: KeyError: 'widht'; did you mean 'width'? trial.params has epochs, width"),
        ("pieces", "line 9, in pieces: KeyError: 'widht'; did you mean 'width'? params has epochs, width"),
        ("popped", "line 14, in popped: KeyError: 'widht'; did you mean 'width'? trial.params has …"),
        ("column", "line 19, in column: KeyError: 'pirce'; did you mean 'price'? table has price, rooms"),
        ("attribute", "line 22, in attribute: AttributeError: … no attribute 'parms'; did you mean 'params'?"),
        ("variable", "line 25, in variable: NameError: … not defined; did you mean 'trial'?"),
        ("imported", "line 28, in imported: ImportError: … 'laods' … did you mean 'loads'?"),
        ("parsed", "line 31, in parsed: JSONDecodeError: Expecting property name …"),
        ("behind", "line 37, in behind: RuntimeError: no model (from own_place.py, line 5, in key: KeyError…"),
        ("exported", "line 41, in exported: KeyError: 'NOT_THERE'"),
        ("sent", "line 5, in key: KeyError: 'widht'…"),
    ],
)
def test_an_error_names_the_users_line_and_the_names_at_hand(
    function: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person would search a library's traceback for their own file, after a night in a worker that is gone."""
    (tmp_path / "own_place.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("own_place")
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever the function raises
        getattr(module, function)(SimpleNamespace(params={"epochs": 1, "width": 2}))
    del sys.modules["own_place"]
    line = one_line(raised.value)
    assert re.fullmatch(re.escape(f"own_place.py, {told}").replace("…", ".*"), line), line


def test_a_mistake_in_a_files_syntax_names_its_line(tmp_path: Path) -> None:
    """The line would be that of Python's importer."""
    (tmp_path / "own_syntax.py").write_text("import json\ndef build(trial, data:\n    pass\n")
    with pytest.raises(ModelError, match=r"cannot be imported \(own_syntax.py, line 2: SyntaxError: '\(' was never"):
        load_object("own_syntax.py:build", tmp_path, "model.build")


GRAPH = """in user code:

    File "{own}", line 7, in train_step  *
        loss = self.los(x)
    File "/usr/lib/python3/site-packages/keras/layer.py", line 3, in los

    AttributeError: no attribute 'los'
"""


def test_a_traceback_in_a_message_is_read(tmp_path: Path) -> None:
    """What a graph, a generator or another process raised would have no place."""
    told = one_line(RuntimeError(GRAPH.format(own=tmp_path / "own_step.py")))
    assert told == "own_step.py, line 7, in train_step: RuntimeError: no attribute 'los'"


def test_what_an_error_came_from_is_told() -> None:
    """A wrapper would hide the cause: "several (2 sub-exceptions)", "while loading", or no word at all."""
    caused = RuntimeError("while loading")
    caused.__cause__ = KeyError("age")
    assert one_line(caused) == "RuntimeError: while loading (from KeyError: 'age')"
    repeated = RuntimeError("cannot load: no age")
    repeated.__cause__ = ValueError("no age")
    assert one_line(repeated) == "RuntimeError: cannot load: no age"
    silent = RuntimeError()
    silent.__context__ = KeyError("age")
    assert one_line(silent) == "RuntimeError (from KeyError: 'age')"
    group = ExceptionGroup("several", [ValueError("the first"), KeyError("b")])
    assert one_line(group) == "ExceptionGroup: several (2 sub-exceptions) (from ValueError: the first)"


@pytest.mark.parametrize(
    "error",
    [
        StudyFileError("a.toml", "space.width", "5", "use a table"),
        DataError("data.target: missing"),
        TrialFailed("loss is nan", "Traceback …"),
        errors.Interrupted("interrupted"),
    ],
)
def test_an_error_survives_the_way_from_a_worker(error: Exception) -> None:
    """An error that cannot be sent would take the worker with it, and the person would see a crash."""
    returned = pickle.loads(pickle.dumps(error))
    assert type(returned) is type(error)
    assert str(returned) == str(error)
    assert vars(returned) == vars(error)


def test_exit_statuses_are_those_promised() -> None:
    """Scripts that test the exit status would take bad input for a failed search."""
    assert errors.UsageError("x").exit_status == 2
    assert errors.NoTrialCompleted("x").exit_status == 1
    assert errors.Interrupted("x").exit_status == 130
    assert not issubclass(TrialFailed, SearchError)


def test_every_error_stands_in_the_tree_that_is_drawn() -> None:
    """A class that the docstring does not draw would be found by nobody who wants to catch it."""
    drawn = errors.__doc__ or ""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert [each.__name__ for each in classes if each.__name__ not in drawn] == []


@pytest.mark.parametrize(
    ("word", "hint"), [("metrc", "; did you mean 'metric'?"), ("DATA", "; did you mean 'data'?"), ("zzz", "")]
)
def test_a_misspelt_word_gets_its_nearest(word: str, hint: str) -> None:
    """Without the hint a person searches a long list for their typo."""
    assert did_you_mean(word, ["metric", "data", "space"]) == hint
