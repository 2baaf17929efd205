"""Writes docs/mistakes.md, the line that each typical mistake prints, from real runs: `python -m tests.docs.mistakes`.

A run reads the study, checks it, loads the data and builds the first model, as `search.run` does before it creates
anything, in this process and so without the seconds that a command takes to start.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.errors import SearchError
from search.studyfile.load import load_definition
from search.studyfile.settings import resolve
from search.workers import early, worker

PAGE = Path(__file__).parents[2] / "docs" / "mistakes.md"
_HEAD = """# Mistakes and what they print

Each mistake is told in one line that names the place: a key of the study file, an option, or the file and line of
your own code, with what was found and what would be right. The exit status is 2 and nothing was created. `--debug`
adds the traceback. In Python the line is the text of an exception of `search.errors`; in a notebook it stands
alone, and `%tb` or `error.full_traceback()` shows the traceback. A trial that fails later is told in the same way
in the terminal, in its run's tag `reason` and in the run's description, with the traceback in `traceback.txt`;
four trials that fail for one reason before any has completed end the search.

The lines are those of real runs (`python -m tests.docs.mistakes` writes this page).
"""
STUDY = """
name = "study"
metric = "val_loss"
direction = "minimize"

[data]
source = "sklearn:load_iris"

[model]
build = "mlp"

[fit]
epochs = 1

[space]
width = { type = "int", low = 8, high = 64 }
"""
MINE = """
import keras
import numpy as np


def build(trial, data):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(trial.params["width"], activation="relu")(inputs)
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def rows():
    x = np.random.default_rng(0).normal(size=(60, 4))
    return x, np.arange(60) % 3
"""
_OWN = {'"mlp"': '"mine.py:build"'}
_ROWS = {'"sklearn:load_iris"': '"mine.py:rows"'}
_CSV = {'"sklearn:load_iris"': '"csv:table.csv"\ntarget = "price"'}
_LAYER = "class Half(keras.layers.Layer):\n    def call(self, x):\n        return x / self.by"
_TABLE = "size,price\n" + "".join(f"{n},{3 * n}\n" for n in range(40))


@dataclass(frozen=True)
class Mistake:
    """A mistake in a study that works otherwise.

    Attributes:
        what: It, in words.
        study: What stands in the study file instead of what.
        code: Likewise in `mine.py`.
        files: Further files by name.
        options: The command's options.
    """

    what: str
    study: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def _own(what: str, before: str, after: str, **more: Any) -> Mistake:
    """Return a mistake in the user's builder."""
    return Mistake(what, _OWN, {before: after}, **more)


def _data(what: str, after: str) -> Mistake:
    """Return a mistake in what the user's data function returns; the builder is the user's own too."""
    return Mistake(what, {**_OWN, **_ROWS}, {"return x, np.arange(60) % 3": after})


