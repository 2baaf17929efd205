"""Data that workers share: the same numbers in every process, once in the machine's memory, gone with the search."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from search.data import mapped
from search.data.dataset import Data
from search.data.loading import TrialData, load
from search.data.preprocessing import leaves
from search.study.files import SharedFolder
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.training import fit
from search.workers import sharing
from search.workers.sharing import trial_data
from tests.conftest import Searcher

STUDY = """
name = "shared"
metric = "val_loss"
direction = "minimize"

[data]
source = "shared_{name}.py:load"
{more}

[model]
build = "shared_{name}.py:build"

[fit]
epochs = 1
batch_size = 4096

[space]
width = {{ type = "int", low = 2, high = 200 }}
"""
NUMBERS = """
import numpy as np

def numbers(columns, dtype, rows=300):
    return np.random.default_rng(columns).normal(3, 5, (rows, columns)).astype(dtype)

"""
KINDS = {
    "single": "x = numbers(4, 'float32')\n    return x, x[:, 0] > 3",
    "double": "x = numbers(4, 'float64')\n    return x, x[:, :1] * 1e-9 + 1",
    "columns": "x = np.asfortranarray(numbers(6, 'float64'))\n    return {'train': (x[:200], x[:200, 1]), "
    "'validation': (x[200:250], x[200:250, 1]), 'test': (x[250:], x[250:, 1])}",
    "pictures": "x = numbers(48, 'uint8').reshape(-1, 3, 4, 4).transpose(0, 2, 3, 1)\n    return x, x[:, 0, 0, 0] % 3",
    "several": "return {'a': numbers(3, 'float32'), 'b': numbers(2, 'int64')}, numbers(1, 'float32'), "
    "np.arange(300) % 2 + 1.0",
    "table": "import pandas as pd\n    words = np.array(['one', 'two', ''], object)[np.arange(300) % 3]\n"
    "    return pd.DataFrame({'n': numbers(1, 'float64')[:, 0], 'word': words}), numbers(2, 'float32')[:, 0]",
}


def study(folder: Path, name: str, body: str, more: str = "", before: str = "") -> Definition:
    (folder / f"shared_{name}.py").write_text(
        f"{NUMBERS}{before}\ndef load():\n    {body}\n\n\ndef build(trial, data): ...\n"
    )
    path = folder / "shared.toml"
    path.write_text(STUDY.format(name=name, more=more))
    return load_definition(path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A search's folder, where small data are shared too."""
    monkeypatch.setattr(sharing, "_LARGE", 1)
    monkeypatch.setattr(sharing, "_FILE", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = SharedFolder()
    yield made.path
    made.close()


def same_of(data: TrialData) -> Data:
    assert data.same is not None
    return data.same


def arrays(data: Data) -> list[Any]:
    parts = [part for part in (data.train, data.validation, data.test, data.rest) if part is not None]
    return [leaf for part in parts for each in (part.x, part.y, part.sample_weight) for leaf in leaves(each)]


@pytest.mark.parametrize(("name", "more"), [(name, "") for name in KINDS] + [("single", "folds = 3")])
def test_workers_have_what_was_loaded(tmp_path: Path, place: str, name: str, more: str) -> None:
    """If this fails, a trial depends on the worker that trains it."""
    definition = study(tmp_path, name, KINDS[name], more)
    loaded = load(definition)
    for data in (trial_data(definition, place, first=first) for first in (True, False)):
        found = same_of(data)
        pairs = list(zip(arrays(loaded), arrays(found), strict=True))
        assert any(mapped.is_mapped(ours) for _, ours in pairs)
        for mine, ours in pairs:
            assert (ours.dtype, ours.shape, type(ours)) == (mine.dtype, mine.shape, np.ndarray)
            assert mapped.axes_of(ours) == mapped.axes_of(mine)  # sums depend on it in their last bit
            assert np.array_equal(ours, mine)
            assert ours.flags.writeable
            if mine.dtype == np.float64:
                single = mapped.in_single_precision(ours)
                assert mapped.is_mapped(single)
                assert single.tobytes() == mine.astype("float32").tobytes()
        assert (found.task, found.classes, found.digest) == (loaded.task, loaded.classes, loaded.digest)
        assert [each[0].tolist() for each in found.folds] == [each[0].tolist() for each in loaded.folds]


def test_what_user_code_writes_stays_with_its_worker(tmp_path: Path, place: str) -> None:
    """If this fails, a builder that scales its rows in place does so for all workers, or is not heard."""
    definition = study(tmp_path, "double", KINDS["double"])
    one, two = (same_of(trial_data(definition, place, first=first)) for first in (True, False))
    before = two.train.x.copy()
    np.divide(one.train.x, 10, out=one.train.x)
    assert np.array_equal(two.train.x, before)
    assert np.array_equal(mapped.in_single_precision(one.train.x), (before / 10).astype("float32"))


def test_a_model_learns_the_same_from_shared_rows(tmp_path: Path, place: str) -> None:
    """If this fails, a search with several workers finds other values than one with a single worker."""
    definition = study(tmp_path, "double", KINDS["double"])
    results = []
    for data in (load(definition), same_of(trial_data(definition, place, first=True))):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(1)])
        model.compile(optimizer="adam", loss="mse")
        logged = keras.callbacks.History()
        fit.fit(model, data, epochs=2, batch_size=32, seed=1, callbacks=[logged])
        assert data.test is not None
        results.append((logged.history, fit.evaluate(model, data.test), model.get_weights()))
    (history, tested, weights), others = results
    assert (history, tested) == others[:2]
    assert all(map(np.array_equal, weights, others[2]))


