"""Which trials may be compared: those whose search had the same data. What ranks, learns, prunes or draws asks here.

A search's record has what its values are measured on, its basis. A search compares by its own basis, whatever runs
beside it; who looks at the study from outside compares by the data that were accepted last.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import StorageError
from search.study import attributes, orders
from search.studyfile.schema import Definition, value_now
from search.studyfile.settings import Settings

if TYPE_CHECKING:
    from search.data.summary import DataSummary

Basis = Mapping[str, Any]
_NO_TRIAL = {"checkpoint", "gpus", "validation_steps"}  # of [fit]: a trial's value does not depend on them
_NO_SPLIT = {"source", "options", "task"}  # of [data]: the digest of the rows knows what they change


class Comparison:
    """Says of a study's trials whether their values compare with those of a search, or of the study now."""

    def __init__(self, study: optuna.Study, basis: Basis | None = None) -> None:
        known = study.user_attrs
        self._study, self._basis = study, basis or known.get(attributes.DATA, {})
        self._first = int(known.get(attributes.FIRST_COMPARABLE, 0))
        self._same: dict[str, bool | None] = {}  # by search; None where an earlier release noted no basis

    def holds(self, trial: FrozenTrial) -> bool:
        """Return whether the trial's value compares; of one that waits, whether it will."""
        if trial.state == TrialState.WAITING:
            return True
        search_id = str(trial.system_attrs.get(attributes.SEARCH_RUN, ""))
        if search_id not in self._same:
            self._look_up(search_id)
        same = self._same[search_id]
        return trial.number >= self._first if same is None else same

    def _look_up(self, search_id: str) -> None:
        for each, record in attributes.searches_of(self._study).items():
            basis = record.get("basis")
            self._same[each] = not changes(basis, self._basis) if basis and self._basis else None
        self._same.setdefault(search_id, None)


class SearchedStudy(optuna.Study):
    """A study as one search has it: what compares, compares with this search's trials."""

    comparison: Comparison | None = None


class ComparableStudy(SearchedStudy):
    """A study that shows its comparable trials alone: to pruners, samplers, plots and importances of Optuna's."""

    only: frozenset[int] | None = None  # the numbers of those that it shows; None for all
    read: list[FrozenTrial] | None = None  # all of them, where they are read once

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """Return these trials; Optuna's samplers call this one, and its public `get_trials` does."""
        if self.read is not None:
            shown = [trial for trial in self.read if states is None or trial.state in states]
        else:
            shown = _compared(self, super()._get_trials(deepcopy, states, use_cache))
        return shown if self.only is None else [trial for trial in shown if trial.number in self.only]


def _comparison(study: optuna.Study) -> Comparison:
    kept = study.comparison if isinstance(study, SearchedStudy) else None
    return kept or Comparison(study)


