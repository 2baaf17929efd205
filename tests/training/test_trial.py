"""One trial: what it is worth, what it hands over, and how it ends."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
import pytest

from search import graphs
from search.comparison.predictions import Predictions
from search.data import streams
from search.data.dataset import Data, Part
from search.data.loading import TrialData, load
from search.data.summary import TensorSpec
from search.errors import DataError, ModelError, StudyFileError, TrialFailed
from search.study import space
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition, LearningRateSchedule
from search.training import callbacks, metrics, trial
from search.training.dry_run import dry_run
from search.training.fit import PLAIN, WHOLE_EPOCHS, evaluate
from search.training.probes import probes
from search.training.result import Epoch, TrialResult
from tests.conftest import command

# Keras 3.15 converts TensorFlow variables the way NumPy 1 liked.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

BLOBS = {"n_samples": 90, "n_features": 2, "centers": [[-1.0, 0.0], [1.0, 0.0]], "random_state": 0}


def study_of(folder: Path, code: str = "", **tables: Any) -> Definition:
    """Return a tiny study; `code` becomes the file user.py beside it."""
    content: dict[str, Any] = {
        "name": "tiny",
        "metric": "val_loss",
        "direction": "minimize",
        "data": {"source": "sklearn:make_blobs", "options": BLOBS, "validation_size": 0.25, "seed": 1},
        "model": {"width": 4},
        "fit": {"epochs": 3, "batch_size": 16},
        "space": {"learning_rate": {"type": "float", "low": 0.01, "high": 0.02}},
    }
    for name, table in tables.items():
        own_builder = name == "model" and "build" in table
        both = isinstance(table, dict) and isinstance(content.get(name), dict) and not own_builder
        content[name] = {**content[name], **table} if both else table
    (folder / "user.py").write_text(code)
    sys.modules.pop("user", None)  # each test's file is another
    return parse_definition(content, folder / "tiny.toml")


def ask(definition: Definition, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Trial:
    """Return the first trial of a study that is kept nowhere."""
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=pruner or optuna.pruners.NopPruner(),
        directions=list(definition.directions),
    )
    return study.ask(space.distributions(definition))


class Run:
    """A trial's result, and what was asked and told meanwhile."""

    def __init__(
        self,
        definition: Definition,
        pruner: optuna.pruners.BasePruner | None = None,
        data: Data | None = None,
        best: bool = True,
        asked: optuna.Trial | None = None,
    ) -> None:
        self.data = data or load(definition)
        self.trial = asked or ask(definition, pruner)
        self.reports = 0
        self.result = trial.run(
            definition, self.data, self.trial, seed=7, is_kept=lambda values: best, on_epochs=self._report
        )

    def _report(self, epochs: list[Epoch]) -> None:
        self.reports = len(epochs)

    def model(self, folder: Path, *, compile: bool = True) -> keras.Model:  # noqa: A002 - Keras's own word
        """Return the model that was handed over, loaded from its archive."""
        assert self.result.model is not None, self.result.reason
        (folder / "handed.keras").write_bytes(self.result.model)
        model: keras.Model = keras.saving.load_model(folder / "handed.keras", compile=compile)
        return model


class PruneAt(optuna.pruners.BasePruner):
    """Prunes every trial that has reported this many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return len(trial.intermediate_values) >= self.steps


def last(result: TrialResult) -> dict[str, float]:
    return result.epochs[-1].logs


def test_a_complete_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, curves, test metrics and the model handed over would not belong together."""
    monkeypatch.setattr(graphs, "_graphs", OrderedDict())
    run = Run(study_of(tmp_path))
    result = run.result
    assert (result.fate, result.reason) == ("complete", "")
    assert result.values == (last(result)["val_loss"],)
    assert [epoch.step for epoch in result.epochs] == [0, 1, 2]
    assert run.reports == 3
    assert result.metrics["parameters"] == 2 * 4 + 4 + 4 + 1
    assert result.metrics["train_seconds"] > 0
    assert "latency_ms" not in result.metrics
    tested = evaluate(run.model(tmp_path), run.data.test)
    assert result.metrics["test_loss"] == pytest.approx(tested["loss"], rel=1e-6)
    assert result.training["optimizer"]["name"].startswith("adam")
    assert result.training["fit"]["epochs"] == 3
    assert "dense" in result.summary
    assert result.path == WHOLE_EPOCHS


def test_the_same_seed_gives_the_same_losses_in_another_process(tmp_path: Path) -> None:
    """Nobody could reproduce a trial, and a search would depend on which worker trained what."""
    definition = study_of(tmp_path, model={"width": 4, "dropout": 0.3})
    here = Run(definition).result
    Run(definition, asked=ask(definition).study.ask(space.distributions(definition)))  # draws in between
    assert Run(definition).result.values == here.values
    code = (
        "from pathlib import Path; from tests.training.test_trial import Run, study_of;"
        f"r = Run(study_of(Path({str(tmp_path)!r}), model={{'width': 4, 'dropout': 0.3}})).result;"
        "print(repr([e.logs['loss'] for e in r.epochs]))"
    )
    there = command("-c", code, cwd=Path(__file__).parents[2])
    assert there.returncode == 0, there.stderr
    assert there.stdout.splitlines()[-1] == repr([epoch.logs["loss"] for epoch in here.epochs])


OVERFITS = """
import keras
class Worse(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = abs(epoch - 2) + 1.0
"""


def test_early_stopping_is_scored_at_the_restored_epoch(tmp_path: Path) -> None:
    """A trial's value would belong to other weights than the model that is handed over."""
    fit = {"epochs": 9, "early_stopping": {"patience": 2}, "callbacks": ["user.py:Worse"]}
    run = Run(study_of(tmp_path, OVERFITS, fit=fit, metric=["val_loss"], direction=["minimize"]))
    assert len(run.result.epochs) == 5
    assert run.result.values == (1.0,)
    validated = evaluate(run.model(tmp_path), run.data.validation)
    assert validated["binary_accuracy"] == pytest.approx(run.result.epochs[2].logs["val_binary_accuracy"])
    kept = run.result.epochs[2].logs
    assert {name: run.result.metrics[name] for name in kept} == kept  # what MLflow shows is the restored epoch's
    assert run.result.metrics["best_epoch"] == 2
    assert run.result.step == 5  # one step more than the curves, as MLflow's autologging records a restored epoch


