"""From `[space]` to Optuna's distributions, and what of a space may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from search.errors import StudyFileError
from search.study import space
from search.study.storage import open_storage
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


SPACE = {
    "space.epochs": {"type": "int", "low": 1, "high": 9, "before": 5},
    "space.batch_size": {"type": "categorical", "choices": [16, 64]},
    "space.dropout": None,
    "space.activation": {"type": "categorical", "choices": ["relu6", "tanh"], "was": {"relu6": "relu"}},
}


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ({"epochs": 3, "batch_size": 16, "activation": "tanh"}, {}),
        ({"epochs": 3, "batch_size": 16, "activation": "relu"}, {"activation": "relu6"}),
        ({"batch_size": 64, "activation": "relu6"}, {"epochs": 5}),
        ({"epochs": 300, "batch_size": 64, "activation": "tanh"}, {}),
    ],
    ids=["as it was", "renamed", "added", "range"],
)
def test_an_earlier_trial_is_read_in_the_space_of_now(earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """A person who renames a choice would lose all trials of the study, or patch its database by hand."""
    wanted = definition(SPACE)
    assert space.translated(wanted, {**earlier, "gone": 1}) == {**earlier, **now}


@pytest.mark.parametrize(
    "earlier",
    [
        {"epochs": 3, "batch_size": 32, "activation": "tanh"},
        {"epochs": 3, "activation": "tanh"},
        {"epochs": 3.5, "batch_size": 16, "activation": "tanh"},
    ],
    ids=["choice taken away", "added without before", "no whole number"],
)
def test_an_earlier_trial_without_meaning_is_not_learned_from(earlier: dict[str, Any]) -> None:
    """The sampler would learn from a value that nobody tried."""
    assert space.translated(definition(SPACE), earlier) is None


def test_a_choice_is_renamed_from_one_that_is_gone() -> None:
    """Two choices would be one, and nobody would be told."""
    wanted = {"type": "categorical", "choices": ["relu", "tanh"]}
    with pytest.raises(StudyFileError, match=r"relu6 is no choice; write \{ NEW = OLD \}"):
        definition({"space.activation": {**wanted, "was": {"relu6": "elu"}}})
    with pytest.raises(StudyFileError, match="'tanh' is a choice still"):
        definition({"space.activation": {**wanted, "was": {"relu": "tanh"}}})


CHANGES: list[tuple[Any, Any]] = [
    (CategoricalDistribution((16, 32)), 16),
    (CategoricalDistribution((16, 32, 64)), 64),
    (IntDistribution(8, 128), 100),
    (CategoricalDistribution(("small", "large")), "large"),
    (FloatDistribution(1.0, 9.0, log=True), 2.5),
    (FloatDistribution(1.0, 9.0), 3.5),
]


@pytest.mark.parametrize("begun", range(len(CHANGES)))
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_storages_keep_each_trial_under_its_own_space(tmp_path: Path, kind: str, begun: int) -> None:
    """Optuna would refuse the first trial after the change; an upgrade of Optuna that does again fails here."""
    url = str(tmp_path / "a.journal") if kind == "journal" else f"sqlite:///{tmp_path}/a.db"
    storage = open_storage(url)
    study = optuna.create_study(study_name="a", storage=storage)
    study_id = storage.get_study_id_from_name("a")
    changes = [*CHANGES[begun:], *CHANGES[:begun]]
    for now, value in changes:
        first = space.first_distributions(study.get_trials(deepcopy=False))
        kept = {"size": space.storable(now, first.get("size"))}
        template = create_trial(state=TrialState.RUNNING, params={"size": value}, distributions=kept)
        study.tell(optuna.trial.Trial(study, storage.create_new_trial(study_id, template_trial=template)), 1.0)
    found = optuna.load_study(study_name="a", storage=open_storage(url)).get_trials()
    assert [each.params["size"] for each in found] == [value for _, value in changes]
    assert [each.distributions["size"] for each in found] == [now for now, _ in changes]


@pytest.mark.parametrize(
    ("now", "value", "holds"),
    [
        (IntDistribution(8, 64, step=8), 13, IntDistribution(8, 64)),
        (IntDistribution(8, 64, step=8), 16, IntDistribution(8, 64, step=8)),
        (IntDistribution(8, 64), 99, IntDistribution(8, 99)),
        (FloatDistribution(0.0, 0.5, step=0.1), 0.3, FloatDistribution(0.0, 0.5, step=0.1)),
        (FloatDistribution(0.0, 0.5, step=0.1), 0.25, FloatDistribution(0.0, 0.5)),
    ],
)
def test_a_new_step_does_not_refuse_what_was_tried_before(now: Any, value: float, holds: Any) -> None:
    """The next search would end in a defect once a parameter got a step."""
    assert space.holding(now, value) == holds
    create_trial(value=0.0, params={"width": value}, distributions={"width": holds})
