"""Only trials of one search's data are compared, in every place that compares."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from search.errors import StorageError
from search.reporting import insight, interactive, overview, plots
from search.reporting.findings import findings_of
from search.study import attributes, create, ranking
from search.study.comparable import Comparison, check_data, comparable_study, comparable_trials
from search.study.storage import open_storage
from search.studyfile.settings import resolve
from tests.studyfiles import definition

OLD = FloatDistribution(0.0, 1.0)
WANTED = definition()


def data_of(digest: str) -> Any:
    return SimpleNamespace(digest=digest, cut="", task="binary", trivial={}, code={})


def add(study: optuna.Study, search_id: str, values: list[float], name: str) -> None:
    draw = random.Random(0)
    for value in values:
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=value,
                params={name: value % 1.0, "width": draw.random()},
                distributions={name: OLD, "width": OLD},
                system_attrs={attributes.SEARCH_RUN: search_id},
            )
        )


class Two:
    """Two searches of one study: the first on the rows `a`, the second, begun while it runs, on the rows `b`."""

    def __init__(self, storage: str) -> None:
        kept = open_storage(storage)
        settings = resolve(WANTED, storage=storage)
        random_sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
        self.first = create.create(WANTED, "small", kept, random_sampler, pruner)
        attributes.set_search(
            self.first, "one", {"began": "1", "basis": check_data(self.first, settings, data_of("a"))}
        )
        add(self.first, "one", [0.001 * number for number in range(1, 21)], "old")
        accepted = settings.model_copy(update={"accept_new_data": True})
        self.second = create.create(WANTED, "small", kept, random_sampler, pruner)
        basis = check_data(self.second, accepted, data_of("b"))
        attributes.set_search(self.second, "two", {"began": "2", "basis": basis})
        add(self.second, "two", [1 + 0.04 * number for number in range(20)], "new")
        add(self.first, "one", [0.5], "old")  # the first search ends after the second began
        self.storage, self.settings = storage, settings


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(str(tmp_path / "small.journal"))


def test_each_search_compares_with_trials_of_its_own_data(two: Two) -> None:
    """The first search would register the second's trial, with the digest of its own data."""
    assert {trial.number for trial in comparable_trials(two.first)} == {*range(20), 40}
    assert {trial.number for trial in comparable_trials(two.second)} == {*range(20, 40)}
    assert ranking.leading_trials(WANTED, two.first)[0].number == 0
    assert ranking.leading_trials(WANTED, two.second)[0].number == 20
    assert not ranking.worth_keeping(WANTED, two.first, [0.002], 41, 1)
    assert ranking.worth_keeping(WANTED, two.second, [0.002], 41, 1)


def test_what_is_reported_is_of_the_data_that_were_accepted_last(two: Two, tmp_path: Path) -> None:
    """A parameter of the old data would be said to matter 98 %, and its trials be drawn among the new ones."""
    study = create.load("small", two.storage)
    assert "old" not in insight.importances(study, WANTED)
    assert insight.importances(study, WANTED)["new"] > 0.5
    found = findings_of(study, WANTED, 5)
    assert [best.number for best in found.best] == [20, 21, 22, 23, 24]
    assert found.states["complete"] == 41
    (at_a_glance,) = overview.overview(two.storage, f"sqlite:///{tmp_path}/none.db")
    assert at_a_glance.best == 1.0
    page = interactive.page(study, WANTED)
    body = page[page.index("<body>") :]
    assert '"new"' in body
    assert '"old"' not in body
    shown = plots.axes(study, WANTED, "slice")
    assert [axes.get_xlabel() for axes in shown.flat if axes.get_visible()] == ["new", "width"]
    lines = plots.axes(study, WANTED, "parallel_coordinate")
    assert "old" not in [tick.get_text() for tick in lines.get_xticklabels()]


@pytest.mark.parametrize("basis", ["a", "b"])
def test_optuna_sees_the_comparable_trials_alone(two: Two, basis: str) -> None:
    """A sampler or pruner of Optuna's would learn from values of other data: it asks for trials in its own ways."""
    view = comparable_study(two.first if basis == "a" else two.second)
    numbers = {*range(20), 40} if basis == "a" else {*range(20, 40)}
    assert {trial.number for trial in view.trials} == numbers
    assert {trial.number for trial in view.get_trials(states=(TrialState.COMPLETE,))} == numbers
    trials = view._get_trials(deepcopy=False, use_cache=True)  # as Optuna's samplers do; it fails when that goes
    assert {trial.number for trial in trials} == numbers


def test_a_resumed_search_goes_on_with_its_own_data(two: Two) -> None:
    """An interrupted search could not go on once another had accepted other data, or would mix both."""
    for search_id, state in (("one", "interrupted"), ("two", "finished")):
        attributes.set_search(two.first, search_id, {**attributes.searches_of(two.first)[search_id], "state": state})
    resumed = two.settings.model_copy(update={"resume": True, "accept_new_data": True})
    basis = attributes.searches_of(two.first)["one"]["basis"]
    check_data(two.second, resumed, data_of("a"), basis)
    assert {trial.number for trial in comparable_trials(two.second)} == {*range(20), 40}
    assert comparable_trials(create.load("small", two.storage))[0].number == 20, "the study's own data are left"
    with pytest.raises(
        StorageError, match=r"the rows \(digest a, now b\) changed .* --accept-new-data, without --resume"
    ):
        check_data(two.second, resumed, data_of("b"), basis)


def test_the_searches_of_an_earlier_release_compare_by_number(two: Two) -> None:
    """A study begun with an earlier release would have no comparable trial, or compare all of them."""
    for search_id in ("one", "two"):
        attributes.set_search(two.first, search_id, {"began": search_id})
    comparison = Comparison(create.load("small", two.storage))
    assert {trial.number for trial in two.first.get_trials() if comparison.holds(trial)} == {*range(20, 41)}


def test_what_waits_before_the_rows_change_is_tried_on_the_new_ones(two: Two) -> None:
    """A configuration that a colleague enqueued in the afternoon would wait for ever after the night's new rows."""
    two.second.enqueue_trial({"width": 0.5})
    settings = two.settings.model_copy(update={"accept_new_data": True})
    check_data(two.second, settings, data_of("c"))
    assert [trial.state for trial in comparable_trials(two.second)] == [TrialState.WAITING]
