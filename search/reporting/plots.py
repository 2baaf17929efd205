"""A study as a table and plots, in files. It reads the study and changes nothing in it."""

from __future__ import annotations

import inspect
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.errors import UsageError, did_you_mean, one_line
from search.figures import literal
from search.reporting import insight, interactive
from search.reporting.address import NO_ADDRESS, Address
from search.reporting.table import trials_table
from search.study import ranking
from search.study.comparable import comparable_trials, read_study
from search.studyfile.schema import Definition
from search.tracking.pages.markup import GREY


def write(study: optuna.Study, definition: Definition, folder: Path, address: Address = NO_ADDRESS) -> list[Path]:
    """Write the trials' table and every plot that this study has enough trials for.

    Args:
        study: The Optuna study.
        definition: Its study file, for the names of its metrics.
        folder: An existing folder.
        address: Where MLflow shows it.
    """
    return [
        table(study, definition, folder),
        *(path for name in DRAWINGS for path in draw(study, definition, name, folder, address)),
    ]


def table(study: optuna.Study, definition: Definition, folder: Path) -> Path:
    """Write every trial with its value, parameters, metrics, state and seconds to `trials.csv`."""
    trials_table(study, definition).to_csv(folder / "trials.csv", index=False)
    return folder / "trials.csv"


def draw(
    study: optuna.Study, definition: Definition, name: str, folder: Path, address: Address = NO_ADDRESS
) -> list[Path]:
    """Draw one of `DRAWINGS` as a file, and return it: a PNG, or the page of all interactive plots.

    Returns:
        The file, or nothing when the study has too few trials for that plot.
    """
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    several = len(definition.metrics) > 1
    if not complete or (name == "pareto_front" and not several):
        return []
    if name == "param_importances" and not insight.varied(complete):
        return []
    if name == REPORT:
        path = folder / f"{REPORT}.html"
        path.write_text(interactive.page(study, definition, address), encoding="utf-8")
        return [path]
    with _unseen(), suppress(*insight.UNDRAWN):
        path = folder / f"{name}.png"
        path.write_bytes(_png(_AXES[name](read_study(study), definition)))
        return [path]
    return []


def picture(study: optuna.Study, definition: Definition) -> bytes:
    """Return the value by trial as a PNG for a light or dark page; empty where no trial is complete."""
    if not comparable_trials(study, (TrialState.COMPLETE,)):
        return b""
    import matplotlib as mpl

    lines = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    look = {**dict.fromkeys(lines, GREY), "savefig.transparent": True, "legend.framealpha": 0.0}
    with _unseen(), mpl.rc_context(look):
        return _png(_history(read_study(study), definition))


