"""Hyperband with the same brackets for the sampler, which has a copy of the study, and for the workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
from optuna import pruners
from optuna.trial import FrozenTrial

from search.study.attributes import BRACKET
from search.study.comparable import is_comparable

_NONE = -1


class HyperbandPruner(pruners.HyperbandPruner):
    """Optuna's Hyperband pruner, whose trials keep their brackets wherever they are seen.

    Optuna chooses a trial's bracket by the study's name and the trial's number, which differ in the
    sampler's copy of the study, and knows of no brackets before the pruner was first asked.
    """

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """Return a trial's bracket; none for a trial that was measured on other data.

        Optuna has no public way to choose it; its samplers call this method too.
        """
        whole = getattr(study, "_study", study)  # a bracket's study hides what is not in the bracket
        if not is_comparable(whole, trial):
            return _NONE
        if not self._pruners:
            self._try_initialization(whole)
        named: Any = SimpleNamespace(study_name="")
        numbered: Any = SimpleNamespace(number=trial.system_attrs.get(BRACKET, trial.number))
        return super()._get_bracket_id(named, numbered)
