"""A study as tables and plots. It reads the study and writes files; it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.definition import Definition


def write(study: optuna.Study, definition: Definition, folder: Path) -> list[Path]:
    """Write the trials' table and the plots that this study has enough trials for.

    Args:
        study: The Optuna study.
        definition: Its study file, for the names of its metrics.
        folder: An existing folder.
    """
    table = folder / "trials.csv"
    study.trials_dataframe(attrs=("number", "value", "params", "state", "duration") if len(definition.metrics) == 1 else ("number", "values", "params", "state", "duration")).to_csv(table, index=False)
    return [table, *plots(study, definition, folder)]


def plots(study: optuna.Study, definition: Definition, folder: Path) -> list[Path]:
    """Draw the study with Optuna's own plots, as PNG files."""
    import matplotlib

    matplotlib.use("Agg")
    import warnings

    from optuna.visualization import matplotlib as draw

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    first = definition.metrics[0]
    several = len(definition.metrics) > 1
    target: dict[str, Any] = {"target": lambda trial: trial.values[0]} if several else {}
    wanted: dict[str, Callable[[], Any]] = {
        "parallel_coordinate": lambda: draw.plot_parallel_coordinate(study, target_name=first, **target),
        "optimization_history": lambda: draw.plot_optimization_history(study, target_name=first, **target),
        "slice": lambda: draw.plot_slice(study, target_name=first, **target),
    }
    if several:
        wanted["pareto_front"] = lambda: draw.plot_pareto_front(study, target_names=list(definition.metrics))
    if _varied(complete):
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        wanted["param_importances"] = lambda: draw.plot_param_importances(
            study, evaluator=evaluator, target_name=first, **target
        )
    written = []
    for name, plot in wanted.items() if complete else ():
        with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            path = folder / f"{name}.png"
            _save(plot(), path)
            written.append(path)
    return written


def _varied(complete: list[FrozenTrial]) -> bool:
    return len(complete) >= 4 and len({tuple(trial.values) for trial in complete}) > 1


def _save(axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    first = axes.flat[0] if hasattr(axes, "flat") else axes
    first.figure.savefig(path, dpi=100, bbox_inches="tight")
    pyplot.close("all")