def axes(study: optuna.Study, definition: Definition, name: str, **options: Any) -> Any:
    """Return a plot drawn by matplotlib: one of `PLOTS`, or what `optuna.visualization` calls `plot_<name>`.

    Args:
        study: The Optuna study.
        definition: Its study file, for the names of its metrics.
        name: The plot.
        **options: What Optuna's function takes, for example `params`.

    Raises:
        UsageError: There is no such plot, or Optuna cannot draw it of these trials.
    """
    from optuna.visualization import matplotlib as visualization

    known = sorted(each.removeprefix("plot_") for each in visualization.__all__ if each.startswith("plot_"))
    if name not in known:
        raise UsageError(f"no plot '{name}'; there are {', '.join(known)}{did_you_mean(name, known)}")
    shown = read_study(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's plots are experimental, and say so each time
        try:
            if name in _AXES and not options:
                return _AXES[name](shown, definition)
            plot = getattr(visualization, f"plot_{name}")
            given = {"target_names": list(definition.metrics), "reference_point": _worst(study), **_target(definition)}
            taken = {key: given[key] for key in given.keys() & inspect.signature(plot).parameters.keys()}
            return plot(shown, **{**taken, **options})
        except ModuleNotFoundError as error:
            raise UsageError(f"plot '{name}' needs {error.name}; pip install {error.name}") from None
        except insight.UNDRAWN as error:
            raise UsageError(f"plot '{name}': {one_line(error)}") from error


def _worst(study: optuna.Study) -> list[float]:
    """Return the worst value of each metric among the complete trials."""
    columns = zip(*(trial.values for trial in comparable_trials(study, (TrialState.COMPLETE,))), strict=True)
    ways = zip(columns, study.directions, strict=False)
    return [max(values) if way == StudyDirection.MINIMIZE else min(values) for values, way in ways]


def _target(definition: Definition) -> dict[str, Any]:
    first = {"target": lambda trial: trial.values[0]} if len(definition.metrics) > 1 else {}
    return {"target_name": definition.metrics[0], **first}


def _importances(study: optuna.Study, definition: Definition) -> Any:
    from matplotlib import pyplot

    shares = list(insight.importances(study, definition).items())[::-1]
    axes = pyplot.subplots(figsize=(7, 1.2 + 0.4 * len(shares)), layout="constrained")[1]
    bars = axes.barh([name for name, _ in shares], [share for _, share in shares], color="tab:blue")
    axes.bar_label(bars, [f"{share:.2f}" for _, share in shares], padding=3)
    axes.set_xlim(0, 1.1 * max((share for _, share in shares), default=1.0))
    caveat = insight.caveat(len(comparable_trials(study, (TrialState.COMPLETE,))))
    axes.set_title(f"How much {definition.metrics[0]} depends on each parameter")
    axes.set_xlabel(f"importance{f' ({caveat})' if caveat else ''}")
    return axes


def _parallel(study: optuna.Study, definition: Definition) -> Any:
    from optuna.visualization import matplotlib as plots

    target = _target(definition)
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    if interactive.spans_decades([trial.values[0] for trial in complete]):
        name = f"log10 {definition.metrics[0]}"  # else all but the worst have one colour
        target = {"target_name": name, "target": lambda trial: math.log10(trial.values[0])}
    axes: Any = plots.plot_parallel_coordinate(study, **target)
    axes.set_title("")
    several = 1 + len({name for trial in complete for name in trial.params})
    axes.figure.set_size_inches(min(10.0, max(8.0, 2.2 * several)), 5.0)  # MLflow's pages are about 1000 pixels wide
    axes.tick_params(axis="x", labelrotation=0 if several < 6 else 20, labelsize=9)
    return axes


def _history(study: optuna.Study, definition: Definition) -> Any:
    """Draw every trial's value by its number, pruned ones at the last value that they reported."""
    from matplotlib import pyplot

    axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")[1]
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    pruned = [each for each in comparable_trials(study, (TrialState.PRUNED,)) if each.values]
    _points(axes, pruned, [each.number for each in pruned], pruned=True)
    _points(axes, complete, [each.number for each in complete])
    best, curve = None, []
    for trial in sorted(complete, key=lambda each: each.number):
        if ranking.feasible(trial) and (best is None or definition.better(trial.values[0], best)):
            best = trial.values[0]
        curve.append(float("nan") if best is None else best)
    axes.step(sorted(each.number for each in complete), curve, where="post", color="tab:red", label="best so far")
    axes.set(xlabel="trial", ylabel=definition.metrics[0], title=f"{study.study_name}: value by trial")
    _scales(axes, [*complete, *pruned])
    axes.legend()
    return axes


def _slice(study: optuna.Study, definition: Definition) -> Any:
    """Draw the value by each parameter, a panel each, on that parameter's own scale."""
    from matplotlib import pyplot

    complete = comparable_trials(study, (TrialState.COMPLETE,))
    pruned = [each for each in comparable_trials(study, (TrialState.PRUNED,)) if each.values]
    names = list(dict.fromkeys(name for trial in complete for name in trial.params))
    columns = max(1, min(3, len(names)))  # MLflow's pages are about 1000 pixels wide
    size = (3.2 * columns, 3.0 * -(-len(names) // columns))
    figure, panels = pyplot.subplots(
        max(1, -(-len(names) // columns)), columns, squeeze=False, sharey=True, figsize=size, layout="constrained"
    )
    for axes, name in zip(panels.flat, names, strict=False):
        place = _place_of([trial.params[name] for trial in (*pruned, *complete) if name in trial.params])
        for trials, are_pruned in ((pruned, True), (complete, False)):
            having = [trial for trial in trials if name in trial.params]
            _points(axes, having, [place(trial.params[name]) for trial in having], pruned=are_pruned)
        axes.set_xlabel(name)
        _scales(axes, [*complete, *pruned], getattr(definition.space.get(name), "log", False))
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel(definition.metrics[0])
    figure.suptitle(f"{study.study_name}: value by parameter (grey crosses: pruned)")
    return panels


def _place_of(values: Sequence[Any]) -> Callable[[Any], Any]:
    """Return what makes places on an axis of values: an axis has numbers alone, or texts alone."""
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return lambda value: value
    return lambda value: literal(str(value))


def _points(axes: Any, trials: Sequence[FrozenTrial], places: Sequence[Any], *, pruned: bool = False) -> None:
    style = {"marker": "x", "color": "0.6", "label": "pruned"} if pruned else {"color": "tab:blue", "label": "complete"}
    if trials:
        axes.scatter(places, [trial.values[0] for trial in trials], s=22, **style)


def _scales(axes: Any, trials: Sequence[FrozenTrial], logarithmic: bool = False) -> None:
    """Choose logarithmic axes where values span decades, and whole numbers as ticks elsewhere on the x axis."""
    from matplotlib.ticker import MaxNLocator

    if interactive.spans_decades([trial.values[0] for trial in trials]):
        axes.set_yscale("log")
    if logarithmic:
        axes.set_xscale("log")
    elif axes.get_xscale() == "linear" and not axes.xaxis.have_units():
        whole = all(float(x).is_integer() for points in axes.collections for x in points.get_offsets()[:, 0])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))


def _pareto(study: optuna.Study, definition: Definition) -> Any:
    from optuna.visualization import matplotlib as plots

    return plots.plot_pareto_front(study, target_names=list(definition.metrics))


_AXES: dict[str, Callable[[optuna.Study, Definition], Any]] = {
    "parallel_coordinate": _parallel,
    "optimization_history": _history,
    "slice": _slice,
    "param_importances": _importances,
    "pareto_front": _pareto,
}
PLOTS = tuple(_AXES)
REPORT = "report"
DRAWINGS = (*PLOTS, REPORT)


@contextmanager
def _unseen() -> Iterator[None]:
    """Draw in memory; the program's own figures, and its way to show them, stay as they were."""
    import matplotlib as mpl
    from matplotlib import pyplot

    backend, figures = mpl.get_backend(), set(pyplot.get_fignums())
    pyplot.switch_backend("agg")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and say so each time
            yield
    finally:
        for number in set(pyplot.get_fignums()) - figures:
            pyplot.close(number)
        with suppress(ImportError):  # it was chosen, and never used: it needs a screen that is not there
            pyplot.switch_backend(backend)


def _png(axes: Any) -> bytes:
    first = axes.flat[0] if hasattr(axes, "flat") else axes
    drawn = io.BytesIO()
    first.figure.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
    return drawn.getvalue()
