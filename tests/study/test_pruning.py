"""Which trials are given up, and when: by default few, late, and only against enough others."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study import ranking, space
from search.study.attributes import BRACKET, FIRST_COMPARABLE
from search.study.brackets import HyperbandPruner
from search.study.proposals import Sampling
from search.study.samplers import make_pruner
from search.studyfile.schema import Definition
from tests.studyfiles import definition

LONG: dict[str, Any] = {"space.epochs": {"type": "int", "low": 5, "high": 30}}
FOLDS: dict[str, Any] = {"data.folds": 5, "data.validation_size": None}


def _study(wanted: Definition, pruner: str, complete: int = 10, steps: int = 30) -> Study:
    """Return a study whose complete trials had the values 0, 1, 2 … at every step."""
    study = optuna.create_study(directions=list(wanted.directions), pruner=make_pruner(wanted, pruner))
    for number in range(complete):
        study.add_trial(create_trial(value=number, intermediate_values=dict.fromkeys(range(steps), float(number))))
    return study


def _pruned_at(study: Study, value: float, steps: int) -> int | None:
    """Return the step at which a trial that has this value at every step is given up."""
    trial = study.ask()
    for step in range(steps):
        trial.report(value, step)
        if trial.should_prune():
            return step
    return None


@pytest.mark.parametrize(
    ("changes", "pruner", "value", "step"),
    [
        ({}, "percentile", 6.0, None),  # better than three of ten
        ({}, "percentile", 7.5, 5),
        ({}, "median", 4.0, None),
        ({}, "median", 6.0, 5),
        ({"direction": "maximize"}, "percentile", 3.0, None),
        ({"direction": "maximize"}, "percentile", 1.5, 5),
        ({"search.pruner_options": {"n_warmup_steps": 1}}, "percentile", 7.5, 1),
        ({"space.epochs": {"type": "int", "low": 1, "high": 8}}, "percentile", 7.5, 2),
        ({"space.epochs": {"type": "categorical", "choices": [8, 4]}}, "percentile", 7.5, 2),
        ({"space.epochs": None, "fit.epochs": 3}, "percentile", 7.5, 0),
        (FOLDS, "percentile", 7.5, 0),
        (FOLDS, "percentile", 6.0, None),
        (FOLDS, "median", 6.0, 0),
        ({"search.repeats": 3}, "percentile", 7.5, 0),
    ],
)
def test_who_is_pruned_and_when(changes: dict[str, Any], pruner: str, value: float, step: int | None) -> None:
    """Good configurations that learn slowly would be lost, or folds never pruned."""
    assert _pruned_at(_study(definition({**LONG, **changes}), pruner), value, 30) == step


def test_the_default_is_the_percentile_pruner() -> None:
    """A person who names none would lose half of the best configurations."""
    assert definition().search.pruner == "percentile"


@pytest.mark.parametrize("pruner", ["percentile", "median", "patient"])
def test_nobody_is_pruned_before_there_is_enough_to_compare_with(pruner: str) -> None:
    """A trial would be given up because one other did better, by chance or with more epochs."""
    wanted = definition(LONG)
    assert _pruned_at(_study(wanted, pruner, complete=9), 100.0, 30) is None
    study = _study(wanted, pruner, steps=4)
    for _ in range(4):  # only four have come further
        study.add_trial(create_trial(value=0.0, intermediate_values=dict.fromkeys(range(30), 0.0)))
    assert _pruned_at(study, 100.0, 30) is None


def test_a_person_who_wants_to_compare_early_can() -> None:
    """`n_startup_trials = 1` would still wait for five others at the same step."""
    options = {"n_startup_trials": 1, "n_warmup_steps": 0}
    wanted = definition({**LONG, "search.pruner": "median", "search.pruner_options": options})
    assert _pruned_at(_study(wanted, "median", complete=1), 100.0, 30) == 0


class _Sees(optuna.samplers.RandomSampler):
    """Notes which trials of the study it is shown for each trial that it samples."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.seen: list[set[float]] = []

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self.seen.append({each.params["learning_rate"] for each in complete})
        return {}