@pytest.mark.parametrize(
    ("fit", "epochs", "best"),
    [
        ({"epochs": 4, "early_stopping": {"patience": 5}, "callbacks": ["user.py:Worse"]}, 4, 1.0),
        ({"epochs": 3, "early_stopping": {"patience": 1, "start_from_epoch": 8}}, 3, None),
    ],
    ids=["ran to the end", "never began"],
)
def test_early_stopping_that_stopped_nothing(
    tmp_path: Path, fit: dict[str, Any], epochs: int, best: float | None
) -> None:
    """The value would be the last epoch's although Keras restores the best one's weights, or the first one's."""
    result = Run(study_of(tmp_path, OVERFITS, fit=fit)).result
    assert (len(result.epochs), result.values) == (epochs, (best or last(result)["val_loss"],))


def test_the_users_own_early_stopping_counts_too(tmp_path: Path) -> None:
    """A callback of the user's that restores weights would hand over a model worth another value."""
    code = OVERFITS + (
        "def stop():\n"
        "    return keras.callbacks.EarlyStopping('val_loss', patience=1, mode='min', restore_best_weights=True)\n"
    )
    fit = {"epochs": 6, "callbacks": ["user.py:Worse", "user.py:stop"]}
    result = Run(study_of(tmp_path, code, fit=fit)).result
    assert (len(result.epochs), result.values) == (4, (1.0,))


def test_a_callback_that_puts_weights_back_is_scored_with_those(tmp_path: Path) -> None:
    """A callback of the user's restores at an epoch's end, after validation: the value would be of other weights."""
    code = (
        "import keras\n"
        "class Back(keras.callbacks.Callback):\n"
        "    def on_epoch_end(self, epoch, logs=None):\n"
        "        if epoch == 0:\n"
        "            self.first = self.model.get_weights()\n"
        "        self.model.set_weights(self.first)\n"
    )
    run = Run(study_of(tmp_path, code, fit={"epochs": 3, "callbacks": ["user.py:Back"]}))
    validated = evaluate(run.model(tmp_path), run.data.validation)
    assert run.result.values == (pytest.approx(validated["loss"], rel=1e-5),)
    assert run.result.recorded["val_loss"] == run.result.values[0] != last(run.result)["val_loss"]


def test_a_fit_function_that_restores_by_itself_is_scored_at_the_restored_epoch(tmp_path: Path) -> None:
    """It stops early without the search's callbacks: the value would be its last epoch's, the model its best one's."""
    code = (
        "import keras\n"
        "class Worse(keras.callbacks.Callback):\n"
        "    def on_epoch_begin(self, epoch, logs=None):\n"
        "        self.model.optimizer.learning_rate = 0.1 if epoch < 2 else 5.0\n"
        "def fit(trial, model, data, epochs, batch_size):\n"
        "    stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)\n"
        "    held_out = (data.validation.x, data.validation.y)\n"
        "    done = model.fit(data.train.x, data.train.y, validation_data=held_out, epochs=epochs, verbose=0,\n"
        "                     callbacks=[Worse(), stop])\n"
        "    return done\n"
    )
    run = Run(study_of(tmp_path, code, fit={"epochs": 6, "function": "user.py:fit"}))
    best = min(range(len(run.result.epochs)), key=lambda at: run.result.epochs[at].logs["val_loss"])
    assert best < len(run.result.epochs) - 1
    assert run.result.values == (run.result.epochs[best].logs["val_loss"],)
    assert run.result.metrics["best_epoch"] == best
    validated = evaluate(run.model(tmp_path), run.data.validation)
    assert run.result.values == (pytest.approx(validated["loss"], rel=1e-4),)


def test_repeats_compare_on_the_mean_and_hand_over_the_best(tmp_path: Path) -> None:
    """One lucky seed would win, or the test metrics would be another model's."""
    run = Run(study_of(tmp_path, search={"repeats": 3}))
    metrics = run.result.metrics
    each = [metrics[f"val_loss_repeat_{index}"] for index in range(3)]
    assert len(set(each)) == 3
    assert run.result.values == (pytest.approx(np.mean(each)),)
    assert metrics["val_loss"] == pytest.approx(np.mean(each))
    assert metrics["val_loss_std"] == pytest.approx(np.std(each))
    assert [epoch.step for epoch in run.result.epochs] == [0, 1, 2] * 3
    assert "repeat_0/val_loss" in run.result.epochs[0].logs, "each has curves of its own"
    assert "repeat_2/val_loss" in last(run.result)
    model = run.model(tmp_path)
    assert evaluate(model, run.data.validation)["loss"] == pytest.approx(min(each), rel=1e-6)
    assert metrics["test_loss"] == pytest.approx(evaluate(model, run.data.test)["loss"], rel=1e-6)


def test_a_hopeless_repeat_is_pruned_after_the_first(tmp_path: Path) -> None:
    """A bad configuration would cost three trainings; or be pruned by an epoch of another training."""
    run = Run(study_of(tmp_path, search={"repeats": 3}), PruneAt(1))
    assert run.result.fate == "pruned"
    assert re.fullmatch(r"pruned after training 1: val_loss [\d.]+", run.result.reason)
    assert len(run.result.epochs) == 3
    assert "val_loss_repeat_0" in run.result.metrics


def test_repeats_that_are_all_done_are_not_pruned(tmp_path: Path) -> None:
    """A trial that has paid for everything would be thrown away."""
    run = Run(study_of(tmp_path, search={"repeats": 2}), PruneAt(2))
    assert run.result.fate == "complete"
    reported = run.trial.study.get_trials()[0].intermediate_values
    assert reported[1] == pytest.approx(run.result.values[0])


