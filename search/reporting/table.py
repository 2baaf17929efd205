"""A study's trials as a table. It reads the study and changes nothing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from search.study import attributes
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import pandas as pd


def trials_table(study: optuna.Study, definition: Definition) -> pd.DataFrame:
    """Return every trial, a row each: number, value, parameters, metrics, state, seconds.

    Parameters are the columns `params_<name>`, metrics keep their names; with several objectives
    `values_<metric>` stands in the place of `value`.
    """
    import pandas as pd

    return pd.DataFrame([_row(trial, definition) for trial in study.get_trials(deepcopy=False)])


def _row(trial: FrozenTrial, definition: Definition) -> dict[str, Any]:
    names = ["value"] if len(definition.metrics) == 1 else [f"values_{metric}" for metric in definition.metrics]
    values = trial.values or [None] * len(names)
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    return {
        "number": trial.number,
        **dict(zip(names, values, strict=True)),
        **{f"params_{name}": value for name, value in trial.params.items()},
        **attributes.metrics_of_trial(trial),
        "state": trial.state.name,
        "seconds": seconds,
    }
