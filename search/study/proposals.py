"""Which configuration to train next: never one that the study has finished, pruned or is running.

The sampler works on a copy of the study in memory. So asking costs the same whatever storage the
study is kept in, a proposal that is not new leaves no trace, and a trial reaches the storage in one
write, whole. What samplers note on their trials (CMA-ES's state, NSGA-II's generations) goes along.
"""

from __future__ import annotations

import copy
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study import space
from search.study.attributes import BRACKET, FAILED_ITSELF, FIXED, RETRIES, constraints_of, ended_elsewhere
from search.study.listener import Listener
from search.study.ranking import FINISHED
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    from search.training.result import TrialResult

_PROPOSALS = 10  # proposals that are not new before an unseen configuration is drawn instead
_DRAWS = 1000  # random draws from a space too large to be listed, before it counts as exhausted
# TPE's time grows with the trials that it learns from, running ones too. At most so many of the copy's are kept, when
# it has twice as many: the best, of which TPE takes 25 for its good ones, of the other finished ones a random choice,
# and of the running ones the newest.
_KEPT, _KEPT_BEST, _KEPT_RUNNING = 300, 50, 200


@dataclass(frozen=True)
class Suggestion:
    """A configuration to train: as a new trial, or as one that the study has, which waits or goes on from a checkpoint.

    Attributes:
        params: A value for each parameter of the space; of one to try again also those that its builder suggested.
        retries: How often it may be tried again when its worker dies.
        number: The study's trial; None for a new one.
        fixed: Values that a builder's own suggestions must take.
        attributes: What the sampler noted on its trial.
        copied: The sampler's own trial, in its copy of the study; None for one that goes on.
        refused: Why a waiting trial cannot be trained; empty where it can.
    """

    params: dict[str, Any]
    retries: int
    number: int | None = None
    fixed: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    copied: optuna.Trial | None = None
    refused: str = ""