def test_the_wilcoxon_pruner_is_told_each_training(tmp_path: Path) -> None:
    """It would compare running means, which are no pairs, and prune by chance."""
    run = Run(study_of(tmp_path, fit={"epochs": 1}, search={"repeats": 2}), optuna.pruners.WilcoxonPruner())
    reported = run.trial.study.get_trials()[0].intermediate_values
    assert reported == {index: run.result.metrics[f"val_loss_repeat_{index}"] for index in range(2)}


def test_folds(tmp_path: Path) -> None:
    """The mean would hide a fold, or the model handed over would have seen only some of the rows."""
    fit = {"epochs": 8, "early_stopping": {"patience": 1}, "callbacks": ["user.py:Worse"]}
    run = Run(study_of(tmp_path, OVERFITS, fit=fit, data={"folds": 3}))
    result = run.result
    assert (result.fate, result.values) == ("complete", (1.0,))
    assert [result.metrics[f"val_loss_fold_{index}"] for index in range(3)] == [1.0, 1.0, 1.0]
    assert result.metrics["val_loss_std"] == 0.0
    assert result.metrics["refit_epochs"] == 3  # as long as the folds' best weights were trained
    assert [epoch.logs.keys() & {"fold_0/loss", "refit/loss"} for epoch in result.epochs] == [
        *[{"fold_0/loss"}] * 4,
        *[set()] * 8,
        *[{"refit/loss"}] * 3,
    ]
    tested = evaluate(run.model(tmp_path), run.data.test)
    assert result.metrics["test_loss"] == pytest.approx(tested["loss"], rel=1e-6)


def test_the_best_trial_is_refitted_on_the_validation_rows(tmp_path: Path) -> None:
    """The registered model would miss the rows it was chosen by, or be scored as another model."""
    fit = {"epochs": 8, "early_stopping": {"patience": 1}, "callbacks": ["user.py:Worse"]}
    definition = study_of(tmp_path, OVERFITS, fit=fit, search={"refit": True})
    run = Run(definition)
    assert run.result.metrics["refit_epochs"] == 3
    curves = [{name for name in epoch.logs if name.endswith("loss")} for epoch in run.result.epochs]
    assert curves == [*[{"loss", "val_loss"}] * 4, *[{"refit/loss"}] * 3]
    assert run.result.values == (run.result.recorded["val_loss"],) == (1.0,)  # measured before the refit
    data = run.data
    assert len(data.refit().train) == len(data.train) + len(data.validation)
    tested = evaluate(run.model(tmp_path), data.test)
    assert run.result.metrics["test_loss"] == pytest.approx(tested["loss"], rel=1e-6)
    assert "refit_epochs" not in Run(definition, best=False).result.metrics


@pytest.mark.parametrize(
    ("keep", "stopping", "epochs", "value"),
    [("best", None, 6, 1.0), ("last", None, 6, 4.0), ("last", 2, 5, 3.0), ("best", 2, 5, 1.0)],
)
def test_the_study_says_which_epoch_is_kept(
    tmp_path: Path, keep: str, stopping: int | None, epochs: int, value: float
) -> None:
    """A trial's value would belong to other weights than the user asked to keep."""
    fit = {"epochs": 6, "keep_epoch": keep, "callbacks": ["user.py:Worse"]}
    if stopping is not None:
        fit["early_stopping"] = {"patience": stopping}
    run = Run(study_of(tmp_path, OVERFITS, fit=fit))
    assert (len(run.result.epochs), run.result.values) == (epochs, (value,))
    kept = run.result.epochs[2 if keep == "best" else -1].logs
    validated = evaluate(run.model(tmp_path), run.data.validation)
    assert validated["binary_accuracy"] == pytest.approx(kept["val_binary_accuracy"])


OWN_ENDS = """
import keras

@keras.saving.register_keras_serializable("user")
class Twice(keras.Model):
    def fit(self, *args, **settings):
        super().fit(*args, **settings)
        return super().fit(*args, **{**settings, "callbacks": []})

@keras.saving.register_keras_serializable("user")
class Silent(keras.Model):
    def fit(self, *args, **settings):
        return super().fit(*args, **{**settings, "callbacks": []})

class Reset(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        self.model.set_weights([0 * each for each in self.model.get_weights()])

def build(trial, data, kind):
    inputs, x = data.inputs()
    made = {"twice": Twice, "silent": Silent}.get(kind, keras.Model)
    model = made(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    optimizer = keras.optimizers.Adam(0.1, use_ema=kind == "averaged", ema_momentum=0.5)
    model.compile(optimizer, "binary_crossentropy", metrics=["binary_accuracy"])
    return model
"""


@pytest.mark.parametrize("kind", ["twice", "silent", "averaged", "reset"])
def test_a_trial_is_worth_what_its_kept_model_is(tmp_path: Path, kind: str) -> None:
    """A model that changes after its last epoch would be chosen by the score of another."""
    fit = {"epochs": 2, "callbacks": ["user.py:Reset"] if kind == "reset" else []}
    run = Run(study_of(tmp_path, OWN_ENDS, model={"build": "user.py:build", "kind": kind}, fit=fit))
    assert run.result.fate == "complete", run.result.traceback
    measured = evaluate(run.model(tmp_path), run.data.validation)
    assert run.result.values == pytest.approx((measured["loss"],), rel=1e-6)
    assert run.result.metrics["val_binary_accuracy"] == pytest.approx(measured["binary_accuracy"])
    assert "best_epoch" not in run.result.metrics


def test_a_model_that_trains_in_phases_has_one_curve(tmp_path: Path) -> None:
    """The second phase's epochs would stand on top of the first's."""
    code = OWN_ENDS.replace('**{**settings, "callbacks": []}', "**settings")
    run = Run(study_of(tmp_path, code, model={"build": "user.py:build", "kind": "twice"}, fit={"epochs": 2}))
    assert [epoch.step for epoch in run.result.epochs] == [0, 1, 2, 3]
    assert run.result.values == (last(run.result)["val_loss"],)


