"""From `[space]` to Optuna's distributions, and what of a space may change."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.errors import StorageError, StudyFileError
from search.study import space
from search.studyfile.parameters import contains_value
from tests.studyfiles import definition

LOG = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}


def test_each_parameter_becomes_its_distribution() -> None:
    """A log scale or step that got lost would search another space than the file's."""
    known = space.distributions(definition({"space.learning_rate": LOG}))
    assert known == {
        "epochs": IntDistribution(1, 3),
        "batch_size": CategoricalDistribution((16, 32)),
        "dropout": FloatDistribution(0.0, 0.5, step=0.25),
        "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    }


def test_the_same_configuration_is_recognised_however_it_was_written() -> None:
    """A configuration would be trained twice, because 0.30000000000000004 is not 0.3."""
    one = space.configuration({"a": 0.3, "b": 1, "c": "1", "d": True})
    assert one == space.configuration({"d": True, "c": "1", "b": 1.0, "a": 0.1 + 2 * 0.1})
    assert one != space.configuration({"a": 0.3, "b": 1, "c": 1, "d": True})
    assert one != space.configuration({"a": 0.3, "b": 1, "c": "1", "d": 1})
    assert one != space.configuration({"a": 0.3001, "b": 1, "c": "1", "d": True})


def test_every_configuration_is_listed_once_and_lies_in_the_space() -> None:
    """A grid would leave out configurations, or Optuna refuse one as out of range."""
    wanted = definition({"space.dropout": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1}})
    listed = list(space.every_configuration(space.distributions(wanted)))
    assert len({space.configuration(each) for each in listed}) == len(listed) == 3 * 2 * 4
    assert space.size(space.distributions(wanted)) == 24
    assert all(space.contains(wanted, name, value) for each in listed for name, value in each.items())
    assert space.grid(wanted)["dropout"][-1] == 0.3


def test_a_space_that_cannot_be_listed_is_told() -> None:
    """A grid without end would fill the memory."""
    with pytest.raises(
        StudyFileError, match=r"space.learning_rate: a float without step; the grid sampler needs a step"
    ):
        space.grid(definition({"space.learning_rate": LOG}))
    with pytest.raises(
        StudyFileError, match=r"space: 1\.8e\+07 configurations; the grid sampler takes at most 100,000"
    ):
        space.grid(definition({"space.width": {"type": "int", "low": 1, "high": 1_000_000}}))


@pytest.mark.parametrize(
    ("name", "value", "inside"),
    [
        ("epochs", 3, True),
        ("epochs", 4, False),
        ("epochs", 2.5, False),
        ("epochs", True, False),
        ("epochs", "2", False),
        ("epochs", float("nan"), False),
        ("batch_size", 16, True),
        ("batch_size", 16.0, False),
        ("dropout", 0.25, True),
        ("dropout", 0.3, False),
        ("width", 8, False),
    ],
)
def test_what_lies_in_the_space(name: str, value: Any, inside: bool) -> None:
    """An enqueued or warm-started value outside would be replaced by a random one, silently."""
    assert space.contains(definition(), name, value) is inside


def test_steps_are_counted_from_low() -> None:
    """An enqueued 3 of 1, 3, 5 would be refused."""
    odd = definition({"space.width": {"type": "int", "low": 1, "high": 5, "step": 2}}).space["width"]
    assert [value for value in range(7) if contains_value(odd, value)] == [1, 3, 5]


def _trial(params: dict[str, Any], **distributions: Any) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(params=params, distributions=distributions, value=1.0)


def test_a_range_may_change() -> None:
    """A person who widens a range would lose all trials of the study."""
    trials = [_trial({"epochs": 9}, epochs=IntDistribution(5, 9))]
    space.check_unchanged(definition(), trials)
    space.check_unchanged(definition(), [_trial({"gone": 1}, gone=IntDistribution(1, 2))])


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (
            _trial({"batch_size": 64}, batch_size=CategoricalDistribution((32, 64))),
            r"study 'small': space.batch_size was one of \[32, 64\] and is now one of \[16, 32\]; .*--study-name",
        ),
        (
            _trial({"epochs": 2.0}, epochs=FloatDistribution(1, 3)),
            "space.epochs was float from 1.0 to 3.0 and is now int",
        ),
        (
            _trial({"epochs": 2}, epochs=IntDistribution(1, 3, log=True)),
            "was int from 1 to 3 with log = true and is now",
        ),
    ],
)
def test_what_optuna_cannot_continue_is_told(trial: optuna.trial.FrozenTrial, message: str) -> None:
    """Optuna would raise in the middle of the search, after the first trials."""
    with pytest.raises(StorageError, match=message):
        space.check_unchanged(definition(), [trial])
