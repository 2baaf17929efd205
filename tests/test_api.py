"""The Python API: what a notebook user gets, and what is left as it was."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import search
from search.studyfile.load import find_study, keep_made, load_definition
from search.tracking.surroundings import unchanged
from tests.conftest import Command

SPACE = {"width": IntDistribution(2, 8), "rate": FloatDistribution(1e-3, 1e-1, log=True)}
PUBLIC = [
    "Best",
    "ClusterError",
    "DataError",
    "Interrupted",
    "ModelError",
    "NoTrialCompleted",
    "Promotion",
    "Registered",
    "RegistryError",
    "Result",
    "SearchError",
    "StorageError",
    "Study",
    "StudyFileError",
    "TrackingError",
    "UsageError",
    "__version__",
]


def made(rows: int = 80) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("float32")


def study_of_objects(name: str, **settings: Any) -> search.Study:
    scale = 2.0  # a closure, which no file holds

    def build(trial: Any, data: Any) -> Any:
        import keras

        inputs, x = data.inputs()
        hidden = keras.layers.Dense(trial.params["width"], activation="relu")(x * scale)
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
        model.compile(optimizer=keras.optimizers.Adam(trial.params["rate"]), loss="binary_crossentropy")
        return model

    given: dict[str, Any] = {"data": made(), "build": build, "space": SPACE}
    given |= {"metric": "val_loss", "direction": "minimize", "fit": {"epochs": 2}} | settings
    return search.Study(name, **given)


def test_the_public_names_are_these() -> None:
    """A name that a user relies on would vanish, or one appear that nobody meant to keep."""
    assert sorted(search.__all__) == PUBLIC
    assert all(getattr(search, name) is not None for name in PUBLIC)


def test_import_is_light() -> None:
    """A notebook's first cell would take five seconds."""
    there = "print([m for m in ('keras', 'mlflow', 'optuna', 'pandas') if m in sys.modules])"
    code = f"import sys, search; {there}; search.Study; {there}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["[]", "['optuna']"]


def test_what_a_program_chose_is_left_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows in the program would log to another store, or find variables of MLflow's own."""
    import mlflow

    def state() -> tuple[Any, ...]:
        named = os.environ.pop("MLFLOW_TRACKING_URI", None)
        chosen = mlflow.is_tracking_uri_set()
        os.environ.update({} if named is None else {"MLFLOW_TRACKING_URI": named})
        return dict(os.environ), chosen, mlflow.get_tracking_uri(), mlflow.get_registry_uri(), list(warnings.filters)

    def disturb() -> None:
        with unchanged():
            mlflow.set_tracking_uri(f"sqlite:///{folder}/other.db")
            os.environ["_MLFLOW_TELEMETRY_SESSION_ID"] = "1"

    before = state()  # the program chose the store
    disturb()
    assert state() == before
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")  # the environment did
    before = state()
    disturb()
    assert state() == before
    assert not before[1], "and may choose another later"


def test_a_study_of_python_objects(folder: Path, in_process: Command) -> None:
    """A notebook user could not search without writing files, or would find another run, seed or policy afterwards."""
    import keras
    import mlflow

    def state() -> tuple[Any, ...]:
        policy, run = keras.config.dtype_policy().name, mlflow.active_run()
        seeds = (random.getstate(), np.random.get_state()[1].tolist())
        store = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), run and run.info.run_id)
        return dict(os.environ), list(warnings.filters), logging.getLogger("mlflow").level, policy, *seeds, *store

    mlflow.set_experiment("of the program")
    mlflow.start_run()
    before = state()
    study = study_of_objects("objects", search={"keep": 2})
    result = study.optimize(n_trials=3, workers=1)
    assert state() == before
    mlflow.end_run()
    assert set(result.best.params) == {"width", "rate"}
    assert result.best.value == min(result.trials["value"].dropna())
    assert {"number", "value", "params_width", "state", "seconds", "test_loss"} <= set(result.trials)
    assert result.model is not None
    assert result.load_model().predict(made()[0][:2], verbose=0).shape == (2, 1)
    ranked = result.trials.sort_values("value")["number"].tolist()
    assert list(result.models)[:2] == ranked[:2]
    second = list(result.models)[1]
    rows = made()[0][:2]
    other = result.load_model(second).predict(rows, verbose=0)
    assert np.abs(other - result.load_model().predict(rows, verbose=0)).max() > 1e-6
    with pytest.raises(search.UsageError, match="trial 99's model was not kept"):
        result.load_model(99)
    assert len(result.study.trials) == 3
    shown = result._repr_html_()
    assert f"/#/experiments/2/runs/{result.best.run_id}" in shown
    assert "/#/models/objects/versions/1" in shown
    assert f"<td>{result.best.value:.4g}</td>" in shown
    assert shown.count("<img") == 1
    assert "2 complete" not in study._repr_html_()
    promotion = study.promote()
    assert (promotion.promoted, promotion.version) == (True, result.model.version)
    assert "objects version 1 is champion" in promotion._repr_html_()
    assert result.plot("contour", params=["width", "rate"]).get_xlabel()
    with pytest.raises(search.UsageError, match=r"no plot 'contur'; there are contour, edf, .*did you mean 'contour'"):
        result.plot("contur")
    assert {path.name for path in study.report(folder / "mine")} >= {"trials.csv"}
    _commands_know(study, folder, in_process)
    again = study.optimize(n_trials=1, workers=1)
    assert len(again.trials) == 4


