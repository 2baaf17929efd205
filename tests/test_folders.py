"""Working folders of every kind: a search works there, or says in one line why it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from search.studyfile.schema import Definition
from tests.conftest import command

Tiny = Callable[..., Definition]
OWN = """from search.training.model import mlp

def build(trial, data):
    print("mine")
    return mlp(trial, data)
"""


def study_in(folder: Path, definition: Definition) -> None:
    """Copy a study file and what lies beside it to another folder."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(definition.folder, folder / "studies")


def test_a_folder_of_any_name(tiny: Tiny, tmp_path: Path) -> None:
    """If this fails, a blank or an umlaut in a path ends the search, after minutes, and leaves a stray folder."""
    definition = tiny("odd", "own.py:build", OWN)
    folder = tmp_path / "a b\u00fc#c?d 100% e"
    study_in(folder, definition)
    long = tmp_path / ("temporary" * 12)  # as on clusters; a socket's path may have 107 bytes
    long.mkdir()
    before = set(tmp_path.iterdir())
    unset = {"MLFLOW_TRACKING_URI": "", "TMPDIR": str(long)}
    done = command("search.run", "odd", "--n-trials", "2", "--workers", "1", "--json", cwd=folder, env=unset)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["version"] == "1", "what the builder prints is not mixed with it"
    assert [file.read_text() for file in folder.glob("mlruns/**/log.txt")] == ["mine\n"] * 2
    assert {path.name for path in folder.iterdir()} == {"studies", "mlflow.db", "mlruns"}
    assert set(tmp_path.iterdir()) == before, "no stray folder beside it"
    assert (folder / "studies" / "odd.journal").is_file()
    code = "from search.tracking import store, versions; store.set_uri(None); versions.load_keras('models:/odd/1')"
    loaded = command("-c", code, cwd=folder, env=unset)
    assert loaded.returncode == 0, loaded.stderr


def test_a_store_that_is_a_folder(tiny: Tiny, folder: Path) -> None:
    """If this fails, a mistake that is seen at once takes two minutes and forty lines."""
    tiny("dir")
    (folder / "mlflow.db").unlink()
    (folder / "mlflow.db").mkdir()
    done = command("search.run", "dir", "--n-trials", "2", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("mlflow.db is a folder, not a database; move it, or say another")
    assert "WARNING" not in done.stderr
    assert not (folder / "studies" / "dir.journal").exists()
