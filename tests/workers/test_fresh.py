"""A version is loaded as its users will load it, before anybody is pointed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from search.data.summary import Answers
from search.errors import ModelError, SearchError
from search.studyfile.schema import Definition
from search.tracking import registry
from search.workers.fresh import FreshProcess
from tests.conftest import Searcher
from tests.tracking.test_serving import save, summary

Tiny = Callable[..., Definition]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MODEL = """
import importlib
import pathlib
import keras

COUNT = [0]

@keras.saving.register_keras_serializable("hidden")
class Scaled(keras.layers.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        COUNT[0] += 1
        self.count = COUNT[0]

    def call(self, x):
        return x * {factor}


def build(trial, data):
    inputs, x = data.inputs()
    x = keras.layers.Dense(trial.params["width"], "relu")(Scaled()(x))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["binary_accuracy"])
    return model
"""


@pytest.fixture(scope="module")
def fresh() -> Iterator[FreshProcess]:
    with FreshProcess() as process:
        yield process


def test_a_model_that_is_whole_passes_and_one_that_lost_weights_does_not(fresh: FreshProcess, tmp_path: Path) -> None:
    """A model that predicts by other weights than the trained one would become challenger."""
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    folder = Path(save(model, tmp_path / "model", summary()))
    (folder / "example_answers.npz").write_bytes(Answers(rows, {"": model.predict(rows, verbose=0)}).to_bytes())
    assert fresh.check(folder, rows) == ""
    (folder / "example_answers.npz").write_bytes(Answers(rows, {"": model.predict(rows, verbose=0) + 1}).to_bytes())
    assert "its predictions are not those of the trained model" in fresh.check(folder, rows)
    (folder / "example_answers.npz").write_bytes(Answers(rows, {}).to_bytes())
    assert fresh.check(folder, rows) == "", "inference that draws at random has nothing to be compared with"
    assert "the model takes" in fresh.check(folder, np.zeros((2, 5), "float32"))


def test_answers_are_read_as_they_were_written() -> None:
    """Listed, named and text inputs would be compared as something else."""
    text = np.array(["a", "bc"], object)
    for inputs in ([text, np.ones(2)], {"a": np.ones((2, 2)), "b": text}, np.zeros((2, 3))):
        read = Answers.from_bytes(Answers(inputs, {"x": np.ones(2)}).to_bytes())
        assert type(read.inputs) is type(inputs)
        ours = read.inputs.values() if isinstance(inputs, dict) else read.inputs
        theirs = inputs.values() if isinstance(inputs, dict) else inputs
        assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))
        assert list(read.outputs) == ["x"]


def test_a_version_that_predicts_otherwise_gets_no_alias(folder: Path, tiny: Tiny, run_search: Searcher) -> None:
    """The model would be promoted, and predict something else on the machine that serves it."""
    definition = tiny(build="counted.py:build", code=MODEL.format(factor="self.count"))
    with pytest.raises(SearchError, match=r"models:/tiny/1 has no alias: .*not those of the trained.*trials are kept"):
        run_search(definition, n_trials=1)
    version = MlflowClient().get_model_version("tiny", "1")
    assert "its predictions" in version.tags[registry.REFUSED]
    assert version.aliases == []
    assert "It cannot be used" in version.description
    runs = mlflow.search_runs(experiment_names=["tiny"], output_format="list")
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        ("importlib.import_module('fac' + 'tor').FACTOR", r"ModuleNotFoundError: No module named 'factor'\); with a"),
        ("float(pathlib.Path('studies/k.txt').read_text())", r"No such file or directory: 'studies/k.txt'\); with a"),
    ],
)
def test_a_model_that_loads_nowhere_else_is_not_trained(
    factor: str, said: str, folder: Path, tiny: Tiny, run_search: Searcher
) -> None:
    """A night of trials would end with a version that cannot be served."""
    definition = tiny(build="hidden.py:build", code=MODEL.format(factor=factor))
    (folder / "studies" / "factor.py").write_text("FACTOR = 1.5\n")
    (folder / "studies" / "k.txt").write_text("1.5")
    with pytest.raises(ModelError, match=f"cannot be loaded outside the study's folder .*{said}"):
        run_search(definition, n_trials=1)
    assert not (folder / "studies" / "tiny.journal").exists()