def test_the_sampler_learns_from_hyperbands_brackets_as_the_pruner_sees_them() -> None:
    """The sampler would mix values of trials that were trained for very different numbers of epochs."""
    rate = {"type": "float", "low": 0.0, "high": 1.0}
    wanted = definition({**LONG, "space.learning_rate": rate, "space.dropout": None, "space.batch_size": None})
    sampler, study = _Sees(), optuna.create_study(study_name="any", pruner=make_pruner(wanted, "hyperband"))
    sampling = Sampling(wanted, sampler, 0, make_pruner(wanted, "hyperband"))
    brackets: dict[int, set[float]] = {}
    for _ in range(40):
        sampling.learn(study.get_trials(deepcopy=False))
        refused = sampling.propose()  # its number is used up in the sampler's copy only
        proposal = sampling.propose()
        assert refused is not None
        assert proposal is not None
        known = space.distributions(wanted)
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=proposal.params,
                distributions={name: known[name] for name in proposal.params},
                system_attrs=proposal.attributes,
            )
        )
        number = len(study.trials) - 1
        sampling.began(proposal, number)
        bracket = make_pruner(wanted, "hyperband")._get_bracket_id(study, study.trials[number])  # a worker's own
        assert sampler.seen[-1] == brackets.get(bracket, set())
        brackets.setdefault(bracket, set()).add(proposal.params["learning_rate"])
        study.tell(number, 0.0)
    assert len(brackets) == 4


def test_hyperband_compares_only_trials_of_the_same_data() -> None:
    """After `--accept-new-data` a trial would be pruned by values of the old data."""
    wanted = definition(LONG)
    pruner = make_pruner(wanted, "hyperband")
    assert isinstance(pruner, HyperbandPruner)
    study = optuna.create_study(pruner=pruner)
    for _ in range(2):
        study.add_trial(
            create_trial(
                params={"x": 0.0},
                distributions={"x": FloatDistribution(0, 1)},
                value=0.0,
                system_attrs={BRACKET: 0},
            )
        )
    study.set_user_attr(FIRST_COMPARABLE, 1)
    old, new = study.trials
    shown = pruner._create_bracket_study(study, pruner._get_bracket_id(study, new)).get_trials(deepcopy=False)
    assert [each.number for each in shown] == [new.number] != [old.number]


@pytest.mark.parametrize(
    ("direction", "values", "told"),
    [
        (
            "minimize",
            [0.5, 0.7],
            "0.7, its best 0.5 at step 1; 3 of 4 … (best 0.2, median 0.35)",
        ),
        ("minimize", [0.9, 0.1], "0.1; 0 of 4 … (best 0.2, median 0.35)"),
        (
            "maximize",
            [0.5, 0.25],
            "0.25, its best 0.5 at step 1; 3 of 4 … (best 0.9, median 0.35)",
        ),
        ("minimize", [0.1, 0.2, 0.3], "0.3, its best 0.1 at step 1"),
    ],
)
def test_a_pruned_trial_says_with_what_it_was_compared(direction: str, values: list[float], told: str) -> None:
    """ "pruned after epoch 2" would leave open whether the trial was far off or unlucky."""
    study = optuna.create_study(direction=direction)
    for others in ([0.6, 0.2], [0.6, 0.3], [0.6, 0.4], [0.6, 0.9], [0.6, float("nan")], [0.6]):
        trial = study.ask()
        for step, value in enumerate(others):
            trial.report(value, step)
    mine = study.ask()
    pruned = ranking.pruned("val_loss", mine, f"epoch {len(values)}", dict(enumerate(values)))
    assert str(pruned) == f"pruned after epoch {len(values)}: val_loss {told.replace('…', 'other trials better there')}"
