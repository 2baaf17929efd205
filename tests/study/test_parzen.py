"""TPE's densities by SciPy: the proposals are those of Optuna alone."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from search.study import parzen

SPACE: dict[str, Any] = {
    "epochs": IntDistribution(1, 1000),
    "width": IntDistribution(8, 256, log=True),
    "dropout": FloatDistribution(0.0, 0.6, step=0.05),
    "learning_rate": FloatDistribution(1e-5, 1.0, log=True),
    "batch_size": CategoricalDistribution([16, 32, 64]),
}


def proposals(*, quick: bool, finished: int) -> list[dict[str, Any]]:
    """Return what TPE proposes with so many trials behind it, the proposals before still running."""
    sampler = optuna.samplers.TPESampler(seed=5)
    if quick:
        parzen.quicken(sampler)
    study = optuna.create_study(sampler=sampler)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(finished):
        params = drawn.ask(SPACE).params
        value = params["learning_rate"] * params["width"]
        study.add_trial(create_trial(value=value, params=params, distributions=SPACE))
    return [study.ask(SPACE).params for _ in range(15)]


@pytest.mark.parametrize("finished", [40, 300])
def test_proposals_are_those_of_optuna(finished: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a seed no longer gives the configurations that a script with Optuna gets."""
    uses = []
    by_scipy = parzen._scipy
    monkeypatch.setattr(parzen, "_scipy", lambda: uses.append(0) or by_scipy())  # type: ignore[func-returns-value]
    assert proposals(quick=True, finished=finished) == proposals(quick=False, finished=finished)
    assert bool(uses) == (finished > parzen._MANY)
    assert {name: vars(parzen._truncnorm)[name] for name in parzen._OPTUNAS} == parzen._OPTUNAS