def test_nothing_is_pruned_at_its_last_epoch(tmp_path: Path) -> None:
    """A finished trial would be thrown away: with one epoch each, half of a search."""
    assert Run(study_of(tmp_path), PruneAt(3)).result.fate == "complete"
    stops = {"epochs": 9, "early_stopping": {"patience": 2}, "callbacks": ["user.py:Worse"]}
    assert Run(study_of(tmp_path, OVERFITS, fit=stops), PruneAt(5)).result.fate == "complete"


def test_a_pruned_trial_keeps_its_epochs(tmp_path: Path) -> None:
    """MLflow would show nothing of a trial that was stopped early."""
    result = Run(study_of(tmp_path), PruneAt(2)).result
    assert result.fate == "pruned"
    assert re.fullmatch(r"pruned after epoch 2: val_loss [\d.]+(, its best [\d.]+ at step 1)?", result.reason)
    assert len(result.epochs) == 2
    assert result.metrics["parameters"] == 17
    assert result.summary
    assert result.training


BUILDS = {
    "raises": "def build(trial, data):\n    raise RuntimeError('no such layer')\n",
    "framework's memory": (
        "import tensorflow as tf\n"
        "def build(trial, data):\n    raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating')\n"
    ),
    "exits": "import sys\ndef build(trial, data):\n    sys.exit('bye')\n",
    "returns nothing": "def build(trial, data):\n    pass\n",
    "is not compiled": "import keras\ndef build(trial, data):\n    return keras.Sequential([keras.layers.Dense(1)])\n",
}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raises", "RuntimeError: no such layer"),
        ("framework's memory", "ResourceExhaustedError: OOM when allocating"),
        ("exits", "SystemExit: bye"),
        ("returns nothing", "build returned NoneType; return a compiled keras.Model"),
        ("is not compiled", "not compiled; call model.compile"),
    ],
)
def test_a_failing_trial_fails_alone(tmp_path: Path, kind: str, reason: str) -> None:
    """One bad configuration would end the night's search, or leave no trace of why."""
    result = Run(study_of(tmp_path, BUILDS[kind], model={"build": "user.py:build"})).result
    assert result.fate == "failed"
    assert reason in result.reason
    assert "Traceback" in result.traceback
    assert result.model is None


DIVERGES = """
import keras
def undefined(y_true, y_pred):
    return keras.ops.mean(y_pred) * float("nan")
def build(trial, data):
    inputs, x = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", loss=undefined, metrics=["binary_accuracy"])
    return model
"""


@pytest.mark.parametrize(("metric", "shown"), [("val_loss", "val_loss is nan"), ("val_binary_accuracy", "loss is nan")])
def test_a_diverged_trial_fails(tmp_path: Path, metric: str, shown: str) -> None:
    """NaN weights would win by the accuracy of a constant, or break the sampler."""
    result = Run(study_of(tmp_path, DIVERGES, model={"build": "user.py:build"}, metric=metric)).result
    assert (result.fate, result.reason) == ("failed", f"{shown} after epoch 1")
    assert len(result.epochs) == 1


def test_several_metrics_and_constraints(tmp_path: Path) -> None:
    """A Pareto front or a limit on latency would compare something that was not measured."""
    definition = study_of(
        tmp_path,
        metric=["val_loss", "parameters"],
        direction=["minimize", "minimize"],
        search={"constraints": ["latency_ms <= 0.001", "val_binary_accuracy >= 0"]},
    )
    run = Run(definition, PruneAt(1))
    result = run.result
    assert result.values == (last(result)["val_loss"], 17.0)
    assert result.metrics["latency_ms"] > 0.001
    assert result.violations[0] == pytest.approx(result.metrics["latency_ms"] - 0.001)
    assert result.violations[1] <= 0
    assert result.model is None  # it breaks a constraint, so it is never the best


def test_constraints_hold_for_the_weights_that_are_kept(tmp_path: Path) -> None:
    """A model could be registered whose own accuracy breaks the study's constraint."""
    fit = {"epochs": 6, "early_stopping": {"patience": 2}, "callbacks": ["user.py:Worse"]}
    search = {"constraints": ["val_loss <= 1.5"]}
    assert Run(study_of(tmp_path, OVERFITS, fit=fit, search=search)).result.violations == (-0.5,)


def test_a_missing_or_undefined_metric_breaks_its_constraint(tmp_path: Path) -> None:
    """Optuna would be given NaN, which it refuses after the trial is done."""
    definition = study_of(tmp_path, search={"constraints": ["a <= 1", "b >= 1"]})
    assert metrics.violations_of(definition, {"a": float("nan")}) == (float("inf"), float("inf"))


def test_a_metric_that_vanished_fails_the_trial(tmp_path: Path) -> None:
    """A conditional model without the metric would end the search with a KeyError."""
    with pytest.raises(TrialFailed, match="no metric 'val_loss' in the logs \\(loss\\)"):
        metrics.values_of(study_of(tmp_path), {"loss": 1.0})


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ({"type": "exponential", "factor": 0.5}, [1.0, 0.5, 0.25, 0.125]),
        ({"type": "exponential", "factor": 0.5, "minimum": 0.3}, [1.0, 0.5, 0.3, 0.3]),
        ({"type": "cosine"}, [1.0, 0.8536, 0.5, 0.1464]),
        ({"type": "cosine", "minimum": 0.5}, [1.0, 0.9268, 0.75, 0.5732]),
    ],
)
def test_learning_rate_schedules(kind: dict[str, Any], rates: Sequence[float]) -> None:
    """A schedule would end too early or fall below its minimum."""
    schedule = LearningRateSchedule(**kind)
    shown = [callbacks.learning_rate(schedule, 1.0, epoch, 4) for epoch in range(4)]
    assert shown == pytest.approx(rates, abs=1e-4)


