"""Which configuration is tried next: never one twice, each of a small space, the same under a seed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from search.study import proposals, space
from search.study.attributes import CONSTRAINTS, RETRIES
from search.study.proposals import Sampling, Suggestion
from search.study.samplers import make_sampler
from search.studyfile.schema import Definition
from search.training.result import Fate, TrialResult
from tests.studyfiles import definition

CONTINUOUS = {
    "space.epochs": {"type": "int", "low": 1, "high": 50},
    "space.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
}
TWO = {"metric": ["val_loss", "parameters"], "direction": ["minimize", "minimize"]}
SAMPLERS = ["tpe", "random", "cmaes", "qmc", "nsga2", "grid"]


class Run:
    """A study in memory that is searched as a search does, without training."""

    def __init__(self, wanted: Definition, sampler: str = "tpe", seed: int = 0) -> None:
        self.wanted = wanted
        self.study = optuna.create_study(directions=list(wanted.directions))
        made = None if sampler == "grid" else make_sampler(wanted, sampler, seed)
        self.sampling = Sampling(wanted, made, seed)

    def ask(self) -> tuple[Suggestion, int] | None:
        proposal = self.sampling.ask(lambda: self.study.get_trials(deepcopy=False))
        if proposal is None:
            return None
        known = space.distributions(self.wanted)
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions={name: known[name] for name in proposal.params},
            system_attrs={**proposal.attributes, RETRIES: proposal.retries},
        )
        self.study.add_trial(trial)
        number = len(self.study.trials) - 1
        self.sampling.began(proposal, number)
        return proposal, number

    def tell(self, number: int, state: TrialState = TrialState.COMPLETE, *values: float, fate: Fate = "failed") -> None:
        trial = self.study.trials[number]
        score = values or tuple(float(sum(map(hash, map(str, trial.params))) % 97) for _ in self.wanted.directions)
        storage = self.study._storage
        storage.set_trial_state_values(trial._trial_id, state, score if state == TrialState.COMPLETE else None)
        self.sampling.on_end(self.study.trials[number], TrialResult(number, fate, 0))

    def search(self, n_trials: int) -> list[dict[str, Any]]:
        tried = []
        for _ in range(n_trials):
            asked = self.ask()
            if asked is None:
                break
            tried.append(asked[0].params)
            self.tell(asked[1], TrialState.COMPLETE, *(float(len(tried) % 5) for _ in self.wanted.directions))
        return tried


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_tried_whole_and_each_configuration_once(sampler: str) -> None:
    """A night would be spent on trainings whose results are known, or a configuration be forgotten."""
    tried = Run(definition(), sampler).search(40)
    assert len(tried) == 3 * 2 * 3
    assert len({space.configuration(each) for each in tried}) == len(tried)


@pytest.mark.parametrize("sampler", SAMPLERS[:-1])
def test_a_large_space_never_repeats_and_a_seed_decides(sampler: str) -> None:
    """A search could not be reproduced, or would train the same configuration again."""
    runs = [Run(definition(CONTINUOUS), sampler, seed).search(25) for seed in (3, 3, 4)]
    assert len({space.configuration(each) for each in runs[0]}) == 25
    assert runs[0] == runs[1] != runs[2]


def test_workers_that_ask_at_once_get_different_configurations() -> None:
    """Two workers would train the same configuration side by side."""
    run = Run(definition())
    asked = [run.ask() for _ in range(18)]
    assert len({space.configuration(each[0].params) for each in asked if each}) == 18
    assert run.ask() is None


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_failed_configuration_may_come_again(sampler: str) -> None:
    """One crash of a machine would lose a configuration for good."""
    run = Run(definition(), sampler)
    asked = [run.ask() for _ in range(18)]
    failed = asked[5]
    assert failed is not None
    run.tell(failed[1], TrialState.FAIL)
    again = run.ask()
    assert again is not None
    assert again[0].params == failed[0].params
    assert run.ask() is None


def test_a_configuration_whose_worker_died_is_tried_again_as_often_as_it_may_be() -> None:
    """One configuration that kills its worker would be tried for ever, or a crash of a machine lose one."""
    run = Run(definition({"search.retries": 1}))
    first, number = run.ask() or pytest.fail("nothing to try")
    run.tell(number, TrialState.FAIL, fate="died")
    second, number = run.ask() or pytest.fail("nothing to try")
    assert (second.params, second.retries) == (first.params, 0)
    run.tell(number, TrialState.FAIL, fate="died")
    third, _ = run.ask() or pytest.fail("nothing to try")
    assert third.params != first.params


def test_what_was_begun_comes_first() -> None:
    """After a kill hours of training would wait behind new trials, or the budget's last trial not go on."""
    run = Run(definition())
    run.sampling.put_first(Suggestion({"epochs": 2, "batch_size": 16, "dropout": 0.25}, 1))
    run.sampling.put_first(Suggestion({"epochs": 3}, 1, number=7))
    going_on = run.sampling.ask(list, new=False)
    assert going_on is not None
    assert going_on.number == 7
    assert run.sampling.ask(list, new=False) is None, "no new trial may begin"
    again, _ = run.ask() or pytest.fail("nothing to try")
    assert again.params == {"epochs": 2, "batch_size": 16, "dropout": 0.25}