MISTAKES: Mapping[str, tuple[Mistake, ...]] = {
    "The study file": (
        Mistake("two misspelt keys at once", {"metric": "metrc", "direction": "dirction"}),
        Mistake("a string that is not closed", {'"val_loss"': '"val_loss'}),
        Mistake("a direction of another library", {'"minimize"': '"min"'}),
        Mistake("a metric that no log has", {'"val_loss"': '"val_acuracy"'}),
        Mistake("low above high", {"low = 8": "low = 80"}),
        Mistake("a negative width", {"low = 8": "low = -8"}),
        Mistake("no epochs", {"epochs = 1": "epochs = 0"}),
        Mistake(
            "choices without one", {'{ type = "int", low = 8, high = 64 }': '{ type = "categorical", choices = [] }'}
        ),
        Mistake("a type of another library", {'"int"': '"integer"'}),
        Mistake("a parameter that the built-in model lacks", {"width =": "widht ="}),
        Mistake("an unknown optimizer", {'build = "mlp"': 'build = "mlp"\noptimizer = "admn"'}),
        Mistake("an unknown sampler", {"[space]": '[search]\nsampler = "bayes"\n\n[space]'}),
        Mistake("more GPUs than the machine has", {"epochs = 1": "epochs = 1\ngpus = 2"}),
    ),
    "The data": (
        Mistake("no such file", _CSV),
        Mistake("a misspelt target column", {**_CSV, '"price"': '"prize"'}, files={"table.csv": _TABLE}),
        Mistake("a file without rows", _CSV, files={"table.csv": "size,price\n"}),
        Mistake("a target with a gap", _CSV, files={"table.csv": f"{_TABLE}40,\n"}),
        Mistake("a misspelt loader", {"load_iris": "load_irsi"}),
        Mistake("a column misspelt in the data function", _ROWS, {"return x, ": 'return {"x": x}["X"], '}),
        _data("no return", "pass"),
        _data("x and y of different lengths", "return x, np.arange(50) % 3"),
        _data("three arrays that are no weights", "return x[:40], x[40:], np.arange(60) % 3"),
        _data("a generator that ends at once", "return iter(())"),
        _data("dates as y", 'return x, np.arange(60).astype("datetime64[D]")'),
        _data("y of the wrong shape", "return x, np.zeros((60, 2))"),
    ),
    "The model": (
        Mistake("no such file", {'"mlp"': '"model.py:build"'}),
        _own("a misspelt function", "def build", "def biuld"),
        _own("a bracket that is not closed", "def build(trial, data)", "def build(trial, data"),
        _own("a package that is not installed", "import numpy", "import torchvision_x\nimport numpy"),
        _own(
            "a circular import",
            "import numpy",
            "from parts import block\nimport numpy",
            files={"parts.py": "from mine import build\n\n\ndef block(): ...\n"},
        ),
        _own("a misspelt parameter", 'params["width"]', 'params["widht"]'),
        _own("a misspelt layer", "keras.layers.Dense(3", "keras.layers.Dens(3"),
        _own("a misspelt variable", "model.compile", "modle.compile"),
        _own("a misspelt argument", "Dense(3, activation", "Dense(3, activaton"),
        _own("an unknown activation", '"softmax"', '"sofmax"'),
        _own("a misspelt loss", '"sparse_categorical_crossentropy"', '"sparse_categorical_crossentrop"'),
        _own("a misspelt metric", '["accuracy"]', '["acuracy"]'),
        _own("a loss for another kind of y", '"sparse_categorical_crossentropy"', '"categorical_crossentropy"'),
        _own("an input of another shape", "Input((4,))", "Input((5,))"),
        _own("no return", "return model", "pass"),
        _own("no compile", '    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])\n', ""),
        _own("one parameter too few", "def build(trial, data)", "def build(trial)"),
        _own(
            "one model for all trials",
            "def build(trial, data):",
            "MODELS = []\n\n\ndef build(trial, data):\n    if not MODELS:\n        MODELS.append(made(trial, data))\n"
            "    return MODELS[0]\n\n\ndef made(trial, data):",
        ),
        Mistake(
            "an error in a layer's call",
            _OWN,
            {
                "def build": f"{_LAYER}\n\n\ndef build",
                '(3, activation="softmax")(hidden)': '(3, activation="softmax")(Half()(hidden))',
            },
        ),
    ),
    "Callbacks, metrics, fit": (
        Mistake("a misspelt callback", {"epochs = 1": 'epochs = 1\ncallbacks = ["EarlyStoping"]'}),
        Mistake(
            "one callback, no list",
            {**_OWN, "epochs = 1": 'epochs = 1\ncallbacks = "mine.py:calls"'},
            {"def rows": "def calls(trial, data):\n    return keras.callbacks.TerminateOnNaN()\n\n\ndef rows"},
        ),
        Mistake(
            "a misspelt metric function",
            {"[fit]": '[metrics]\nf2 = { function = "sklearn.metrics:fbeta_scor" }\n\n[fit]'},
        ),
        Mistake(
            "a fit function without parameters",
            {**_OWN, "epochs = 1": 'epochs = 1\nfunction = "mine.py:fit"'},
            {"def rows": "def fit(model):\n    pass\n\n\ndef rows"},
        ),
    ),
    "The command": (
        Mistake("an unknown storage", options={"storage": "postgres://ann:s3cret@host/studies"}),
        Mistake("a storage without its driver", options={"storage": "mysql://host/studies"}),
        Mistake("--resume with nothing to resume", options={"resume": True}),
        Mistake("no trials", options={"n_trials": 0}),
    ),
}


def told(mistake: Mistake, folder: Path) -> str:
    """Return the line that a mistake prints; empty where there is none. The study is written to an empty folder."""
    study, code = STUDY, MINE
    for before, after in mistake.study.items():
        assert before in study, before
        study = study.replace(before, after)
    for before, after in mistake.code.items():
        assert before in code, before
        code = code.replace(before, after)
    for name, text in {"study.toml": study, "mine.py": code, **mistake.files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    with chdir(folder):
        try:
            settings = resolve(load_definition(Path("study.toml")), **mistake.options)
            early.check(settings)
            worker.try_out(worker.Job(settings.located()))
        except SearchError as error:
            return f"error: {error}".replace(f"{folder}{os.sep}", "")
    return ""


def page() -> str:
    """Return the page."""
    lines = [_HEAD]
    for about, mistakes in MISTAKES.items():
        lines += [f"## {about}", "", "| mistake | line |", "| --- | --- |"]
        for each in mistakes:
            with tempfile.TemporaryDirectory() as folder:
                line = told(each, Path(folder).resolve())
            lines.append(f"| {each.what} | `{line.replace('|', chr(92) + '|').replace('`', chr(39))}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