@pytest.mark.parametrize("kind", ["cosine", "plateau"])
def test_a_schedule_reaches_the_optimizer(tmp_path: Path, kind: str) -> None:
    """The study file's schedule would change nothing."""
    schedule = {"type": kind, "patience": 1, "factor": 0.5}
    fit = {"epochs": 5, "learning_rate_schedule": schedule, "callbacks": ["user.py:Worse"]}
    result = Run(study_of(tmp_path, OVERFITS, fit=fit)).result
    rates = [epoch.logs["learning_rate"] for epoch in result.epochs]
    assert rates[-1] < rates[0]


def test_callbacks_by_name(tmp_path: Path) -> None:
    """Keras's own callbacks and the user's could not be used without writing a builder."""
    code = "import keras\nclass Mark(keras.callbacks.Callback):\n    def on_epoch_end(self, epoch, logs=None):\n"
    code += "        logs['mark'] = 10.0 + epoch\n"
    result = Run(study_of(tmp_path, code, fit={"callbacks": ["user.py:Mark", "TerminateOnNaN"]})).result
    assert last(result)["mark"] == 12.0
    assert result.path == WHOLE_EPOCHS


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("EarlyStoping", "keras.callbacks has no 'EarlyStoping'; did you mean 'EarlyStopping'"),
        ("LearningRateScheduler", r"fit.callbacks\[0\]: LearningRateScheduler: missing a required.*give its arguments"),
        ({"class": "EarlyStopping", "patienc": 3}, "EarlyStopping: got an unexpected keyword argument 'patienc'"),
        ({"class": "user.py:number"}, "user.py:number gave int; give a keras.callbacks.Callback"),
    ],
)
def test_callbacks_that_cannot_be_used(tmp_path: Path, name: Any, shown: str) -> None:
    """Every trial of the night would fail by the same misspelt name."""
    definition = study_of(tmp_path, "def number():\n    return 3\n", fit={"callbacks": [name]})
    with pytest.raises(ModelError, match=shown):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


def test_class_weights(tmp_path: Path) -> None:
    """Rare classes would not be learned as the file says, or a misspelt class would count 1."""
    balanced = study_of(tmp_path, fit={"class_weight": "balanced"})
    data = load(balanced)
    weights = callbacks.class_weight(balanced, data)
    counts = np.bincount(data.train.y.astype(int))
    assert weights == pytest.approx({i: len(data.train) / (2 * count) for i, count in enumerate(counts)})
    named = study_of(tmp_path, fit={"class_weight": {"1": 4.0}})
    assert callbacks.class_weight(named, data) == {0: 1.0, 1: 4.0}
    with pytest.raises(DataError, match="every class weighs 0"):
        callbacks.class_weight(study_of(tmp_path, fit={"class_weight": {"0": 0.0, "1": 0.0}}), data)
    assert Run(named, data=data).result.fate == "complete"
    wrong = study_of(tmp_path, fit={"class_weight": {"2": 4.0}})
    with pytest.raises(DataError, match=r"fit.class_weight: no class '2'; the classes are 0, 1"):
        callbacks.class_weight(wrong, data)
    regression = study_of(
        tmp_path,
        data={"source": "sklearn:make_regression", "options": {"n_samples": 40}},
        fit=balanced.fit.model_dump(),
    )
    with pytest.raises(DataError, match="these data are regression; class weights need one target of classes"):
        callbacks.class_weight(regression, load(regression))
    import tensorflow as tf

    stream = replace(data, train=Part(tf.data.Dataset.from_tensors((data.train.x, data.train.y)), None))
    assert callbacks.class_weight(study_of(tmp_path, fit={"class_weight": {"2": 4.0}}), stream) == {0: 1, 1: 1, 2: 4}
    with pytest.raises(DataError, match="the classes of a stream are not counted; give weights"):
        callbacks.class_weight(balanced, stream)
    with pytest.raises(DataError, match="no class 'b'; the classes of a stream are 0, 1, 2"):
        callbacks.class_weight(study_of(tmp_path, fit={"class_weight": {"b": 4.0}}), stream)
    with pytest.raises(DataError, match=r"Keras weighs no classes of a generator; yield .x, y, sample_weight."):
        callbacks.class_weight(named, replace(data, train=Part((_ for _ in ()), None)))


def test_mixed_precision(tmp_path: Path) -> None:
    """Half precision would leak into the next trial, or the registered model would answer in it."""
    run = Run(study_of(tmp_path, fit={"precision": "mixed_float16"}))
    assert run.result.fate == "complete"
    assert run.result.training["dtype_policy"] == "mixed_float16"
    assert Run(study_of(tmp_path, fit={"epochs": 1}), best=False).result.model is None, "only the best are handed over"
    assert keras.config.dtype_policy().name == "float32"
    loaded = run.model(tmp_path, compile=False)  # Keras 3.15 does not load the optimizer of half precision
    assert loaded(np.zeros((1, 2), "float32")).dtype == "float32"


CUSTOM = """
import keras

@keras.saving.register_keras_serializable("user")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones")
    def call(self, x):
        return x * self.factor

@keras.saving.register_keras_serializable("user")
def squared(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(keras.ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1)

@keras.saving.register_keras_serializable("user")
class Twice(keras.Model):
    def train_step(self, data):
        super().train_step(data)
        return super().train_step(data)

def build(trial, data):
    inputs, x = data.inputs()
    outputs = keras.layers.Dense(1, activation="sigmoid")(Scale()(x))
    model = Twice(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), loss=squared, metrics=["binary_accuracy"])
    return model
"""


