"""Whole trials of several trainings: folds, repeats and refit, each compared with Keras's `fit` on the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import keras
import numpy as np

from search.data.dataset import Data
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.training import trial
from search.training.fit import PLAIN
from search.training.model import mlp
from search.training.training import Training
from tests.exact import compare
from tests.exact.bodies import Values
from tests.exact.changes import Changes
from tests.exact.kinds import HELD_OUT, Drawn

FORMS = ("folds", "repeats", "refit")
_SEED = 7  # of the study
_now: list[tuple[Drawn, Values]] = []  # what `build` makes


def build(trial: Any, data: Data) -> keras.Model:
    """Return the model of the comparison that is going on."""
    drawn, values = _now[-1]
    return compare.made(drawn, values)


def callbacks(trial: Any, data: Data) -> list[keras.callbacks.Callback]:
    """Return the callbacks of the comparison that is going on."""
    return _now[-1][0].callbacks()


def differs(drawn: Drawn, values: Values, form: str, folder: Path, within: float) -> str | None:
    """Return how the trainings of a trial differ from Keras's; None where the trial is not for comparing.

    A refit has no validation part, and its callbacks are told the training's logs instead: one that changes something
    while the validation part is tested would change it in another epoch.
    """
    if any(isinstance(each, Changes) and each.hook.startswith("on_test") for each in drawn.callbacks()):
        return None
    definition, data = _definition(drawn, values, form, folder), _data(drawn.data, form)
    asked = trial.RetrainedTrial({"epochs": drawn.settings["epochs"]}, number=drawn.seed)
    trained: list[list[Any]] = []  # the variables of each model

    class Noted(Training):
        def _fit(self, *args: Any) -> None:
            super()._fit(*args)
            trained.append(compare.variables(self.model))  # measuring averaged weights moves seeds on

    _now[:] = [(drawn, values)]
    with mock.patch.object(trial, "Training", Noted), compare.settings_restored():
        found = trial.run(
            definition, data, asked, seed=_SEED, is_kept=lambda _: form == "refit", on_epochs=lambda _: None
        )
    parts = list(trial._Trainings(definition, asked, _SEED, lambda _: None, None)._parts(data))
    if form in ("folds", "refit"):
        parts.append(("refit", data.refit(), trial.seed_of(_SEED, asked.number)))
    if len(trained) < len(parts) or found.path == PLAIN or " is nan " in found.reason or " is inf " in found.reason:
        return None
    for (name, part, seed), variables in zip(parts, trained, strict=True):
        logs = [_of(name, epoch.logs) for epoch in found.epochs]
        mine = compare.Outcome([each for each in logs if each], variables)
        epochs = int(found.metrics["refit_epochs"]) if name == "refit" else drawn.settings["epochs"]
        settings = {**drawn.settings, "seed": seed, "epochs": epochs}
        one = replace(drawn, data=part, settings=settings, make=_maker(drawn, part))
        different = mine.differs(compare.by_keras(one, values, found.path, seed), within)
        if different:
            return f"{name or 'the only training'}: {different}"
    return ""


def _of(part: str, logs: dict[str, float]) -> dict[str, float]:
    """Return the logs of a part in those of an epoch."""
    if not part:
        return {} if any("/" in name for name in logs) else logs
    begin = part + "/"
    return {name.removeprefix(begin): value for name, value in logs.items() if name.startswith(begin)}


def _maker(drawn: Drawn, data: Data) -> Any:
    """Return what makes a model: the built-in one looks at its data."""
    params = drawn.mlp
    return drawn.make if params is None else lambda values: mlp(SimpleNamespace(params={}), data, **params(values))


def _data(data: Data, form: str) -> Data:
    if form != "folds":
        return data
    rest = data.train if data.validation is None else data.train.joined(data.validation)
    rows, half = np.arange(len(rest)), 2 * HELD_OUT
    folds = ((rows[half:], rows[:half]), (rows[:half], rows[half:]))
    return replace(data, folds=folds, rest=rest, _fitted=[])


def _definition(drawn: Drawn, values: Values, form: str, folder: Path) -> Definition:
    settings = dict(drawn.settings)
    fit = {name: settings[name] for name in ("batch_size", "validation_freq", "shuffle") if name in settings}
    fit |= {"precision": drawn.policy}
    if "class_weight" in settings:
        fit["class_weight"] = {str(label): weight for label, weight in settings["class_weight"].items()}
    model = {"build": "mlp", **drawn.mlp(values)} if drawn.mlp else {"build": f"{__name__}:build"}
    fit |= {} if drawn.mlp else {"callbacks": f"{__name__}:callbacks"}
    content: dict[str, Any] = {
        "name": "exact",
        "metric": "loss",
        "direction": "minimize",
        "data": {"source": "sklearn:make_blobs"},
        "model": model,
        "fit": fit,
        "search": {"refit": form == "refit", "repeats": 2 if form == "repeats" else 1},
        "space": {"epochs": {"type": "int", "low": 1, "high": 9}},
    }
    return parse_definition(content, folder / "exact.toml")