def test_what_another_process_runs_is_not_proposed_until_it_failed() -> None:
    """Two searches on one study would train the same, or never retry what died with the other."""
    run = Run(definition())
    params = {"epochs": 2, "batch_size": 16, "dropout": 0.25}
    known = space.distributions(run.wanted)
    run.study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=known))
    rest = run.search(17)
    assert params not in rest
    assert run.ask() is None
    run.tell(0, TrialState.FAIL)
    last = run.ask()
    assert last is not None
    assert last[0].params == params


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_enqueued_configurations_come_first(sampler: str) -> None:
    """The experiments a person made by hand would come late, or never."""
    run = Run(definition(), sampler)
    first = {"epochs": 3, "batch_size": 32, "dropout": 0.5}
    run.sampling.enqueue([first, {"epochs": 1}, first])
    tried = run.search(18)
    assert tried[0] == first
    assert tried[1]["epochs"] == 1
    assert tried.count(first) == 1
    assert len(tried) == 18


def test_more_repeated_enqueued_configurations_than_patience_do_not_hide_the_next() -> None:
    """After a warm start, what was enqueued behind known configurations would be lost."""
    run = Run(definition(CONTINUOUS))
    known = run.search(15)
    new = {"epochs": 50, "batch_size": 16, "dropout": 0.0, "learning_rate": 0.05}
    run.sampling.enqueue([*known, new])
    asked = run.ask()
    assert asked is not None
    assert asked[0].params == new


def test_values_for_a_builder_travel_with_the_proposal() -> None:
    """An enqueued value that only the builder suggests would be replaced by a random one."""
    run = Run(definition({"model.build": "m:f"}))
    run.sampling.enqueue([{"epochs": 2, "depth": 3}])
    asked = run.ask()
    assert asked is not None
    assert asked[0].fixed == {"epochs": 2, "depth": 3}
    assert asked[0].params["epochs"] == 2
    assert "fixed_params" not in asked[0].attributes


def test_a_builder_that_suggests_more_does_not_end_with_its_space() -> None:
    """A study whose `[space]` holds two values would end after two trials of a hundred."""
    wanted = definition({"model.build": "m:f", "space": {"epochs": {"type": "int", "low": 1, "high": 2}}})
    run = Run(wanted, "random")
    for depth in range(1, 9):
        asked = run.ask()
        assert asked is not None
        inner = {"epochs": IntDistribution(1, 2), "depth": IntDistribution(1, 99)}
        run.study._storage.set_trial_param(asked[1], "depth", float(depth), inner["depth"])
        run.tell(asked[1])


def test_cma_es_goes_on_where_it_was() -> None:
    """Its state would be lost with each process, and it would sample at random for ever."""
    changes = {**CONTINUOUS, "space.width": {"type": "int", "low": 1, "high": 500}}
    run = Run(definition({**changes, "search.sampler": "cmaes", "search.sampler_options": {"popsize": 4}}), "cmaes")
    run.search(14)
    noted = [name for trial in run.study.trials for name in trial.system_attrs]
    assert any(name.startswith("cma") for name in noted)
    later = Run(run.wanted, "cmaes")
    later.study = run.study
    asked = later.ask()
    assert asked is not None
    assert any(name.startswith("cma") for name in asked[0].attributes)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "qmc", "grid"])
