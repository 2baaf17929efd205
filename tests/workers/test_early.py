"""A large file is loaded while the framework is imported: the same data, and no process is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.data import sources
from search.data.loading import load
from search.errors import DataError
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.workers import early
from search.workers.sharing import SharedFolder, trial_data
from tests.conftest import Searcher

STUDY = """
name = "early"
metric = "val_loss"
direction = "minimize"

[data]
source = "{source}"
{more}

[fit]
epochs = 1
batch_size = 4096

[space]
width = {{ type = "int", low = 2, high = 20 }}
"""


@pytest.fixture
def shared() -> Iterator[SharedFolder]:
    made = SharedFolder()
    yield made
    made.close()


def study(folder: Path, source: str = "npz:rows.npz", more: str = "") -> Definition:
    path = folder / "early.toml"
    path.write_text(STUDY.format(source=source, more=more))
    return load_definition(path)


def write(folder: Path, rows: int = 90_000) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 100)).astype("float32")
    np.savez(folder / "rows.npz", x=x, y=x[:, 0] > 0)


def test_a_process_of_its_own_loads_what_a_worker_would(
    tmp_path: Path, shared: SharedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a study of a large file trains on other rows, or loads them twice."""
    write(tmp_path)
    (tmp_path / "numpy.py").write_text("raise RuntimeError('no package')")
    monkeypatch.chdir(tmp_path)
    definition = study(tmp_path)
    expected = load(definition)
    process = early.begin(definition, shared.path)
    assert process is not None
    assert process.wait(60) == 0
    monkeypatch.setattr(sources, "read", None)
    found = trial_data(definition, shared.path, first=True).same
    assert found is not None
    for one, other in ((found.train, expected.train), (found.validation, expected.validation)):
        assert one is not None
        assert other is not None
        assert one.x.tobytes() == other.x.tobytes()
        assert one.y.tobytes() == other.y.tobytes()
    assert found.digest == expected.digest


def test_small_files_and_other_sources_are_left_to_the_first_worker(tmp_path: Path, shared: SharedFolder) -> None:
    """If this fails, each small study starts a process that helps nobody."""
    write(tmp_path, rows=100)
    assert early.begin(study(tmp_path), shared.path) is None
    assert early.begin(study(tmp_path, "sklearn:make_blobs"), shared.path) is None
    write(tmp_path)
    definition = study(tmp_path)
    assert early.begin(definition, "") is None
    (tmp_path / "rows.npz").unlink()
    assert early.begin(definition, shared.path) is None


def test_it_ends_with_the_search(tmp_path: Path, shared: SharedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a killed search leaves a process that goes on to read gigabytes."""
    monkeypatch.setattr(early, "_LARGE", 0)
    file = tmp_path / "rows.csv"
    file.touch()
    definition = study(tmp_path, "csv:rows.csv", 'target = "y"')
    file.unlink()
    os.mkfifo(file)  # nobody writes into it: reading it never ends
    process = early.begin(definition, shared.path)
    assert process is not None
    assert process.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.stdin.close()
    assert process.wait(30) == 1


def test_a_search_begins_with_data_that_were_loaded_early(
    folder: Path, run_search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, the first trial of a large study waits for the framework, and then for the data."""
    begun: list[Any] = []
    monkeypatch.setattr(early, "begin", lambda *given, begin=early.begin: begun.append(begin(*given)) or begun[-1])
    write(folder)
    outcome = run_search(study(folder), workers=2, n_trials=2, offline=True, register=False)
    assert outcome.n_trials["complete"] == 2
    assert [each.returncode for each in begun] == [0]
    with pytest.raises(DataError, match="names columns"):
        run_search(study(folder, more='target = "y"'), workers=2, n_trials=2, offline=True, register=False)
    assert [each.returncode for each in begun] == [0, 1]