def test_custom_layers_losses_and_steps_survive_saving(tmp_path: Path) -> None:
    """A study of a user's own model would end with a version that nobody can load."""
    definition = study_of(tmp_path, CUSTOM, model={"build": "user.py:build"})
    data = load(definition)
    summary = dry_run(definition, data, [ask(definition)], 0.5).data
    assert summary.path == PLAIN
    assert summary.output[0].shape == (-1, 1)
    run = Run(definition, data=data)
    assert (run.result.fate, run.result.path) == ("complete", PLAIN)
    loaded = run.model(tmp_path)
    assert type(loaded).__name__ == "Twice"
    assert evaluate(loaded, data.test)["loss"] == pytest.approx(run.result.metrics["test_loss"], rel=1e-6)


UNLOADABLE = CUSTOM.replace('@keras.saving.register_keras_serializable("user")\nclass Scale', "class Scale")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (UNLOADABLE, "cannot be saved and loaded again .*'Scale'.*register_keras_serializable"),
        (CUSTOM.replace("SGD(0.1)", "SDG(0.1)"), r"AttributeError.*SDG.*did you mean 'SGD'"),
        (CUSTOM.replace("data.inputs()", "(keras.Input((9,)),) * 2"), "the model cannot take a batch"),
    ],
    ids=["unregistered layer", "builder raises", "wrong input shape"],
)
def test_a_model_that_cannot_work_is_refused_before_the_first_trial(tmp_path: Path, code: str, shown: str) -> None:
    """The whole budget would be spent on a model that cannot be registered."""
    definition = study_of(tmp_path, code, model={"build": "user.py:build"})
    with pytest.raises(ModelError, match=f"^model.build: user.py[:,].*{shown}"):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


PICKY = """
import keras, optuna
def build(trial, data):
    if trial.params["learning_rate"] < {least}:
        raise {error}
    inputs, x = data.inputs()
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", "binary_crossentropy")
    return model
"""


@pytest.mark.parametrize(("error", "fate"), [("ValueError('too slow')", "failed"), ("optuna.TrialPruned()", "pruned")])
def test_a_builder_may_refuse_configurations(tmp_path: Path, error: str, fate: str) -> None:
    """A study whose first configuration is refused would never run."""
    code = PICKY.format(least=0.016, error=error)
    definition = study_of(tmp_path, code, model={"build": "user.py:build"})
    data, asked = load(definition), probes(definition, seed=3)
    assert next(asked).params["learning_rate"] < 0.016
    assert dry_run(definition, data, probes(definition, seed=3), 0.0).data.log_names == ("loss", "val_loss")
    assert Run(definition, data=data, asked=next(probes(definition, seed=3))).result.fate == fate


def test_a_builder_that_refuses_everything_is_a_mistake(tmp_path: Path) -> None:
    """The whole budget would be spent on trials that fail alike."""
    code = PICKY.format(least=1.0, error="ValueError('too slow')")
    definition = study_of(tmp_path, code, model={"build": "user.py:build"})
    with pytest.raises(ModelError, match=r"in build: ValueError: too slow; 4 configurations in a row failed for this"):
        dry_run(definition, load(definition), probes(definition, seed=0), 0.0)


SUGGESTS = """
import keras
def build(trial, data):
    inputs, x = data.inputs()
    if trial.suggest_categorical("kind", ["wide", "deep"]) == "wide":
        x = keras.layers.Dense(trial.suggest_int("units", 2, 8, step=2))(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile("sgd", "binary_crossentropy")
    return model
"""


@pytest.mark.parametrize(
    ("enqueued", "shown"),
    [
        ({"kind": "wide", "unit": 4}, "unit: neither in .space. nor suggested .* did you mean 'units'"),
        ({"kind": "wide", "units": 9}, "units: 9 is outside .* a whole number from 2 to 8 in steps of 2"),
        ({"kind": "wide", "units": 3}, "units: 3 is outside"),
        ({"kind": "tall"}, r"kind: 'tall' is outside .* one of \['wide', 'deep'\]"),
        ({"kind": "deep", "units": 4}, "units: neither in .space. nor suggested"),
        ({"kind": 1}, "kind: 1 is outside"),
    ],
)
def test_enqueued_values_are_those_the_builder_suggests(tmp_path: Path, enqueued: dict[str, Any], shown: str) -> None:
    """A misspelt name would be ignored in silence, and a value out of range used."""
    definition = study_of(tmp_path, SUGGESTS, model={"build": "user.py:build"}, enqueue=[enqueued])
    with pytest.raises(StudyFileError, match=rf"enqueue\[0\]\.{shown}"):
        dry_run(definition, load(definition), probes(definition, seed=0), 0.0)


def test_enqueued_values_of_the_builder_are_accepted(tmp_path: Path) -> None:
    """A right configuration would be refused."""
    enqueued = [{"kind": "wide", "units": 4}, {"units": 4}, {"kind": "deep", "learning_rate": 0.011}]
    definition = study_of(tmp_path, SUGGESTS, model={"build": "user.py:build"}, enqueue=enqueued)
    assert dry_run(definition, load(definition), probes(definition, seed=0), 0.0).data.log_names == ("loss", "val_loss")


LAGS = """
import numpy as np

def rows(trial):
    x = np.random.default_rng(0).normal(size=(60, trial.suggest_int("lag", 2, 4)))
    return x, (x[:, 0] > 0).astype(int)
"""


def test_enqueued_values_of_the_data_function(tmp_path: Path) -> None:
    """A length of windows could be searched, and not tried first."""
    data = {"source": "user.py:rows", "options": {}}
    right, wrong = (study_of(tmp_path, LAGS, data=data, enqueue=[{"lag": lag}]) for lag in (3, 9))
    assert dry_run(right, TrialData(right), probes(right, 0), 0.0).data.inputs == (TensorSpec("float64", (-1, 3)),)
    with pytest.raises(StudyFileError, match=r"enqueue\[0\].lag: 9 is outside what the builder suggests"):
        dry_run(wrong, TrialData(wrong), probes(wrong, 0), 0.0)