def _compared(study: optuna.Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    comparison, excluded = _comparison(study), orders.excluded(study)
    return [trial for trial in trials if trial.number not in excluded and comparison.holds(trial)]


def is_comparable(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Return whether a trial's value compares with those of the study."""
    return bool(_compared(study, [trial]))


def comparable_trials(study: optuna.Study, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
    """Return the trials whose values compare and that nobody excluded, by number, of all states or of these."""
    return _compared(study, study.get_trials(deepcopy=False, states=states))


def comparable_study(study: optuna.Study, basis: Basis | None = None) -> ComparableStudy:
    """Return a study that shows the comparable trials alone, for what Optuna does with a study.

    Args:
        basis: The basis of the search that looks at it; None for what the study has.
    """
    made = ComparableStudy.__new__(ComparableStudy)  # Optuna has no public way to a study's storage
    vars(made).update(vars(study))
    made.comparison = Comparison(study, basis) if basis else _comparison(study)
    return made


def read_study(study: optuna.Study) -> ComparableStudy:
    """Return a study that shows the comparable trials as they are now, read once, for what draws them."""
    made = comparable_study(study)
    made.read = comparable_trials(made)
    return made


def check_data(
    study: optuna.Study, settings: Settings, data: DataSummary, resumed: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a search's basis, and refuse one that differs from that of the study's earlier trials.

    Args:
        resumed: What the search that is resumed was measured on, where it says so.

    Raises:
        StorageError: The rows, the split or what defines a trial changed, and nobody said that they may.
    """
    now = _basis(settings.definition, data)
    known = attributes.data_of(study)
    before = resumed or known
    ways = {
        "--accept-new-data": (settings.accept_new_data, _changes_of_data(before, now) if before else []),
        "--accept-new-code": (settings.accept_new_code, _changes_of_code(before, now) if before else []),
    }
    changed, trials = any(found for _, found in ways.values()), len(study.get_trials(deepcopy=False))
    refused = {way: found for way, (accepted, found) in ways.items() if found and (settings.resume or not accepted)}
    if trials and refused:
        what, way = ", ".join(each for found in refused.values() for each in found), " ".join(refused)
        raise StorageError(
            f"study '{settings.study_name}': {what} changed since its earlier trials, whose values cannot be compared; "
            f"begin a study with --study-name NEW, or use {way}{', without --resume' if settings.resume else ''}"
        )
    if before is known and known != now:
        attributes.set_data(study, now, trials if changed else 0)
    if isinstance(study, SearchedStudy):
        study.comparison = Comparison(study, now)
    return now


def _basis(definition: Definition, data: DataSummary) -> dict[str, Any]:
    """Return what values depend on: the rows, how they are split and measured, and what defines a trial."""
    split = {f"data.{key}": value for key, value in definition.data.model_dump(mode="json", exclude=_NO_SPLIT).items()}
    split["data.task"] = data.task
    chosen = {name.removeprefix("val_") for name in definition.metrics}
    metrics = {key: each.model_dump(mode="json") for key, each in definition.own_metrics.items() if key in chosen}
    if definition.fit.validation_steps is not None:
        split["fit.validation_steps"] = definition.fit.validation_steps
    fit = definition.fit.model_dump(mode="json", by_alias=True, exclude=_NO_TRIAL)
    model = definition.model.model_dump(mode="json", exclude={"export"})
    measured = {f"metrics.{key}.function" for key in metrics}
    code = {key: each for key, each in data.code.items() if not key.startswith("metrics.") or key in measured}
    return {
        "rows": data.digest,
        "parts": data.cut,
        "split": split | {f"metrics.{key}": each for key, each in metrics.items()},
        "code": code,
        "set": {f"fit.{key}": each for key, each in fit.items()}
        | {f"model.{key}": each for key, each in model.items()},
        "searched": sorted(definition.space),
    }


def changes(before: Basis, now: Basis) -> list[str]:
    """Return what differs between what two searches are measured on."""
    if before == now:  # looking for what changed takes longer than a trial's epoch
        return []
    return _changes_of_data(before, now) + _changes_of_code(before, now)


def _changes_of_data(before: Basis, now: Basis) -> list[str]:
    """Return what of a study's data changed, the rows first."""
    rows = [f"the rows (digest {before['rows']}, now {now['rows']})"] if before["rows"] != now["rows"] else []
    if not rows and before.get("parts", now["parts"]) != now["parts"]:
        rows = [f"the parts that the data come in ({before['parts'] or 'one'}, now {now['parts'] or 'one'})"]
    known, wanted = before.get("split", {}), now["split"]
    if "parts" not in before:  # an earlier release wrote it, of [data] alone
        known = {f"data.{key}": value for key, value in known.items()}
        wanted = {key: value for key, value in wanted.items() if key in known}
    return rows + _differences(known, wanted)


def _changes_of_code(before: Basis, now: Basis) -> list[str]:
    """Return what of a trial's definition changed; a parameter that is or was searched is the space's affair."""
    if "code" not in before or "code" not in now:  # an earlier release wrote it
        return []
    shared = before["code"].keys() & now["code"].keys()
    code = [f"the code of {key}" for key in sorted(shared) if before["code"][key] != now["code"][key]]
    searched = {*before["searched"], *now["searched"]}
    known, wanted = (  # where the code is known its file's name does not count
        {
            key: value
            for key, value in each["set"].items()
            if key not in shared and key.partition(".")[2] not in searched
        }
        for each in (before, now)
    )
    return code + _differences(known, wanted)


def _differences(known: Basis, wanted: Basis) -> list[str]:
    """Return which keys differ; one that the other release did not know had its default value there."""
    now = {key: (value_now(key, known), value_now(key, wanted)) for key in {**wanted, **known}}
    return [f"{key} ({before}, now {after})" for key, (before, after) in now.items() if before != after]
