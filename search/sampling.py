"""Which configuration to try next: never one that the study has finished, pruned or is running.

The sampler works on a copy of the study in memory. So asking costs the same whatever storage the
study is kept in, a proposal that is not new leaves no trace, and a trial reaches the storage in one
write, whole. What samplers note on their trials (CMA-ES's state, NSGA-II's generations) goes along.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search import space
from search.definition import Definition

_PROPOSALS = 10  # proposals that are not new before an unseen configuration is drawn from a list
_LISTABLE = 1_000_000  # a space of more configurations than this is not listed
_SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@dataclass(frozen=True)
class Proposal:
    """A configuration to try.

    Attributes:
        params: A value for each parameter of the space.
        fixed: Values that a builder's own suggestions must take.
        attributes: What the sampler noted on its trial.
        trial: The sampler's own trial, in its copy of the study.
    """

    params: dict[str, Any]
    fixed: dict[str, Any]
    attributes: dict[str, Any]
    trial: optuna.Trial


class Sampling:
    """Asks the sampler, and keeps its copy of the study up to date.

    Not thread-safe: one caller at a time.

    Args:
        definition: The study file.
        sampler: Optuna's sampler; None tries the whole space in a random order, as a grid.
        seed: Seed of that order.
    """

    def __init__(self, definition: Definition, sampler: BaseSampler | None, seed: int) -> None:
        self._space = space.distributions(definition)
        self._grid = sampler is None
        self._random = random.Random(seed)
        self._copy = optuna.create_study(sampler=sampler, directions=list(definition.directions))
        self._seen: set[space.Configuration] = set()
        self._known: set[int] = set()
        self._pending: dict[int, optuna.Trial] = {}  # by number in the study
        self._unseen: list[dict[str, Any]] | None = None

    def enqueue(self, configurations: list[dict[str, Any]]) -> None:
        """Try these first; parameters that they leave out are sampled."""
        for configuration in configurations:
            self._copy.enqueue_trial(configuration)

    def learn(self, trials: list[FrozenTrial]) -> None:
        """Take note of the study's trials: each finished one once, each running one as seen."""
        for trial in trials:
            if trial.state in _SEEN:
                self._seen.add(self._configuration(trial.params))
            if trial.number in self._known or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
                continue
            self._known.add(trial.number)
            running = self._pending.pop(trial.number, None)
            if running is None:
                self._copy.add_trial(trial)
            else:
                self._finish(running, trial)

    def forget(self, number: int) -> None:
        """Take note that the trial of this number failed: its configuration may be tried again."""
        failed = self._pending.pop(number, None)
        if failed is not None:
            self._copy.tell(failed, state=TrialState.FAIL)
            self._seen.discard(self._configuration(failed.params))

    def propose(self) -> Proposal | None:
        """Return a configuration that is new, or None when the space has none left."""
        if not self._grid or self._copy.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            for _ in range(_PROPOSALS):
                trial = self._copy.ask(self._space)
                if self._new(trial.params):
                    return self._proposal(trial)
                self._copy.tell(trial, state=TrialState.FAIL)
        unseen = self._draw_unseen()
        if unseen is None:
            return None
        self._copy.enqueue_trial(unseen)
        return self._proposal(self._copy.ask(self._space))

    def began(self, proposal: Proposal, number: int) -> None:
        """Take note that the proposal became the study's trial of this number."""
        self._pending[number] = proposal.trial
        self._seen.add(self._configuration(proposal.params))

    def _proposal(self, trial: optuna.Trial) -> Proposal:
        attributes = dict(self._copy.get_trials(deepcopy=False)[trial.number].system_attrs)
        fixed = attributes.pop("fixed_params", {})
        return Proposal(dict(trial.params), fixed, attributes, trial)

    def _configuration(self, params: dict[str, Any]) -> space.Configuration:
        return space.configuration({name: params[name] for name in self._space if name in params})

    def _new(self, params: dict[str, Any]) -> bool:
        return self._configuration(params) not in self._seen

    def _finish(self, running: optuna.Trial, trial: FrozenTrial) -> None:
        """Give the copy's running trial the fate of the study's."""
        for name, value in trial.user_attrs.items():
            running.set_user_attr(name, value)
        if len(self._copy.directions) == 1:
            for step, reported in trial.intermediate_values.items():
                running.report(reported, step)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        self._copy.tell(running, values, state=trial.state)

    def _draw_unseen(self) -> dict[str, Any] | None:
        if space.size(self._space) > _LISTABLE:
            return self._random_configuration()
        if self._unseen is None:
            self._unseen = list(space.every_configuration(self._space))
            self._random.shuffle(self._unseen)
        while self._unseen:
            if self._new(candidate := self._unseen.pop()):
                return candidate
        return None

    def _random_configuration(self) -> dict[str, Any]:
        """Return a random configuration of a space too large to list; it is new almost surely."""
        sampler = optuna.samplers.RandomSampler(seed=self._random.getrandbits(31))
        drawn = optuna.create_study(sampler=sampler).ask(self._space)
        return dict(drawn.params)