OWN_STEPS = """
import keras, numpy as np
from keras import ops

@keras.saving.register_keras_serializable("user")
class Own(keras.Model):
    def train_step(self, data):
        {unpack}
        import tensorflow as tf
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x, training=True)))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {{"own_loss": loss}}

def build(trial, data):
    inputs, x = data.inputs()
    model = Own(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd"{loss})
    return model
"""


@pytest.mark.parametrize("unpack", ["x, y = data", "x, _ = data", "x = data[0]"])
@pytest.mark.parametrize(
    ("loss", "metric", "names"),
    [("", "own_loss", {"own_loss"}), (", 'mse'", "val_loss", {"own_loss", "val_loss"})],
    ids=["no loss", "loss"],
)
def test_the_dry_run_hands_over_what_fit_does(
    tmp_path: Path, unpack: str, loss: str, metric: str, names: set[str]
) -> None:
    """A training step written as in Keras's guide would be refused, or a model without a loss."""
    code = OWN_STEPS.format(unpack=unpack, loss=loss)
    definition = study_of(tmp_path, code, model={"build": "user.py:build"}, metric=metric)
    data = load(definition)
    assert names <= set(dry_run(definition, data, [ask(definition)], 0.0).data.log_names)
    result = Run(definition, data=data).result
    assert result.fate == "complete", result.traceback
    assert set(last(result)) == names


def test_callbacks_read_val_logs_in_a_refit(tmp_path: Path) -> None:
    """Every trial would fail after all its folds, in the refit, which has no validation part."""
    code = "import keras\nclass Reads(keras.callbacks.Callback):\n    def on_epoch_end(self, epoch, logs=None):\n"
    code += "        logs['seen'] = logs['val_loss']\n"
    code += "    def on_train_end(self, logs=None):\n        logs['val_loss']\n"
    result = Run(study_of(tmp_path, code, fit={"callbacks": ["user.py:Reads"]}, data={"folds": 2})).result
    assert result.fate == "complete", result.traceback
    refit = last(result)
    assert refit["refit/seen"] == refit["refit/loss"]
    assert "refit/val_loss" not in refit


def test_a_failure_says_its_cause(tmp_path: Path) -> None:
    """The reason would be "Exception encountered when calling Reshape.call()."."""
    code = "import keras\ndef build(trial, data):\n    inputs, x = data.inputs()\n    keras.layers.Reshape((3, 4))(x)\n"
    result = Run(study_of(tmp_path, code, model={"build": "user.py:build"})).result
    assert result.reason.startswith(
        "user.py, line 4, in build: ValueError: The total size of the tensor must be unchanged."
    )


@pytest.mark.parametrize(
    ("tables", "shown"),
    [
        ({"metric": "val_los"}, "metric: 'val_los' is not among the metrics of this model; .*mean 'val_loss'"),
        ({"search": {"constraints": ["latency <= 5"]}}, "search.constraints: 'latency' is not .*mean 'latency_ms'"),
    ],
)
def test_misspelt_metrics_are_found_before_the_first_trial(tmp_path: Path, tables: dict[str, Any], shown: str) -> None:
    """A night's trials would fail one by one at their ends."""
    definition = study_of(tmp_path, **tables)
    with pytest.raises(StudyFileError, match=shown):
        dry_run(definition, load(definition), [ask(definition)], 0.0)


def test_the_dry_run_tells_what_a_trial_will_log(tmp_path: Path) -> None:
    """The metric list shown for a misspelt name would be wrong."""
    definition = study_of(tmp_path, fit={"learning_rate_schedule": {"type": "cosine"}})
    summary = dry_run(definition, load(definition), [ask(definition)], 0.0).data
    assert set(summary.log_names) == set(last(Run(definition).result))
    assert summary.inputs == (TensorSpec("float64", (-1, 2)),)


STREAM = """
import numpy as np
import tensorflow as tf
def streams():
    x = np.random.default_rng(0).normal(size=(96, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype("float32"))).batch(16)
    return data.take(4), data.skip(4).take(1), data.skip(5)
"""


def test_a_stream(tmp_path: Path) -> None:
    """Data larger than memory could not be searched over."""
    definition = study_of(tmp_path, STREAM, data={"source": "user.py:streams", "options": {}})
    result = Run(definition).result
    assert (result.fate, result.path) == ("complete", PLAIN), result.traceback
    assert "test_loss" in result.metrics


def test_several_inputs(tmp_path: Path) -> None:
    """A model with two inputs could be built but not trained, checked or scored."""
    code = "import numpy as np\ndef rows():\n    x = np.random.default_rng(0).normal(size=(60, 3))\n"
    code += "    return {'left': x[:, :2], 'right': x[:, 2:]}, (x[:, 0] > 0).astype('int64')\n"
    definition = study_of(tmp_path, code, data={"source": "user.py:rows", "options": {}})
    data = load(definition)
    assert [spec.name for spec in dry_run(definition, data, [ask(definition)], 0.0).data.inputs] == ["left", "right"]
    assert Run(definition, data=data).result.fate == "complete"


def test_seeds_differ_between_trials_and_repeats() -> None:
    """Repeats would be copies of one another, and trials share their luck."""
    seeds = {trial.seed_of(study, number, repeat) for study in (0, 1) for number in range(5) for repeat in range(3)}
    assert len(seeds) == 30
    assert trial.seed_of(0, 3) == trial.seed_of(0, 3, 0)


