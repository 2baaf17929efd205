"""The commands' edges: what a person who mistypes something sees, and what is not created."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from search.study.storage import open_storage
from tests.conftest import TINY, Command, command

BAD = [
    (("nowhere",), "no study 'nowhere' in studies/ or among the shipped ones"),
    (("blobbs",), "did you mean 'blobs'?"),
    (("missing.toml",), "missing.toml: no such study file"),
    (("--n-trials", "0"), "Invalid value for '--n-trials'"),
    (("--n-trials", "many"), "Invalid value for '--n-trials'"),
    (("--sampler", "tpee"), "did you mean 'tpe'?"),
    (("--pruner", "medium"), "did you mean 'median'?"),
    (("--workers", "0"), "use a whole number of at least 1 or 'auto'"),
    (("--wrokers", "2"), "No such option: --wrokers"),
    (("--resume", "--n-trials", "3"), "--resume with --n-trials"),
    (("--sampler", "gp"), "sampler 'gp' needs torch; pip install 'search[gp]'"),
    (("--cluster", "tcp://127.0.0.1:9"), "no scheduler answers there"),
    (("--storage", "postgresql+psycopg://me:secret@127.0.0.1:9/x"), "cannot be used"),
    (("--tracking-uri", "http://127.0.0.1:9"), "MLflow tracking store http://127.0.0.1:9 cannot be used"),
    (("--tracking-uri", "postgresql+psycopg://me:secret@127.0.0.1:9/x"), "cannot be used"),
]


@pytest.mark.parametrize(("args", "said"), BAD, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_bad_input_gets_one_line_and_leaves_no_trace(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """If this fails, a typing mistake costs a traceback, a half-made store, or a password in a log."""
    done = command("search.run", *args, "--quiet", cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert "secret" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


NOISY = """
import atexit, logging, os, subprocess, sys, threading
from search.cli import Json, execute, print_json

def noise(text):
    print(text)
    print(text, file=sys.__stdout__)
    os.write(1, text.encode())

def command(as_json: Json = False) -> None:
    logging.basicConfig(stream=sys.stdout, level="INFO")
    logging.info("logged")
    noise("called")
    subprocess.run(["echo", "from a process"])
    thread = threading.Thread(target=noise, args=("in a thread",))
    thread.start()
    thread.join()
    atexit.register(noise, "at the end")
    if as_json:
        print_json({"value": float("nan"), "all": [float("inf"), (1.5, None)], "text": "ü"})

execute(command, "noisy")
"""


def test_json_is_alone_on_standard_output_whatever_prints() -> None:
    """A script could not read `search.predict --json`: a model's own module prints, logs, or prints at its end."""
    done = subprocess.run([sys.executable, "-c", NOISY, "--json"], capture_output=True, text=True, check=True)
    assert done.stdout == '{"value": null, "all": [null, [1.5, null]], "text": "\\u00fc"}\n'
    for said in ("logged", "called", "from a process", "in a thread", "at the end"):
        assert said in done.stderr
    plain = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert "called" in plain.stdout


STUDY = """
name = "bad"
metric = "{metric}"
direction = "minimize"
[data]
source = "{source}"
{data}
[model]
build = "{build}"
[space]
epochs = {{ type = "int", low = 1, high = 2 }}
"""
GOOD = {"metric": "val_loss", "source": "sklearn:load_wine", "data": "", "build": "mlp"}
BUILDERS = """
import keras


def build(trial, data):
    raise ValueError


def raises(trial, data):
    return {}["x"]


def nothing(trial, data):
    pass


def uncompiled(trial, data):
    return keras.Sequential()
"""
BAD_STUDIES = [
    ({"metric": "val_acuracy"}, "did you mean 'val_accuracy'?"),
    ({"source": "sklearn:load_whine"}, "did you mean 'load_wine'?"),
    ({"source": "csv:table.csv", "data": 'target = "prize"'}, "did you mean 'price'?"),
    ({"source": "csv:table.csv", "data": 'target = "same"'}, "is the same in every row"),
    ({"source": "csv:table.csv", "data": 'target = "gap"'}, "the target 'gap' is missing in 1 row;"),
    ({"build": "build.py:raises"}, "model.build: build.py, line 10, in raises: KeyError: 'x'; 4 configurations"),
    ({"build": "build.py:nothing"}, "returned NoneType; return a compiled keras.Model"),
    ({"build": "build.py:uncompiled"}, "is not compiled"),
    ({"build": "build.py:bild"}, "did you mean 'build'?"),
]


