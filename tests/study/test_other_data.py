"""Values that were measured on other rows, or otherwise, are not compared with new ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from search.data.loading import load
from search.errors import StorageError
from search.study import attributes
from search.study.comparable import check_data
from search.studyfile.settings import resolve
from tests.studyfiles import definition

MODULE = """
import keras
import numpy as np
import pandas as pd

draw = np.random.default_rng(0)
X, Y, SHIFT, CUT = draw.normal(size=(60, 3)).astype("float32"), draw.integers(0, 2, 60), {shift}, {cut}

class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
    def __len__(self):
        return len(self.x) // 8
    def __getitem__(self, index):
        return self.x[8 * index : 8 * index + 8], self.y[8 * index : 8 * index + 8]

def later():
    return X + np.float32(SHIFT) * (np.arange(60) > 20).astype("float32")[:, None], Y

def two_parts():
    return (X[:CUT], Y[:CUT]), (X[CUT:], Y[CUT:])

def named():
    return dict(train=(X[:CUT], Y[:CUT]), validation=(X[CUT:], Y[CUT:]))

def one_stream():
    return dict(train=Batches(*later()), validation=Batches(X, Y))

def rows_beside_a_stream():
    return dict(train=Batches(X, Y), validation=(X + SHIFT, Y))

def two_streams():
    return dict(train=Batches(X, Y), validation=Batches(X + SHIFT, Y))

def swapped():
    return X, X[:, ::-1] if SHIFT else X

def frame():
    return pd.DataFrame(X, columns=list("bac" if SHIFT else "abc")), Y

def kind_of_target():
    return X, Y.astype("float32" if SHIFT else "int64")

def order():
    return (X[::-1], Y[::-1]) if SHIFT else (X, Y)
"""

BUILDER = "def build(trial, data): ..."


class Measured:
    """A study of one trial, and whether it takes other data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.study = folder, optuna.create_study()

    def __call__(self, changes: dict[str, Any], **module: Any) -> None:
        """Check the data of a study file with these changes, read from a module with these values."""
        name = f"rows_{len(list(self.folder.iterdir()))}"
        (self.folder / f"{name}.py").write_text(MODULE.format(**{"shift": 0, "cut": 40, **module}))
        (self.folder / "built.py").write_text(BUILDER)
        source = changes.pop("data.source", "later")
        wanted = definition(
            {"data.source": f"{name}.py:{source}", "data.options": {}, "model.build": "built.py:build", **changes},
            folder=self.folder,
        )
        data = load(wanted)
        known: Any = SimpleNamespace(digest=data.digest, cut=data.cut, task=data.task, trivial={}, code={})
        check_data(self.study, resolve(wanted), known)


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    return Measured(tmp_path)


@pytest.mark.parametrize(
    ("source", "module", "told"),
    [
        ("later", {"shift": 1e-6}, "the rows"),
        ("two_parts", {"cut": 30}, r"the parts that the data come in \(40 train, 20 test, now 30 train, 30 test\)"),
        ("one_stream", {"shift": 1}, "the parts that the data come in"),
        ("rows_beside_a_stream", {"shift": 1}, "the parts that the data come in"),
        ("two_streams", {"shift": 1}, "the parts that the data come in"),
        ("swapped", {"shift": 1}, "the rows"),
        ("frame", {"shift": 1}, "the rows"),
        ("kind_of_target", {"shift": 1}, "the rows"),
        ("order", {"shift": 1}, "the rows"),
    ],
)
def test_other_rows_or_parts_are_refused(measured: Measured, source: str, module: dict[str, Any], told: str) -> None:
    """Yesterday's best value, of other validation rows, would stay best, and prune today's trials."""
    measured({"data.source": source})
    measured.study.add_trial(optuna.create_trial(value=1.0))
    measured({"data.source": source})
    with pytest.raises(StorageError, match=f"{told}.* changed since its earlier trials"):
        measured({"data.source": source}, **module)


def test_what_decides_how_a_value_is_measured_is_no_other(measured: Measured) -> None:
    """A recall would be compared with a precision of the same name, or a squared error with a cross-entropy."""
    own = {"metric": "val_f", "metrics.f": {"function": "sklearn.metrics:fbeta_score", "options": {"beta": 1}}}
    measured(own)
    measured.study.add_trial(optuna.create_trial(value=1.0))
    beta = {**own, "metrics.f": {"function": "sklearn.metrics:fbeta_score", "options": {"beta": 2}}}
    for changes, told in (
        (beta, r"metrics.f \(.*'beta': 1.*, now .*'beta': 2"),
        ({**own, "data.task": "regression"}, r"data.task \(binary, now regression\)"),
        ({**own, "fit.validation_steps": 3}, r"fit.validation_steps \(None, now 3\)"),
        ({**own, "data.test_size": 0.4}, r"data.test_size \(0.3, now 0.4\)"),
        ({**own, "data.source": "named"}, r"the parts that the data come in \(one, now 40 train, 20 validation\)"),
    ):
        with pytest.raises(StorageError, match=f"{told}.* changed since its earlier trials"):
            measured(dict(changes))
    measured({**own, "metrics.g": own["metrics.f"]})  # by which nothing is chosen


def test_a_study_of_an_earlier_release_goes_on(measured: Measured) -> None:
    """Every study would have to begin anew with a new release, which writes more of what values depend on."""
    measured({})
    kept = attributes.data_of(measured.study)
    split = {key.removeprefix("data."): value for key, value in kept["split"].items() if key != "data.task"}
    attributes.set_data(measured.study, {"rows": kept["rows"], "split": split}, 0)
    measured.study.add_trial(optuna.create_trial(value=1.0))
    measured({})
    assert attributes.data_of(measured.study) == kept
