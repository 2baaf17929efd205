"""Trials asked before the first one: which configurations the builder takes, and what it makes of the enqueued ones."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial

from search.data.dataset import Data
from search.data.loading import TrialData
from search.errors import nearest_first
from search.study import space
from search.studyfile.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    contains_value,
    describe,
    written,
)
from search.studyfile.schema import Definition
from search.training.model import build

_DRAWS = 8  # of what an enqueued configuration leaves out, until the builder suggests all that it gives


def probes(definition: Definition, seed: int = 0) -> Iterator[Trial]:
    """Yield trials like the search's first ones, without end, from a study in memory.

    They are the same for every search of a study, whatever its seed: so is then the digest of data that
    depend on the trial.
    """
    study = optuna.create_study(sampler=RandomSampler(seed=seed), directions=list(definition.directions))
    if definition.enqueue:
        study.enqueue_trial(dict(definition.enqueue[0]))
    while True:
        yield study.ask(space.distributions(definition))


def check_enqueued(definition: Definition, every: Data | TrialData) -> None:
    """Check what `[[enqueue]]` gives beyond `[space]` against what the builder suggests for that configuration.

    A parameter may depend on one that the configuration leaves out, and that is sampled.

    Raises:
        StudyFileError: The builder suggests no parameter of that name, or not with that value.
    """
    for index, given in enumerate(definition.enqueue):
        more = {name: value for name, value in given.items() if name not in definition.space}
        if not more:
            continue
        suggested, finished = _suggested(definition, every, given, more.keys())
        for name, value in more.items():
            key = f"enqueue[{index}].{name}"
            if name in suggested and not contains_value(parameter := _parameter(suggested[name]), value):
                what = f"{written(value)} is outside what the builder suggests"
                raise definition.error(key, what, f"use {describe(parameter)}")
            if name not in suggested and finished:
                what = "neither in [space] nor suggested by the builder for this configuration"
                right = nearest_first(name, suggested, f"there are {', '.join(suggested)}")
                raise definition.error(key, what, right)


def _suggested(
    definition: Definition, every: Data | TrialData, given: Mapping[str, Any], sought: Collection[str]
) -> tuple[dict[str, BaseDistribution], bool]:
    """Return what the builder suggests for a configuration, and whether it finished."""
    suggested: dict[str, BaseDistribution] = {}
    finished = False
    for seed in range(_DRAWS):
        drawn, ended = _suggested_once(definition, every, given, seed)
        suggested, finished = {**drawn, **suggested}, finished or ended
        if all(name in suggested for name in sought) or drawn.keys() <= given.keys():
            break
    return suggested, finished


def _suggested_once(
    definition: Definition, every: Data | TrialData, given: Mapping[str, Any], seed: int
) -> tuple[dict[str, BaseDistribution], bool]:
    sampler = _Given(given, seed)
    study = optuna.create_study(sampler=sampler, directions=list(definition.directions))
    trial = study.ask(space.distributions(definition))
    finished = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build(definition, trial, every.of(trial))
    except (Exception, SystemExit):  # it refuses this configuration: the trial will say so
        finished = False
    return {**trial.distributions, **sampler.seen}, finished


class _Given(RandomSampler):
    """Samples each parameter's given value, or another one if its distribution does not contain it."""

    def __init__(self, given: Mapping[str, Any], seed: int) -> None:
        super().__init__(seed)
        self._given = given
        self.seen: dict[str, BaseDistribution] = {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self.seen[param_name] = param_distribution
        if param_name in self._given and contains_value(_parameter(param_distribution), self._given[param_name]):
            return self._given[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def _parameter(suggested: Any) -> Any:
    """Return a distribution as `[space]` would have it; its choices may be of any kind."""
    if isinstance(suggested, CategoricalDistribution):
        return CategoricalParameter.model_construct(choices=suggested.choices)
    whole = isinstance(suggested, IntDistribution)
    step = None if whole and suggested.step == 1 else suggested.step
    kind = IntParameter if whole else FloatParameter
    return kind.model_construct(low=suggested.low, high=suggested.high, step=step)