UNKNOWN_LENGTH = """
import itertools
import keras, numpy as np, tensorflow as tf
X = np.random.default_rng(0).normal(size=(48, 2)).astype("float32")
Y = (X[:, 0] > 0).astype("float32")

def stream(passes, noise):
    def batches():
        for number in passes() if callable(passes) else range(passes):
            for at in range(0, 48, 16):
                yield X[at : at + 16] + noise * number, Y[at : at + 16]
    return tf.data.Dataset.from_generator(batches, output_signature=(tf.TensorSpec((None, 2)), tf.TensorSpec((None,))))

def ends():
    return stream(1, 0), stream(1, 0), stream(1, 0)

def same():
    return stream(1, 0), stream(itertools.count, 0), stream(1, 0)

def other():
    return stream(itertools.count, 1), stream(1, 0), stream(1, 0)

def build(trial, data):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


def test_streams_that_do_not_say_their_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch of a generator without end would last for ever, without a word."""

    def tried(function: str, seconds: float = 30.0, **fit: int) -> tuple[str, ...]:
        monkeypatch.setattr(streams, "_LOOK_SECONDS", seconds)
        data = {"source": f"user.py:{function}", "options": {}}
        fit = {"epochs": 1, **fit}
        definition = study_of(tmp_path, UNKNOWN_LENGTH, data=data, model={"build": "user.py:build"})
        definition = definition.model_copy(update={"fit": definition.fit.model_copy(update={**fit, "batch_size": 32})})
        return dry_run(definition, load(definition), [ask(definition)], 0.0).data.doubts

    assert tried("ends") == ()
    with pytest.raises(DataError, match=r"the validation part gives the same batches without end; .*validation_steps"):
        tried("same", 0.5)
    assert tried("same", validation_steps=3) == ()
    (told,) = tried("other", 0.5)
    assert "the training part gave" in told
    assert "steps_per_epoch = 100" in told


def test_early_stopping_beside_averaged_weights_is_scored_as_the_model_that_is_kept(tmp_path: Path) -> None:
    """A trial would be worth what the averaged weights reach, and hand over others."""
    code = (
        "import keras\n"
        "def build(trial, data):\n"
        "    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8), keras.layers.Dense(1, 'sigmoid')])\n"
        "    model.compile(keras.optimizers.Adam(0.05, use_ema=True), 'binary_crossentropy')\n"
        "    return model\n"
    )
    fit = {"epochs": 6, "callbacks": ["SwapEMAWeights"], "early_stopping": {"patience": 3}}
    run = Run(study_of(tmp_path, code, model={"build": "user.py:build"}, fit=fit))
    assert run.result.fate == "complete", run.result.reason
    validated = evaluate(run.model(tmp_path), run.data.validation)
    assert run.result.values == (pytest.approx(validated["loss"], rel=1e-4),)
    assert run.result.metrics["best_epoch"] in range(6), "a refit trains for as long"


def test_what_a_trial_prepared_otherwise_is_told_from_others(tmp_path: Path) -> None:
    """Models of other units would be averaged, and fed the best one's rows."""
    code = (
        "import numpy as np\n"
        "def load(learning_rate):\n"
        "    x = np.random.default_rng(0).normal(size=(60, 2))\n"
        "    return x * (1 + learning_rate), (x.sum(axis=1) > 0).astype(int)\n"
    )
    wanted = study_of(tmp_path, code, data={"source": "user.py:load", "options": {}}, search={"ensemble": 2})
    (tmp_path / "same").mkdir()
    same = study_of(tmp_path / "same", search={"ensemble": 2})

    def digests(study: Definition) -> set[str]:
        asked = [trial.RetrainedTrial({"learning_rate": rate}, at) for at, rate in enumerate((0.01, 0.02))]
        return {_outputs(study, each).about.digest for each in asked}

    assert len(digests(same)) == 1
    assert len(digests(wanted)) == 2


def _outputs(wanted: Definition, asked: trial.RetrainedTrial) -> Predictions:
    data = TrialData(wanted)
    result = trial.run(wanted, data, asked, seed=7, is_kept=lambda _: True, on_epochs=lambda _: None)
    assert result.validated is not None, result.reason
    return Predictions.from_bytes(result.validated)


STATEFUL = """
import keras
def build(trial, data):
    x = keras.Input(batch_shape=(10, 2, 1))
    model = keras.Model(x, keras.layers.Dense(1, "sigmoid")(keras.layers.LSTM(3, stateful=True)(x)))
    model.compile("adam", "binary_crossentropy")
    return model
"""
SEQUENCES = """
import numpy as np
def load():
    x = np.random.default_rng(0).normal(size=(100, 2, 1))
    return x, (x.sum(axis=(1, 2)) > 0).astype(int)
"""


def test_a_stateful_model_of_fixed_batches_is_a_study(tmp_path: Path) -> None:
    """The search would end before its first trial: one row is fewer than such a model takes."""
    (tmp_path / "rows.py").write_text(SEQUENCES)
    data = {"source": "rows.py:load", "options": {}, "test_size": 0.2, "validation_size": 0.25}
    wanted = study_of(tmp_path, STATEFUL, data=data, model={"build": "user.py:build"}, fit={"batch_size": 10})
    summary = dry_run(wanted, load(wanted), [ask(wanted)], 0.0).data
    assert summary.inputs[0].shape[1:] == (2, 1)
    run = Run(wanted)
    assert run.result.fate == "complete", run.result.reason
    assert run.result.predictions is not None


@pytest.mark.parametrize("settings", [{"steps_per_epoch": 2}, {"validation_steps": 1}])
def test_the_built_in_network_is_reproducible_by_ordinary_fit_too(tmp_path: Path, settings: dict[str, int]) -> None:
    """The same seed would give other losses in each process: Keras itself shuffles the rows there."""
    wanted = study_of(tmp_path, fit=settings)
    first = Run(wanted)
    keras.utils.set_random_seed(12345)  # as another process begins
    assert first.result.path == PLAIN
    assert Run(wanted).result.values == first.result.values


def test_a_mean_of_repeats_meets_its_constraints_as_a_whole(tmp_path: Path) -> None:
    """A model of three times as many parameters would be registered as a small one."""
    search = {"repeats": 3, "ensemble": 3, "constraints": ["parameters <= 40"]}
    run = Run(study_of(tmp_path, search=search))
    single = Run(study_of(tmp_path))
    assert single.result.metrics["parameters"] <= 40
    assert run.result.metrics["parameters"] == 3 * single.result.metrics["parameters"]
    assert run.result.violations[0] > 0
    assert run.result.model is None