@pytest.mark.parametrize(("changed", "said"), BAD_STUDIES, ids=[said[:40] for _, said in BAD_STUDIES])
def test_a_study_that_cannot_run_creates_nothing(
    changed: dict[str, str], said: str, tmp_path: Path, in_process: Command
) -> None:
    """If this fails, a mistake in a study is found after the first hour, or leaves an empty experiment."""
    (tmp_path / "bad.toml").write_text(STUDY.format(**{**GOOD, **changed}))
    rows = "".join(f"{i},{i * 2.5},1,{i or ''}\n" for i in range(40))
    (tmp_path / "table.csv").write_text(f"size,price,same,gap\n{rows}")
    (tmp_path / "build.py").write_text(BUILDERS)
    done = in_process("search.run", "bad.toml", "--quiet", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"bad.toml", "table.csv", "build.py"}


HIDING = ["raise ImportError('my own file')", "import keras\nmodel = keras.Sequential()"]


@pytest.mark.parametrize("code", HIDING, ids=["raises", "imports itself"])
def test_a_file_that_hides_a_package_is_named(code: str, tmp_path: Path) -> None:
    """If this fails, a file called keras.py costs a traceback from each worker, and no word about the file."""
    (tmp_path / "keras.py").write_text(code)
    done = command("search.run", "--quiet", cwd=tmp_path, cold=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "a worker cannot start: " in line
    assert f"({tmp_path}/keras.py, line " in line
    assert "rename that file" in line


def test_promote_where_there_is_nothing(tmp_path: Path) -> None:
    """If this fails, a promotion in the wrong folder creates an empty store there."""
    done = command("search.promote", "blobs", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no MLflow store sqlite:///")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "argument"), [("größe", "a"), ("size", "größe")], ids=["folder", "argument"])
def test_a_name_that_the_locale_cannot_show_is_told(name: str, argument: str, tmp_path: Path) -> None:
    """A person whose locale is C would get an error of urllib's, in the middle of a search."""
    (tmp_path / name).mkdir()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command("search.report", argument, cwd=tmp_path / name, env=ascii_only, cold=True)
    assert done.returncode == 2, done.stderr
    assert "is not in the encoding of this locale (ascii); set PYTHONUTF8=1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_terminal_that_cannot_show_a_name_gets_its_code(tmp_path: Path) -> None:
    """If this fails, a command does its work, and then ends by an error because of one letter."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a.toml").write_text(TINY.format(name="a", build="mlp"))
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = command("search.new", "größe", "--from", "a", cwd=tmp_path, env=ascii_only, cold=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "studies/gr\\xf6\\xdfe.toml\n"
    assert (tmp_path / "studies" / "größe.toml").exists()


@pytest.mark.parametrize(
    "args", [("search.report", "blobs", "--output", "file"), ("search.studies", "--compare", "blobs", "blobs")]
)
def test_a_place_that_cannot_be_written_is_the_user_s_to_mend(args: tuple[str, ...], tmp_path: Path) -> None:
    """The person would read of a defect, with exit status 1, where a file lies in the place of a folder."""
    (tmp_path / "file").touch()
    (tmp_path / "reports").touch()
    study = optuna.create_study(study_name="blobs", storage=open_storage(str(tmp_path / "studies" / "blobs.journal")))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    study.set_user_attr("metric", ["val_loss"])
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "cannot be written (File exists); name another place" in done.stderr