class Sampling(Listener):
    """Says what to train next: what is to be done first, then what the sampler proposes.

    It keeps the sampler's copy of the study up to date. Not thread-safe: one caller at a time.

    Args:
        sampler: Optuna's sampler; None tries the whole space in a random order, as a grid.
        seed: Seed of that order.
        changed: Parameters that the storage does not take from a trial that waits, as `space.changed` has them.
        pruner: The study's; with Hyperband samplers learn from each bracket by itself.
    """

    def __init__(
        self,
        definition: Definition,
        sampler: BaseSampler | None,
        seed: int,
        pruner: BasePruner | None = None,
        changed: Sequence[str] = (),
    ) -> None:
        self._changed = changed
        self._definition, self._space = definition, space.distributions(definition)
        self._first: list[Suggestion] = []
        self._grid = sampler is None
        self._random = random.Random(seed)
        self._directions = list(definition.directions)
        # Others may count the copy's trials, as CMA-ES and NSGA-II do.
        self._thins = isinstance(sampler, optuna.samplers.TPESampler) and len(self._directions) == 1
        self._begin_copy(sampler, pruner)
        self._finished: set[space.Configuration] = set()
        self._failures: Counter[space.Configuration] = Counter()  # by the configuration's own error
        self._running: dict[int, space.Configuration] = {}  # by number in the study
        self._known: set[int] = set()
        self._open = not self._space  # whether builders suggest more, so that a `[space]` alone is no configuration
        self._pending: dict[int, optuna.Trial | None] = {}  # by number in the study; None where the copy has it no more
        self._unseen: list[dict[str, Any]] | None = None

    def _begin_copy(self, sampler: BaseSampler | None, pruner: BasePruner | None) -> None:
        self._storage = optuna.storages.InMemoryStorage()
        self._copy = optuna.create_study(
            storage=self._storage, sampler=sampler, pruner=pruner, directions=self._directions
        )
        self._study_id = self._storage.get_study_id_from_name(self._copy.study_name)

    def enqueue(self, configurations: Iterable[dict[str, Any]]) -> None:
        """Try these before the sampler's own; parameters that they leave out are sampled."""
        for configuration in configurations:
            self._copy.enqueue_trial(dict(configuration))

    def put_first(self, suggestion: Suggestion) -> None:
        """Put a suggestion before all others: trials that go on come first, then configurations to try again."""
        self._first = sorted([*self._first, suggestion], key=lambda each: each.number is None)

    def ask(self, trials: Callable[[], list[FrozenTrial]], *, new: bool = True) -> Suggestion | None:
        """Return what to train next; None when there is nothing.

        Args:
            trials: Returns the trials of the study, for `learn`.
            new: Whether a new trial may begin; else only one that goes on.
        """
        if self._first and self._first[0].number is not None:
            return self._first.pop(0)
        if not new:
            return None
        self.learn(known := trials())
        while self._first:
            again = self._first.pop(0)
            if not space.outside(self._definition, again.params):  # the space may have changed since then
                return replace(self.repeat(again.params), retries=again.retries)
        waiting = next((trial for trial in known if trial.state == TrialState.WAITING), None)
        return self.propose() if waiting is None else self._of_waiting(waiting)

    def _of_waiting(self, trial: FrozenTrial) -> Suggestion:
        """Return what a trial that somebody enqueued in the storage asks for; the sampler adds what it lacks."""
        fixed = dict(trial.system_attrs.get(FIXED, {}))
        refused = space.outside(self._definition, fixed)
        if not refused and self._changed:  # a journal loses such values
            refused = f"{', '.join(self._changed)} changed since the study began; use [[enqueue]] of the study file"
        if refused:
            return Suggestion({}, 0, trial.number, refused=refused)
        copied = self._add(create_trial(state=TrialState.RUNNING, system_attrs={FIXED: fixed}))
        for name, distribution in self._space.items():
            space.suggest(copied, name, distribution)
        if self._new(copied.params):
            return replace(self._suggestion(copied), number=trial.number)
        self._copy.tell(copied, state=TrialState.FAIL)
        return Suggestion(dict(copied.params), 0, trial.number, refused="its configuration was tried before, or is now")

    def learn(self, trials: list[FrozenTrial]) -> None:
        """Take note of all trials of the study: of each finished one once, of running ones as they are now."""
        if not self._known <= {trial.number for trial in trials}:  # some were excluded since then
            self._forget_all()
        trials = [trial for trial in trials if trial.number not in self._known]
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self._running = {trial.number: self._running_configuration(trial) for trial in running}
        for trial in trials:
            if not trial.state.is_finished():
                continue
            self._known.add(trial.number)
            params = space.translated(self._definition, trial.params)
            configuration = self._configuration(trial.params if params is None else params)
            if trial.state in FINISHED or ended_elsewhere(trial):
                self._finished.add(configuration)
            if trial.state not in FINISHED:
                self._failures[configuration] += bool(trial.system_attrs.get(FAILED_ITSELF))
                continue
            self._open = self._open or (params is not None and not params.keys() <= self._space.keys())
            ours = self._pending.pop(trial.number, None)
            if ours is not None:
                self._finish(ours, trial)
            elif params is not None:
                self._copy.add_trial(self._as_learned(trial, params))
        if self._thins and self._learned_from() > 2 * (_KEPT + _KEPT_RUNNING):
            self._thin_out()

    def _forget_all(self) -> None:
        """Forget what was learned; the copy's waiting trials stay."""
        waiting = self._copy.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self._begin_copy(self._copy.sampler, self._copy.pruner)
        for trial in waiting:
            self._add(trial)
        self._pending = dict.fromkeys(self._pending)
        self._finished.clear()
        self._failures.clear()
        self._known.clear()

    def on_end(self, trial: FrozenTrial, result: TrialResult) -> None:
        """Allow the configuration of a failed trial again: next where its worker died and retries are left.

        Of the others `learn` takes note.
        """
        if trial.state != TrialState.FAIL:
            return
        copied = self._pending.pop(trial.number, None)
        if copied is not None:
            self._copy.tell(copied, state=TrialState.FAIL)
        self._running.pop(trial.number, None)
        left = int(trial.system_attrs.get(RETRIES, 0))
        if result.fate == "died" and left > 0:
            self.put_first(Suggestion(dict(trial.params), left - 1))

    def propose(self) -> Suggestion | None:
        """Return a configuration that is new, or None when the space has none left.

        A configuration that failed by its own error comes again only when no other is left. Once a
        builder is seen to suggest parameters of its own, any configuration counts as new, but for
        the grid, which tries each configuration of `[space]` once.
        """
        refused = 0
        while refused < _PROPOSALS:
            queued = bool(self._copy.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
            if self._grid and not queued:
                break
            trial = self._copy.ask(self._space)
            if self._new(trial.params) and (queued or not self._failures[self._configuration(trial.params)]):
                return self._suggestion(trial)
            self._copy.tell(trial, state=TrialState.FAIL)
            refused += not queued
        unseen = self._draw_unseen()
        return None if unseen is None else self.repeat(unseen)

    def repeat(self, params: dict[str, Any]) -> Suggestion:
        """Return this configuration, whether or not it is new."""
        inside = {name: value for name, value in params.items() if name in self._space}
        template = create_trial(
            state=TrialState.RUNNING,
            params=inside,
            distributions={name: self._space[name] for name in inside},
            system_attrs={FIXED: params} if params.keys() - inside.keys() else {},
        )
        return self._suggestion(self._add(template))

    def began(self, suggestion: Suggestion, number: int) -> None:
        """Take note that the suggestion became the study's trial of this number."""
        self._pending[number] = suggestion.copied
        self._running[number] = self._configuration(suggestion.params)

    def _suggestion(self, trial: optuna.Trial) -> Suggestion:
        attributes = dict(self._copy.get_trials(deepcopy=False)[trial.number].system_attrs)
        fixed = attributes.pop(FIXED, {})
        if isinstance(self._copy.pruner, HyperbandPruner):
            attributes[BRACKET] = trial.number
        return Suggestion(dict(trial.params), self._definition.search.retries, None, fixed, attributes, trial)

    def _configuration(self, params: dict[str, Any]) -> space.Configuration:
        return space.configuration({name: params[name] for name in self._space if name in params})

    def _running_configuration(self, trial: FrozenTrial) -> space.Configuration:
        """Return what a running trial tries; one of another process may get its parameters one by one."""
        if trial.number in self._pending:
            return self._running[trial.number]
        return self._configuration(trial.params)

    def _new(self, params: dict[str, Any]) -> bool:
        configuration = self._configuration(params)
        return (self._open and not self._grid) or (
            configuration not in self._finished and configuration not in self._running.values()
        )

    def _finish(self, ours: optuna.Trial, trial: FrozenTrial) -> None:
        """End the copy's running trial as the study's trial ended."""
        for name, value in trial.user_attrs.items():
            ours.set_user_attr(name, value)
        for index, beyond in enumerate(constraints_of(trial)):
            ours.set_constraint(str(index), beyond)
        if len(self._copy.directions) == 1:
            for step, reported in trial.intermediate_values.items():
                ours.report(reported, step)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        self._copy.tell(ours, values, state=trial.state)

    def _as_learned(self, trial: FrozenTrial, params: dict[str, Any]) -> FrozenTrial:
        """Return a copy of the study's trial for the sampler: in the space of now, with its constraints."""
        copied = copy.deepcopy(trial)
        known = {**trial.distributions, **self._space}
        copied.distributions = {name: space.holding(known[name], value) for name, value in params.items()}
        copied.params = params
        for index, beyond in enumerate(constraints_of(trial)):
            copied.set_constraint(str(index), beyond)
        return copied

    def _thin_out(self) -> None:
        """Rebuild the copy from some of its trials; do nothing where constraints decide which are good."""
        trials = self._copy.get_trials(deepcopy=False)
        if any(trial.constraints for trial in trials):
            return
        running = [number for number, trial in self._pending.items() if trial is not None]
        self._pending.update(dict.fromkeys(running[:-_KEPT_RUNNING]))
        pending = {trial.number: number for number, trial in self._pending.items() if trial is not None}
        waiting = {trial.number for trial in trials if trial.state == TrialState.WAITING}
        kept = self._worth_keeping(trials) | pending.keys() | waiting
        self._begin_copy(self._copy.sampler, self._copy.pruner)
        for trial in trials:
            if trial.number not in kept:
                continue
            again = copy.deepcopy(trial)
            if trial.number not in waiting:
                again.system_attrs.setdefault(BRACKET, trial.number)
            added = self._add(again)
            if trial.number in pending:
                self._pending[pending[trial.number]] = added

    def _learned_from(self) -> int:
        """Return how many trials of the copy the sampler looks at: all but those that wait for their turn."""
        return sum(trial.state != TrialState.WAITING for trial in self._copy.get_trials(deepcopy=False))

    def _worth_keeping(self, trials: list[FrozenTrial]) -> set[int]:
        """Return the numbers of the best finished trials, and of some of the others."""
        finished = [trial for trial in trials if trial.state in FINISHED]
        complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
        sign = 1 if self._copy.direction == StudyDirection.MINIMIZE else -1
        best = {trial.number for trial in heapq.nsmallest(_KEPT_BEST, complete, key=lambda each: sign * each.values[0])}
        others = [trial.number for trial in finished if trial.number not in best]
        return best.union(self._random.sample(others, min(_KEPT - len(best), len(others))))

    def _add(self, trial: FrozenTrial) -> optuna.Trial:
        """Add a trial to the copy as it is."""
        return optuna.trial.Trial(self._copy, self._storage.create_new_trial(self._study_id, template_trial=trial))

    def _draw_unseen(self) -> dict[str, Any] | None:
        if space.size(self._space) > space.LARGEST_GRID:
            drawn = (self._random_configuration() for _ in range(_DRAWS))
            return next(filter(self._new, drawn), None)
        if self._unseen is None:
            self._unseen = list(space.every_configuration(self._space))
            self._random.shuffle(self._unseen)
        while self._unseen and self._configuration(self._unseen[-1]) in self._finished:
            self._unseen.pop()
        free = [each for each in reversed(self._unseen) if self._new(each)]
        return min(free, key=lambda each: self._failures[self._configuration(each)], default=None)

    def _random_configuration(self) -> dict[str, Any]:
        sampler = optuna.samplers.RandomSampler(seed=self._random.getrandbits(31))
        drawn = optuna.create_study(sampler=sampler).ask(self._space)
        return dict(drawn.params)