def _commands_know(study: search.Study, folder: Path, command: Command) -> None:
    """A study made in Python would be lost with its program, or a command end in a traceback."""
    told = command("search.report", study.name, cwd=folder)
    assert "Trials: 3 complete" in told.stdout, told.stderr
    told = command("search.sync", study.name, "--check", cwd=folder)
    assert "3 trials checked, 0 written, MLflow agrees with the study" in told.stdout, told.stderr
    told = command("search.exclude", study.name, "0", "--reason", "tried twice", cwd=folder)
    assert told.returncode == 0, told.stderr
    assert command("search.exclude", study.name, "0", "--undo", cwd=folder).returncode == 0
    told = command("search.stop", study.name, cwd=folder)
    assert "study 'objects': no search runs" in told.stderr
    told = command("search.studies", cwd=folder)
    assert "objects" in told.stdout
    for module, *args in (["search.run", study.name], ["search.new", "copied", "--from", study.name]):
        told = command(module, *args, cwd=folder)
        assert told.returncode == 2
        said = "study 'objects' was made in Python: model.build, data.source lie in that program alone, in no file"
        assert said in told.stderr, told.stderr
    assert len(search.Study(study.name).study.trials) == 3
    with pytest.raises(search.UsageError, match="run it there, or write a study file"):
        search.Study(study.name).optimize(1)


def test_the_definition_of_a_python_study_is_read_back_as_it_was(folder: Path) -> None:
    """Numbers of NumPy's would come back as texts, and a report ask for metrics that the study does not have."""

    def watch(trial: Any, data: Any) -> list[Any]:
        return []

    space = {
        **SPACE,
        "kind": CategoricalDistribution([True, 1.5, "x"]),
        "steps": IntDistribution(2, 8, step=2),
        "batch_size": {"type": "categorical", "choices": [8, 16]},
    }
    study = study_of_objects(
        "kinds",
        space=space,
        fit={"callbacks": watch, "epochs": 2},
        metrics={"f2": {"function": lambda y, predicted: 0.0}},
        enqueue=[{"width": 4}],
        test_size=np.float32(0.25),
        search={"warm_start": {"study": "other", "storage": "postgresql://me:secret@host/db"}},
    )
    keep_made(study.definition, folder / "kept")
    file = find_study("kinds", folder / "kept")
    assert "secret" not in file.read_text()
    loaded = load_definition(file)
    without = {"search": {"warm_start"}}
    assert loaded.model_dump(exclude=without) == study.definition.model_dump(exclude=without)
    assert loaded.folder == Path.cwd(), "relative paths start where they did"
    with pytest.raises(search.UsageError, match=r"no study 'kind'.*did you mean 'kinds'"):
        find_study("kind", folder / "kept")


def test_a_data_frame_and_the_built_in_model(folder: Path) -> None:
    """A table in a notebook would have to be written to a file first."""
    x, y = made()
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(label=np.where(y > 0, "yes", "no"))
    study = search.Study(
        "frame",
        data=frame,
        target="label",
        metric=["val_loss", "parameters"],
        direction=["minimize", "minimize"],
        space={"width": CategoricalDistribution([2, 4])},
        fit={"epochs": 1},
        search={"sampler": "random"},
    )
    result = study.optimize(n_trials=2, workers=1)
    assert {"values_val_loss", "values_parameters"} <= set(result.trials)
    shown = result._repr_html_()
    assert "on the front" in shown
    assert result.plot("pareto_front").get_xlabel() == "val_loss"


