"""What the user's code says is compared between two searches: what changes a trial, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from search.errors import StorageError
from search.study import attributes
from search.study.comparable import check_data
from search.studyfile.settings import resolve
from tests.studyfiles import definition

MODULE = """
import time
import blocks

UNITS = 3
STARTED = time.time()


class Base:
    depth = 2


class Layer(Base):
    # of no use
    def call(self, x):
        return x * UNITS


def helper(x):
    '''Says nothing of a trial.'''
    return blocks.twice(x) + Layer.depth


def build(trial, data, rate=0.1):
    print(STARTED)
    return helper(Layer().call(trial))


def load():
    return 1
"""
BLOCKS = "def twice(x):\n    return 2 * x\n"
CHANGES = [
    ("return x * UNITS", "return x * UNITS + 1"),
    ("UNITS = 3", "UNITS = 4"),
    ("depth = 2", "depth = 3"),
    ("rate=0.1", "rate=0.2"),
    ("blocks.twice(x) +", "blocks.twice(x) -"),
    ("return helper(", "return 2 * helper("),
]
NO_CHANGES = [
    ("# of no use", "# of much use"),
    ("Says nothing", "Does say nothing"),
    ("return 1", "return 2"),
    ("def helper(x):", "def helper(  x  ):  # a comment"),
    ("class Base:", "\n\nclass Base:"),
]
READ = """
import sys
from pathlib import Path
from tests.studyfiles import definition
from search.code.digest import digests_of
changes = {"model.build": "mine.py:build", "data.source": "mine.py:load", "data.options": None}
wanted = definition(changes, folder=Path(sys.argv[1]))
print(digests_of(wanted))
"""


def read(folder: Path, module: str = MODULE, blocks: str = BLOCKS) -> str:
    (folder / "mine.py").write_text(module)
    (folder / "blocks.py").write_text(blocks)
    ran = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    return ran.stdout


def test_a_digest_changes_with_what_a_trial_does_and_with_nothing_else(tmp_path: Path) -> None:
    """Values of an old builder would be best for ever, or a comment stop every search."""
    first = read(tmp_path)
    assert "model.build" in first
    assert "data.source" not in first, "rows have a digest of their own"
    for old, new in NO_CHANGES:
        assert old in MODULE
        assert read(tmp_path, MODULE.replace(old, new)) == first, new
    for old, new in CHANGES:
        assert old in MODULE
        assert read(tmp_path, MODULE.replace(old, new)) != first, new
    assert read(tmp_path, blocks=BLOCKS.replace("2 * x", "3 * x")) != first


class Asked:
    """A study, and whether it takes a study file with these changes."""

    def __init__(self) -> None:
        self.study = optuna.create_study()

    def __call__(self, changes: dict[str, Any], code: dict[str, str], **options: Any) -> dict[str, Any]:
        data: Any = SimpleNamespace(digest="a", cut="", task="binary", trivial={}, code=code)
        return check_data(self.study, resolve(definition(changes), **options), data)


def test_code_that_changed_stops_the_search_before_it_trains() -> None:
    """Earlier values would be compared with those of another model, and "every configuration has been tried"."""
    asked = Asked()
    asked({"model.width": 8}, {"model.build": "a", "fit.function": "a"})
    asked.study.add_trial(optuna.create_trial(value=1.0))
    same = {"model.build": "a", "fit.function": "a"}
    asked({"model.width": 8}, same)
    for changes, code, told in (
        ({"model.width": 8}, {**same, "model.build": "b"}, "the code of model.build changed"),
        ({"model.width": 8}, {**same, "fit.function": "b"}, "the code of fit.function changed"),
        ({"model.width": 16}, same, r"model.width \(8, now 16\) changed"),
        ({"model.width": 8, "fit.batch_size": None, "fit.shuffle": False}, same, r"fit.shuffle \(True, now False\)"),
        ({"model.width": 8, "fit.early_stopping": {"patience": 3}}, same, "fit.early_stopping"),
    ):
        wanted = {key: each for key, each in changes.items() if each is not None}
        with pytest.raises(StorageError, match=f"{told}.* --study-name NEW, or use --accept-new-code"):
            asked(wanted, code)
    with pytest.raises(
        StorageError, match=r"data.test_size \(0.3, now 0.4\), model.width .*--accept-new-data --accept-"
    ):
        asked({"model.width": 16, "data.test_size": 0.4}, same)
    asked({"model.width": 16}, same, accept_new_code=True)
    assert attributes.data_of(asked.study)["set"]["model.width"] == 16


def test_a_key_that_an_earlier_release_did_not_know_is_no_change() -> None:
    """Every study would stop with the release that adds a key to [data] or [fit], whose default changes nothing."""
    asked = Asked()
    now = {"fit.early_stopping": {"patience": 3}}
    known = asked(now, {})
    asked.study.add_trial(optuna.create_trial(value=1.0))
    stopping = {"patience": known["set"]["fit.early_stopping"]["patience"]}
    earlier = {
        **known,
        "set": {"fit.epochs": known["set"]["fit.epochs"], "fit.early_stopping": stopping},
        "split": {key: value for key, value in known["split"].items() if key not in ("data.time", "data.stratify")},
    }
    attributes.set_data(asked.study, earlier, 0)
    asked(now, {})
    attributes.set_data(asked.study, earlier, 0)
    with pytest.raises(StorageError, match=r"fit.shuffle \(True, now False\) changed"):
        asked({**now, "fit.shuffle": False}, {})
    with pytest.raises(StorageError, match=r"data.time \(None, now when\) changed"):
        asked({**now, "data.time": "when"}, {})


def test_a_space_that_grew_or_shrank_is_no_other_code() -> None:
    """A parameter could not be fixed once its best value is known, or be searched later."""
    asked, wide = Asked(), {"type": "int", "low": 1, "high": 8}
    asked({"model.width": 8}, {})
    asked.study.add_trial(optuna.create_trial(value=1.0))
    asked({"space.width": wide}, {})
    asked({"space.width": {**wide, "high": 16}, "space.depth": wide}, {})
    asked({"model.width": 4, "model.depth": 2}, {})
    asked({"model.width": 4, "model.depth": 2, "space.epochs": None, "fit.epochs": 2}, {})
    asked({"model.width": 4, "model.depth": 2, "space.epochs": None, "fit.epochs": 2, "fit.checkpoint": True}, {})