def test_several_metrics_are_searched(sampler: str) -> None:
    """A study of loss against size would stop with an error of the sampler."""
    assert len(Run(definition(TWO), sampler).search(18)) == 18


def test_pruned_trials_are_not_tried_again() -> None:
    """What the pruner found hopeless would be trained anew."""
    run = Run(definition())
    for _ in range(18):
        asked = run.ask()
        assert asked is not None
        run.study._storage.set_trial_intermediate_value(asked[1], 0, 1.0)
        run.tell(asked[1], TrialState.PRUNED)
    assert run.ask() is None


def test_samplers_hear_of_constraints() -> None:
    """The sampler would go on proposing models that are too slow to be chosen."""
    run = Run(definition({**CONTINUOUS, "search.constraints": ["latency_ms <= 5"]}))
    for beyond in (1.5, -0.5):
        asked = run.ask()
        assert asked is not None
        run.study._storage.set_trial_user_attr(asked[1], CONSTRAINTS, [beyond])
        run.tell(asked[1], TrialState.COMPLETE, 1.0)
    run.ask()
    assert [trial.constraints for trial in run.sampling._copy.trials[:2]] == [{"0": 1.5}, {"0": -0.5}]
    later = Run(run.wanted)
    later.sampling.learn(run.study.trials)
    assert [trial.constraints for trial in later.sampling._copy.trials[:2]] == [{"0": 1.5}, {"0": -0.5}]
    assert run.study.trials[0].constraints == {}


def test_a_long_study_is_thinned_out_for_tpe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking would take longer with every trial, or lose the best trials, the running ones, or try one twice."""
    monkeypatch.setattr(proposals, "_KEPT", 20)
    monkeypatch.setattr(proposals, "_KEPT_BEST", 5)
    monkeypatch.setattr(proposals, "_KEPT_RUNNING", 3)
    run = Run(definition(CONTINUOUS))
    first, number = run.ask() or pytest.fail("nothing to try")
    for value in range(100):
        _, other = run.ask() or pytest.fail("nothing to try")
        run.tell(other, TrialState.COMPLETE, float(abs(value - 50)))
    known = run.sampling._copy.get_trials(deepcopy=False)
    assert len(known) <= 2 * (20 + 3) + 1
    values = sorted(trial.values[0] for trial in known if trial.state == TrialState.COMPLETE)
    assert values[:5] == [0.0, 1.0, 1.0, 2.0, 2.0]
    run.tell(number, TrialState.COMPLETE, -1.0)
    run.ask()
    known = run.sampling._copy.get_trials(deepcopy=False)
    assert [trial.values[0] for trial in known if trial.params == first.params] == [-1.0]
    assert all(trial.state != TrialState.RUNNING for trial in known[:-1])
    assert len({tuple(trial.params.items()) for trial in run.study.trials}) == len(run.study.trials)


def test_of_many_running_trials_tpe_sees_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 500 workers asking would take longest, or what they try be lost or tried twice."""
    monkeypatch.setattr(proposals, "_KEPT", 20)
    monkeypatch.setattr(proposals, "_KEPT_BEST", 5)
    monkeypatch.setattr(proposals, "_KEPT_RUNNING", 5)
    run = Run(definition(CONTINUOUS))
    begun = [run.ask() or pytest.fail("nothing to try") for _ in range(60)]
    known = run.sampling._copy.get_trials(deepcopy=False)
    assert len(known) <= 2 * (20 + 5) + 1
    assert known[-1].params == begun[-1][0].params, "the newest is there"
    assert begun[0][0].params not in [trial.params for trial in known], "the oldest is not"
    run.tell(0, TrialState.FAIL)
    for value, (_, number) in enumerate(begun[1:]):
        run.tell(number, TrialState.COMPLETE, float(value))
    run.ask()
    best = min(trial.values[0] for trial in run.sampling._copy.get_trials(deepcopy=False) if trial.values)
    assert best == 0.0, "what the copy gave up is learned from when it ends"
    assert len({tuple(trial.params.items()) for trial in run.study.trials}) == len(run.study.trials)