def test_a_builder_that_suggests_everything_needs_no_space(folder: Path) -> None:
    """Optuna's and KerasTuner's way, where the code alone says what is searched, would be refused: "space: empty"."""

    def build(trial: Any, data: Any) -> Any:
        import keras

        inputs, x = data.inputs()
        hidden = keras.layers.Dense(trial.suggest_int("units", 2, 8), activation="relu")(x)
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
        model.compile(optimizer="adam", loss="binary_crossentropy")
        return model

    result = study_of_objects("open", build=build, space={}, fit={"epochs": 1}).optimize(3, workers=1, offline=True)
    assert result.trials["params_units"].between(2, 8).all()
    assert len(result.trials) == 3


def test_it_works_in_a_thread_and_in_a_running_loop(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Jupyter, whose cells run inside an asyncio loop, or a server's thread would get an error about signals."""
    found: list[search.Result] = []
    optuna.logging.set_verbosity(optuna.logging.INFO)  # as the user of a notebook has it

    async def cell() -> None:
        found.append(study_of_objects("loop").optimize(n_trials=1, workers=1))

    asyncio.run(cell())
    thread = threading.Thread(target=lambda: found.append(study_of_objects("loop").optimize(n_trials=1, workers=1)))
    thread.start()
    thread.join()
    assert [len(result.trials) for result in found] == [2, 2]
    assert "study" not in capfd.readouterr().err, "Optuna's lines about studies of ours"
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": {"width": (2, 8)}}, "space.width: a tuple; use one of Optuna's"),
        ({"metric": "val_los"}, "'val_los' is not among the metrics of this model; .*did you mean 'val_loss'"),
        ({"direction": "down"}, "direction: 'down'; use 'minimize' or 'maximize'"),
        ({"fit": {"epoch": 1}}, "fit.epoch: unknown key; .*did you mean 'epochs'"),
        ({"tset_size": 0.2}, "data.tset_size: unknown key; .*did you mean 'test_size'"),
    ],
)
def test_what_cannot_be_is_an_exception_with_one_line(folder: Path, settings: dict[str, Any], message: str) -> None:
    """A notebook would end in SystemExit, or in a traceback through pydantic."""
    with pytest.raises(search.UsageError, match=message):
        study_of_objects("wrong", **settings).optimize(n_trials=1, workers=1)


def test_a_study_file_by_name(folder: Path) -> None:
    """The studies that ship could not be run from a notebook."""
    study = search.Study("blobs")
    assert study.name == "blobs"
    with pytest.raises(search.UsageError, match="did you mean 'blobs'"):
        search.Study("blobbs")
    with pytest.raises(search.UsageError, match="data is missing"):
        search.Study("mine", build="mlp", metric="val_loss")


PROGRAM = """
import keras
import numpy as np
from optuna.distributions import IntDistribution

import blocks
import search


@keras.saving.register_keras_serializable("mine")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return blocks.twice(x)


def own_loss(y, predicted):
    return keras.ops.mean(keras.ops.square(y - predicted))


def build(trial, data):
    model = keras.Sequential([keras.Input((3,)), Scaled(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), loss=own_loss)
    return model


x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
study = search.Study("typed", data=(x, x.sum(axis=1)), build=build, metric="val_loss", direction="minimize",
                     space={"epochs": IntDistribution(1, 2)})
result = study.optimize(1, workers=1)
print(result.model.uri, result.load_model().layers[0].__class__.__name__)
"""


def test_a_program_typed_into_python(folder: Path) -> None:
    """Own layers and losses of a notebook could not be registered, or a script without a guard would start itself."""
    (folder / "blocks.py").write_text("def twice(x):\n    return 2 * x\n")
    python = [sys.executable, "-"]
    ran = subprocess.run(python, input=PROGRAM, capture_output=True, text=True, cwd=folder, timeout=200, check=False)
    assert ran.stdout == "models:/typed/1 Scaled\n", ran.stderr
