"""A model that is trained anew on each day's rows: ten days of a world that drifts, and what its history says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search import promotion
from search.session import search
from search.study import attributes
from search.study.create import load
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve


def write_day(file: Path, day: int) -> None:
    """Write the rows of a day: the border between the classes turns by 10 degrees a day."""
    draw = np.random.default_rng(day)
    x, turned = draw.normal(size=(80, 2)).astype("float32"), np.deg2rad(10 * day)
    np.savez(file, x=x, y=(x @ [np.cos(turned), np.sin(turned)] > 0).astype(int))


@pytest.mark.parametrize("days", [3, pytest.param(10, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])])
def test_days_of_a_world_that_drifts(folder: Path, tiny: Callable[..., Definition], days: int) -> None:
    """The same three configurations would be trained every day, and nobody would say what was taken over."""
    (folder / "studies").mkdir()
    write_day(folder / "studies" / "day.npz", 0)
    definition = tiny("loop")
    data = definition.data.model_copy(update={"source": "npz:day.npz", "options": {}})
    definition = definition.model_copy(update={"data": data})
    history, trained, firsts, trivial, promoted = [], [], [], [], []
    for day in range(days):
        write_day(folder / "studies" / "day.npz", day)
        said: list[str] = []
        request = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "workers": 1, "n_trials": 3}
        settings = resolve(definition, accept_new_data=True, **request)
        before = load("loop", str(folder / "studies/loop.journal")).get_trials() if day else []
        outcome = search(settings, lambda _: None, said.append)
        trials = load("loop", str(folder / "studies/loop.journal")).get_trials()[len(before) :]
        told = [each for each in said if "the data or the code changed" in each]
        decided = promotion.promote("loop")
        history.append(f"day {day}: {told[0] if told else 'the first'}; {decided.reason}")
        assert outcome.best.number in [each.number for each in trials]
        trivial += [outcome.best.trivial] * len(trials)
        promoted += [(decided.version, decided.reason)] if decided.promoted else []
        trained.append([each.params["width"] for each in trials])
        if day:
            assert len(told) == 1
            assert "not compared any more: 3 earlier trials" in told[0]
            firsts.append(trials[0].params == before[int(told[0].split("trials ")[-1].split()[0].strip(","))].params)
            assert "(the champion)" in told[0]
    print("\n".join(history))
    study = load("loop", str(folder / "studies/loop.journal"))
    assert [attributes.trivial_of(study, each).get("val_loss") for each in study.get_trials()] == trivial
    moved = promotion.moves("loop")
    assert [(each.version, each.reason) for each in moved] == promoted
    assert moved[0].reason.startswith("there was no champion before")
    assert all(firsts), "the champion's configuration is the first on new rows"
    assert len({width for each in trained for width in each}) >= days + 2
    assert len({tuple(each) for each in trained}) == days


CHANGES = """
import os
import keras

def build(trial, data):
    if trial.number == 1:
        with open(ROWS, "a") as file:
            file.write("0.5,1\\n" * 20)
        os._exit(1)
    inputs, x = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(x))
    model.compile("adam", "binary_crossentropy")
    return model
"""


def test_rows_that_change_while_a_search_runs_end_it(folder: Path, tiny: Callable[..., Definition]) -> None:
    """Trials of old and new rows would be ranked together: a worker that starts again reads the file again."""
    rows = folder / "studies" / "rows.csv"
    definition = tiny("turns", "turns.py:build", f"ROWS = {str(rows)!r}\n{CHANGES}")
    rows.write_text("x,y\n" + "0.1,0\n0.9,1\n0.3,0\n" * 20)
    data = definition.data.model_copy(update={"source": "csv:rows.csv", "options": {}, "target": "y"})
    definition = definition.model_copy(update={"data": data})
    request = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "workers": 1, "n_trials": 4}
    outcome = search(resolve(definition, **request), lambda _: None)
    assert "the rows of csv:rows.csv changed while the search ran; put them back" in outcome.stopped
    assert outcome.n_trials["complete"] == 1
    assert outcome.best.number == 0