def test_training_copies_no_shared_rows(tmp_path: Path, place: str) -> None:
    """If this fails, each worker holds the training rows in memory once more."""
    data = same_of(trial_data(study(tmp_path, "double", KINDS["double"]), place, first=True))
    rows = mapped.in_single_precision(data.train.x)
    x, _ = fit._tensors(data.train)
    rows[0, 0] = 7.0
    assert float(x[0, 0]) == 7.0


LEAVES = {
    "nothing": ("HELD = {}", "return NUMBERS()", True),
    "a variable": ("HELD = 1", "global HELD\n    HELD = 1000.5\n    return NUMBERS()", False),
    "a value in a dictionary": ("HELD = {}", "HELD['words'] = ['a']\n    return NUMBERS()", False),
    "a fitted object": (
        "from sklearn.preprocessing import StandardScaler\nHELD = StandardScaler()",
        "x, y = NUMBERS()\n    return HELD.fit_transform(x), y",
        False,
    ),
    "numbers in an array": ("HELD = np.zeros(3)", "HELD[1] = 5\n    return NUMBERS()", False),
    "an attribute of a class": (
        "class Held:\n    size = 1",
        "Held.size = 2000\n    return NUMBERS()",
        False,
    ),
    "a variable of the environment": ("import os", "os.environ['SHARED_TEST'] = 'x'\n    return NUMBERS()", False),
}


@pytest.mark.parametrize("left", LEAVES)
def test_a_function_that_leaves_something_behind_runs_in_each_worker(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """If this fails, a builder that needs what the data function left finds nothing in all workers but one."""
    monkeypatch.setenv("SHARED_TEST", "")
    before, body, is_shared = LEAVES[left]
    numbers = "\ndef NUMBERS():\n    return numbers(4, 'float32'), numbers(1, 'float32')[:, 0]\n"
    definition = study(tmp_path, left.replace(" ", "_"), body, before=f"{before}\n{numbers}")
    trial_data(definition, place, first=True)
    assert Path(place, "data").is_dir() is is_shared


def test_a_full_disk_leaves_data_to_each_worker(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a search fails for want of room that it does not need."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    definition = study(tmp_path, "single", KINDS["single"])
    assert len(same_of(trial_data(definition, place, first=True)).train) == 216
    assert [each.name for each in Path(place).iterdir()] == [".search-lock"]
    assert len(same_of(trial_data(definition, place, first=False)).train) == 216


def test_folders_are_removed_with_their_search_or_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a killed search leaves its data on the disk, or a search removes those of another, or your own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yours = tmp_path / "search-data-of-your-own"
    yours.mkdir()
    code = "from search.study.files import SharedFolder; s = SharedFolder(); print(s.path, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().strip())
        mine = SharedFolder()
        assert other.is_dir()
        assert other.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGKILL)
    assert other.is_dir()
    SharedFolder().close()
    assert not other.exists()
    assert Path(mine.path).is_dir()
    mine.close()
    assert list(tmp_path.glob("search-data-*")) == [yours]


CODE = """
import hashlib
import json
from pathlib import Path

import keras
import numpy as np


def load():
    with Path("loaded").open("a") as file:
        file.write("x")
    x = np.random.default_rng(0).normal(size=(2200, 1000))
    return x, x[:, 0]


def build(trial, data):
    digest = hashlib.sha256(data.train.x.tobytes()).hexdigest()
    with Path("seen").open("a") as file:
        file.write(digest + "\\n")
    data.train.x[0] = trial.number
    model = keras.Sequential([keras.layers.Dense(trial.params["width"]), keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model
"""


def test_a_search_loads_its_data_once(tiny: Any, run_search: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, each worker loads and holds data of its own, or a worker sees what another wrote into them."""
    temporary = Path("temporary").absolute()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    file = tiny("once", "once.py:build", CODE).path
    kept = (line for line in file.read_text().splitlines() if not line.startswith("options"))
    file.write_text("\n".join(kept).replace("sklearn:make_blobs", "once.py:load"))
    definition = load_definition(file)
    outcome = run_search(definition, workers=2, n_trials=2, offline=True, register=False)
    assert outcome.n_trials["complete"] == 2
    assert Path("loaded").read_text() == "x"
    assert not list(temporary.glob("search-data-*"))
    untouched = hashlib.sha256(load(definition).train.x.tobytes()).hexdigest()
    assert Path("seen").read_text().split().count(untouched) == 2, "before the search, and in the other worker"
