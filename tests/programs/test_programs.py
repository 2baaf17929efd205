"""Public example programs as studies: what is registered predicts as the program's own model, trained by plain Keras.

Each program is a Python file after a public one (its docstring says which) with the study file beside it. One trial is
searched and registered; then the program's own functions are called as its script would call them, under the trial's
seed, and both models must agree.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest

from search.data.dataset import Data, Part
from search.data.loading import TrialData
from search.studyfile.load import load_definition
from search.studyfile.references import load_object
from search.studyfile.schema import Definition
from search.training.callbacks import user_callbacks
from search.training.fit import as_tensors
from search.training.model import registered_example
from search.training.trial import RetrainedTrial, seed_of
from tests.conftest import Searcher

# Keras 3.15 converts TensorFlow variables the way NumPy 1 liked.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning", "ignore::UserWarning:keras.*"
)

HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in HERE.glob("*.toml"))
QUICK = {  # what the test command runs; the others are heavy, 3 minutes
    "pydataset_stream",
    "siamese_network",
    "structured_data",
    "text_classification",
}


def trained_plainly(
    definition: Definition, params: dict[str, Any], number: int, folder: Path
) -> tuple[keras.Model, Data]:
    """Train as the program's script would, and return the model to hand over and the data."""
    trial = RetrainedTrial(params, number)
    data = TrialData(definition).of(trial)

    def named(key: str) -> Any:
        return load_object(definition.references[key], definition.folder, key)

    keras.utils.set_random_seed(seed_of(0, number))
    model = named("model.build")(trial, data)
    settings: dict[str, Any] = {
        "epochs": definition.fit.epochs,
        "batch_size": params.get("batch_size", definition.fit.batch_size),
    }
    if definition.fit.function:
        train = named("fit.function")
        taken = inspect.signature(train).parameters
        any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
        settings = {key: each for key, each in settings.items() if any_name or key in taken}
        train(trial, model, data, **settings, callbacks=[])
    else:
        weights = definition.fit.class_weight
        assert not isinstance(weights, str)
        by_class = {"class_weight": {int(label): each for label, each in weights.items()}} if weights else {}
        rows = given(data.train, settings.pop("batch_size"))
        validation = {}
        if data.validation is not None and validates(model):
            held_out = (data.validation.x, data.validation.y)
            validation = {"validation_data": held_out[0] if data.validation.streamed else held_out}
        if not isinstance(definition.fit.callbacks, str):
            settings["callbacks"] = user_callbacks(definition, data, trial, folder, model)
        steps = {name: getattr(definition.fit, name) for name in ("steps_per_epoch", "validation_steps")}
        model.fit(**rows, **settings, **by_class, **validation, **steps, verbose=0)
    if definition.model.export:
        model = named("model.export")(model, data)
    return model, data


def validates(model: keras.Model) -> bool:
    """Return whether the script could give `fit` a validation part: not with a training step alone."""
    own = type(model)
    return own.train_step is keras.Model.train_step or own.test_step is not keras.Model.test_step


def given(part: Part, batch_size: int | None = None) -> dict[str, Any]:
    if part.streamed:
        return {"x": part.x, **({"shuffle": False} if isinstance(part.x, keras.utils.PyDataset) else {})}
    weights = {} if part.sample_weight is None else {"sample_weight": part.sample_weight}
    return {"x": part.x, "y": part.y, "batch_size": batch_size, "shuffle": False, **weights}


def in_order(definition: Definition) -> Definition:
    """Return the study with its rows in the order given, so that `fit` alone sees the same batches."""
    if definition.fit.function:
        return definition
    return definition.model_copy(update={"fit": definition.fit.model_copy(update={"shuffle": False})})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.heavy) for name in PROGRAMS]
)
def test_a_public_program(name: str, folder: Path, run_search: Searcher) -> None:
    """The program would have to be bent, or what is registered be another model than its own."""
    definition = in_order(load_definition(HERE / f"{name}.toml"))
    outcome = run_search(definition, n_trials=1)
    assert outcome.n_trials == {"complete": 1, "pruned": 0, "failed": 0}
    assert outcome.model is not None
    model, data = trained_plainly(definition, outcome.best.params, outcome.best.number, folder)
    rows = registered_example(definition, model, data)
    served = mlflow.pyfunc.load_model(outcome.model.uri).predict(rows)
    expected = keras.tree.flatten(model(as_tensors(rows), training=False))
    for one, other in zip(served.values() if isinstance(served, dict) else [served], expected, strict=True):
        # With the CTC loss both were 0.3 % apart when measured; why is not known.
        near = 1e-2 if name == "captcha_ocr" else 1e-3
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=near, abs=1e-5)
