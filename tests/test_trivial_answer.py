"""A search says how its best trial compares with the trivial answer, and what else would be registered in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from search import promotion
from search.errors import NoTrialCompleted, RegistryError
from search.handover.outcome import Outcome
from search.reporting.findings import findings_of
from search.reporting.interactive import page
from search.session import search
from search.study.create import load
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.terminal import Display, print_findings

Tiny = Callable[..., Definition]
STUCK = """
import keras

def build(trial, data):
    inputs, x = data.inputs()
    outputs = keras.layers.Dense(1, "sigmoid", bias_initializer=keras.initializers.Constant(9.0))(x)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=["accuracy"])
    return model
"""


def searched(folder: Path, definition: Definition, **request: Any) -> tuple[Outcome, list[str], list[Any]]:
    """Return what a search came to, what it said, and its progress."""
    said: list[str] = []
    progress: list[Any] = []
    request = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "workers": 1, "n_trials": 2, **request}
    return search(resolve(definition, **request), progress.append, said.append), said, progress


def test_a_model_worse_than_the_trivial_answer_is_told(
    folder: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of many bad trials would be registered without a word."""
    definition = tiny("stuck", "stuck.py:build", STUCK)
    outcome, _, _ = searched(folder, definition)
    assert outcome.best.trivial == pytest.approx(0.69, abs=0.05)
    assert not outcome.best.beats_trivial
    Display(definition, silent=False).outcome(outcome)
    said = capsys.readouterr().out
    line = f"Trial {outcome.best.number} is not better than the trivial answer, the same for every row: val_loss "
    assert line in said
    assert "* not better than the trivial answer" in said
    study = load("stuck", str(folder / "studies/stuck.journal"))
    print_findings(findings_of(study, definition, 5), definition, [], [])
    assert line in capsys.readouterr().out
    assert "Not better than the trivial answer: trials 0, 1." in page(study, definition)
    version = mlflow.MlflowClient().get_model_version("stuck", "1")
    assert line in str(version.description)


BATCHES = """
import keras

def gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))

def profit(y_true, y_pred):
    return float(((y_pred > 0.5) == y_true).mean())

def build(trial, data):
    inputs, x = data.inputs()
    bad = trial.params["width"] < 100
    bias = keras.initializers.Constant(9.0 if bad else 0.0)
    outputs = keras.layers.Dense(1, "sigmoid", bias_initializer=bias)(x)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.0 if bad else 0.3), gap)
    return model
"""


@pytest.mark.parametrize("metric", ["val_loss", "val_profit"])
def test_a_first_version_must_be_better_also_in_a_metric_that_rows_do_not_tell(
    folder: Path, tiny: Tiny, metric: str
) -> None:
    """A loss of whole batches, or a metric of one's own, would make any first version champion."""
    more = '\n[metrics]\nprofit = { function = "batches.py:profit" }\n[[enqueue]]\nwidth = {width}\n'
    for width, better in ((50, False), (150, True)):
        name = f"batches{width}"
        definition = tiny(name, "batches.py:build", BATCHES, more.replace("{width}", str(width)))
        direction = "maximize" if metric == "val_profit" else "minimize"
        definition = definition.model_copy(update={"metric": metric, "direction": direction})
        outcome, _, _ = searched(folder, definition, n_trials=1)
        assert outcome.best.beats_trivial is better
        decided = promotion.promote(name)
        assert decided.promoted is better, decided.reason
        told = "better than the trivial model: " + metric.removeprefix("val_")
        assert told in decided.reason
        assert "(no interval: the rows alone do not tell it)" in decided.reason
        assert decided.as_json()["verdict"]["interval"] is None


ROOTS = """
import keras
import numpy as np

def load():
    draw = np.random.default_rng(0)
    x = draw.random((90, 2)).astype("float32")
    y = (x[:, 0] > 0.5).astype("float32")
    x[63, 1] = -1.0
    return (x[:40], y[:40]), (x[40:60], y[40:60]), (x[60:], y[60:])

def build(trial, data):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.ops.sqrt(inputs)))
    model.compile("adam", "binary_crossentropy")
    return model
"""


def test_a_test_value_that_is_no_number_is_told_and_gets_no_alias(
    folder: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version of a model whose test loss is NaN would become challenger, and champion as the first."""
    definition = tiny("roots", "roots.py:build", ROOTS)
    data = definition.data.model_copy(update={"source": "roots.py:load", "options": {}})
    outcome, _, _ = searched(folder, definition.model_copy(update={"data": data}), n_trials=1)
    Display(definition, silent=False).outcome(outcome)
    said = " ".join(capsys.readouterr().out.split())
    assert "Trial 0 on the test part: test_loss is nan" in said
    assert "without an alias: its test value is no number: test_loss is nan" in said
    assert outcome.model is not None
    assert outcome.model.aliases == ()
    with pytest.raises(RegistryError, match="no version with alias 'challenger'"):
        promotion.promote("roots")
    decided = promotion.promote("roots", version="1")
    assert decided.refused
    assert "version 1 has no alias: its test value is no number" in decided.reason
    assert mlflow.MlflowClient().get_model_version("roots", "1").aliases == []


def test_a_better_one_is_told_with_it_and_a_wrong_direction_before_training(
    folder: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value could not be judged; and a mistaken direction would register the worst model."""
    definition = tiny("good").model_copy(update={"direction": "maximize"})
    outcome, said, _ = searched(folder, definition, n_trials=1, register=False)
    assert 'warning: direction = "maximize" makes the worst val_loss the best; use direction = "minimize"' in said
    assert outcome.best.trivial is not None
    Display(definition, silent=False).outcome(outcome)
    assert "the trivial answer, the same for every row" in capsys.readouterr().out.lower()


def test_every_trial_outside_the_constraints_is_told(folder: Path, tiny: Tiny) -> None:
    """Three trials completed, and the message would say that none did: 0 pruned, 0 failed."""
    definition = tiny("tight", more='\n[search]\nconstraints = ["parameters <= 1"]\n')
    with pytest.raises(NoTrialCompleted, match=r"meets the constraints \(parameters <= 1\): 2 trials completed, trial"):
        searched(folder, definition)


def test_progress_of_several_metrics_names_the_trial_that_would_be_registered(folder: Path, tiny: Tiny) -> None:
    """One value of two would be shown, and a best trial that is not the registered one."""
    definition = tiny("two")
    two = {"metric": ("val_loss", "parameters"), "direction": ("minimize", "minimize")}
    definition = definition.model_copy(update=two)
    outcome, _, progress = searched(folder, definition, n_trials=4, register=False)
    assert progress[-1].best_number == outcome.best.number
    assert progress[-1].best_values == outcome.best.values
    ended = [each for each in progress if each.state == "complete"]
    assert all(len(each.values) == 2 for each in ended)
    line = Display(definition, silent=False)._line(ended[-1])
    assert all(metric in line for metric in two["metric"])