def test_many_waiting_configurations_have_no_copy_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thousand `[[enqueue]]` tables each ask would copy them all."""
    monkeypatch.setattr(proposals, "_KEPT", 5)
    monkeypatch.setattr(proposals, "_KEPT_RUNNING", 5)
    run = Run(definition(CONTINUOUS))
    run.sampling.enqueue([{"epochs": epochs, "learning_rate": 0.01} for epochs in range(1, 41)])
    made: list[None] = []
    monkeypatch.setattr(run.sampling, "_begin_copy", lambda *_: made.append(None))
    for value in range(15):
        proposal, number = run.ask() or pytest.fail("nothing to try")
        assert proposal.params["epochs"] == value + 1
        run.tell(number, TrialState.COMPLETE, float(value))
    assert not made


@pytest.mark.parametrize("sampler", ["cmaes", "nsga2"])
def test_samplers_that_count_their_trials_keep_all(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMA-ES and NSGA-II would lose a generation."""
    monkeypatch.setattr(proposals, "_KEPT", 10)
    run = Run(definition(CONTINUOUS), sampler)
    for value in range(30):
        _, number = run.ask() or pytest.fail("nothing to try")
        run.tell(number, TrialState.COMPLETE, float(value))
    assert len(run.sampling._copy.get_trials(deepcopy=False)) == 30


def test_a_search_goes_on_after_its_space_changed() -> None:
    """What was learned in a night would be lost with one more choice, or a configuration be trained again."""
    text = {"type": "categorical", "choices": ["relu", "tanh"]}
    before = Run(
        definition(
            {"space": {"epochs": {"type": "int", "low": 1, "high": 3}, "activation": text}, "fit.batch_size": 16}
        )
    )
    before.search(4)
    renamed = {**text, "choices": ["relu6", "tanh", "gelu"], "was": {"relu6": "relu"}}
    rate = {"type": "categorical", "choices": [16, 32], "before": 16}
    wanted = {"epochs": {"type": "int", "low": 1, "high": 2}, "activation": renamed, "batch_size": rate}
    after = Run(definition({"space": wanted}))
    after.study = before.study
    known = {space.configuration(space.translated(after.wanted, each.params) or {}) for each in before.study.trials}
    inside = sum(each.params["epochs"] <= 2 for each in before.study.trials)
    tried = [space.configuration(each) for each in after.search(40)]
    assert len(tried) == len(set(tried)) == 2 * 3 * 2 - inside
    assert not known & set(tried)
    learned = [each.params for each in after.sampling._copy.trials if each.state == TrialState.COMPLETE]
    assert len(learned) == len(after.study.trials)
    assert all(each.keys() == {"epochs", "activation", "batch_size"} for each in learned)


def test_an_excluded_trial_is_forgotten() -> None:
    """The sampler would go on learning from a trial that saw the test rows, or lose trials behind it in the list."""
    run = Run(definition(CONTINUOUS))
    run.sampling.enqueue([{"epochs": 2}, {"epochs": 3}])
    run.ask()
    for value in range(6):
        _, number = run.ask() or pytest.fail("nothing to try")
        run.tell(number, TrialState.COMPLETE, float(value))
    trials = run.study.get_trials(deepcopy=False)
    run.sampling.ask(lambda: trials)
    run.sampling.ask(lambda: [trial for trial in trials if trial.number != 3])
    learned = [trial for trial in run.sampling._copy.trials if trial.state == TrialState.COMPLETE]
    assert [trial.values[0] for trial in learned] == [0.0, 1.0, 3.0, 4.0, 5.0]
    run.tell(0, TrialState.COMPLETE, 9.0)
    run.sampling.ask(lambda: [trial for trial in run.study.trials if trial.number != 3])
    learned = [trial for trial in run.sampling._copy.trials if trial.state == TrialState.COMPLETE]
    assert [trial.values[0] for trial in learned] == [0.0, 1.0, 3.0, 4.0, 5.0, 9.0], "also what ran in between"
