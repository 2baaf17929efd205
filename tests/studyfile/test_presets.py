"""`[space] preset = "mlp"`: what is worth searching, without a line of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cloudpickle
import jsonschema
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_wine

from search import Study
from search.data.loading import load
from search.errors import StudyFileError
from search.session import search
from search.studyfile import objects
from search.studyfile.json_schema import json_schema
from search.studyfile.load import load_definition, parse_definition
from search.studyfile.presets import PRESETS
from search.studyfile.settings import resolve

CONTENT: dict[str, Any] = {
    "name": "wine",
    "metric": "val_loss",
    "direction": "minimize",
    "data": {"source": "sklearn:load_wine"},
    "space": {"preset": "mlp"},
}


def test_a_preset_stands_for_its_parameters() -> None:
    """A newcomer's study would be refused, or search something else than what the pages show."""
    definition = parse_definition(CONTENT, Path("wine.toml"))
    assert [*definition.space] == [*PRESETS["mlp"]]
    assert definition.fit.epochs == 30
    jsonschema.validate(CONTENT, json_schema())


def test_what_the_file_says_itself_counts() -> None:
    """A range of one's own, or a fixed width, would be overruled or refused."""
    width = {"type": "int", "low": 4, "high": 8}
    epochs = {"type": "int", "low": 5, "high": 9}
    fixed = {
        "model": {"optimizer": "sgd"},
        "fit": {"batch_size": 10},
        "space": {"preset": "mlp", "width": width, "epochs": epochs},
    }
    definition = parse_definition({**CONTENT, **fixed}, Path("wine.toml"))
    assert (definition.space["width"].high, definition.space["epochs"].high) == (8, 9)
    assert not {"optimizer", "batch_size"} & {*definition.space}
    assert (definition.fit.epochs, definition.fit.batch_size) == (None, 10)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"space": {"preset": "mpl"}}, r"space\.preset: 'mpl'; use 'mlp'; did you mean 'mlp'"),
        ({"model": {"build": "model.py:build"}}, r"space\.preset: 'mlp' beside a builder of your own; leave it out"),
        ({"space": {"preset": 3}}, r"space\.preset"),
        ({"space": "mlp"}, r"space"),
    ],
)
def test_a_preset_that_cannot_be_is_refused_in_a_line(changed: dict[str, Any], said: str) -> None:
    """The fault would be found in the middle of a night, or not at all."""
    with pytest.raises(StudyFileError, match=said) as error:
        parse_definition({**CONTENT, **changed}, Path("wine.toml"))
    assert "\n" not in str(error.value)


def test_a_table_is_searched_by_a_study_of_six_lines(folder: Path) -> None:
    """The shortest study file there can be would not train."""
    lines = [f"{key} = {json.dumps(CONTENT[key])}" for key in ("name", "metric", "direction")]
    text = "\n".join([*lines, '[data]\nsource = "sklearn:load_wine"', '[space]\npreset = "mlp"'])
    file = folder / "wine.toml"
    file.write_text(text, encoding="utf-8")
    outcome = search(resolve(load_definition(file), n_trials=3, workers=1, offline=True), lambda _: None)
    assert outcome.n_trials["complete"] == 3
    assert {*PRESETS["mlp"]} == {*outcome.best.params}
    assert outcome.best.metrics["test_accuracy"] > 0.9, "the columns of these rows differ by a factor of a thousand"


def test_streams_and_several_inputs_stay_as_they_are() -> None:
    """They would be refused for a key that the file does not have."""
    x, y = np.zeros((40, 3), "float32"), np.arange(40) % 2
    content = {**CONTENT, "data": {"source": "object:data"}}
    for given, scaled in ((x, True), ({"a": x, "b": x}, False), (x[:, 0], False)):
        objects.provide(cloudpickle.dumps(({"data": lambda given=given: (given, y)}, {})))
        assert load(parse_definition(content, Path("wine.toml"))).normalize is scaled
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    own = {**content, "data": {**content["data"], "normalize": False}}
    settings = parse_definition(content, Path("wine.toml")).data
    assert parse_definition(own, Path("wine.toml")).data.normalize is False
    assert settings.normalize == "auto"
    objects.provide(b"")
    objects._provided["data"] = lambda: stream  # it cannot be pickled
    assert load(parse_definition(content, Path("wine.toml"))).normalize is False
    objects.provide(b"")


def test_a_study_in_python_takes_a_preset() -> None:
    """The same study written in Python would be refused."""
    made = Study(
        "wine", data=load_wine(return_X_y=True), metric="val_loss", direction="minimize", space={"preset": "mlp"}
    )
    assert [*made.definition.space] == [*PRESETS["mlp"]]
