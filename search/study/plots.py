"""A study as a table and plots, in files. It reads the study and changes nothing in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import UsageError, did_you_mean
from search.study.table import trials_table
from search.studyfile.schema import Definition


def write(study: optuna.Study, definition: Definition, folder: Path) -> list[Path]:
    """Write the trials' table and every plot that this study has enough trials for.

    Args:
        study: The Optuna study.
        definition: Its study file, for the names of its metrics.
        folder: An existing folder.
    """
    return [
        table(study, definition, folder),
        *(path for name in PLOTS for path in draw(study, definition, name, folder)),
    ]


def table(study: optuna.Study, definition: Definition, folder: Path) -> Path:
    """Write every trial with its value, parameters, metrics, state and seconds to `trials.csv`."""
    trials_table(study, definition).to_csv(folder / "trials.csv", index=False)
    return folder / "trials.csv"


def draw(study: optuna.Study, definition: Definition, name: str, folder: Path) -> list[Path]:
    """Draw one of `PLOTS` with Optuna's own plots as a PNG file, and return it.

    Returns:
        The file, or nothing when the study has too few trials for that plot.
    """
    import matplotlib

    matplotlib.use("Agg")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    several = len(definition.metrics) > 1
    if not complete or (name == "pareto_front" and not several):
        return []
    if name == "param_importances" and not _varied(complete):
        return []
    with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
        warnings.simplefilter("ignore")  # Optuna's plots are experimental, and say so each time
        path = folder / f"{name}.png"
        _save(_AXES[name](study, definition), path)
        return [path]
    return []


def axes(study: optuna.Study, definition: Definition, name: str) -> Any:
    """Return one of `PLOTS`, drawn by matplotlib.

    Raises:
        UsageError: There is no such plot.
    """
    if name not in _AXES:
        raise UsageError(f"no plot '{name}'; there are {', '.join(PLOTS)}{did_you_mean(name, PLOTS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _AXES[name](study, definition)


def _target(definition: Definition) -> dict[str, Any]:
    first = {"target": lambda trial: trial.values[0]} if len(definition.metrics) > 1 else {}
    return {"target_name": definition.metrics[0], **first}


def _importances(study: optuna.Study, definition: Definition) -> Any:
    from optuna.visualization import matplotlib as plots

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return plots.plot_param_importances(study, evaluator=evaluator, **_target(definition))


def _optuna_plot(name: str) -> Callable[[optuna.Study, Definition], Any]:
    def axes(study: optuna.Study, definition: Definition) -> Any:
        from optuna.visualization import matplotlib as plots

        return getattr(plots, name)(study, **_target(definition))

    return axes


def _pareto(study: optuna.Study, definition: Definition) -> Any:
    from optuna.visualization import matplotlib as plots

    return plots.plot_pareto_front(study, target_names=list(definition.metrics))


_AXES: dict[str, Callable[[optuna.Study, Definition], Any]] = {
    "parallel_coordinate": _optuna_plot("plot_parallel_coordinate"),
    "optimization_history": _optuna_plot("plot_optimization_history"),
    "slice": _optuna_plot("plot_slice"),
    "param_importances": _importances,
    "pareto_front": _pareto,
}
PLOTS = tuple(_AXES)


def _varied(complete: list[FrozenTrial]) -> bool:
    return len(complete) >= 4 and len({tuple(trial.values) for trial in complete}) > 1


def _save(axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    first = axes.flat[0] if hasattr(axes, "flat") else axes
    first.figure.savefig(path, dpi=100, bbox_inches="tight")
    pyplot.close("all")
