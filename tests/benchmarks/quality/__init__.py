"""How good the model is that a search hands over, against what a person would use instead (`--quick` 20 minutes).

Real tables, one space of eight parameters, several splits each. Each tool searches for the same time, whole process;
what counts is the test loss of the model that it hands over: the registered version, the best model that a script
kept. Beside it stands its configuration's test loss under seeds that no search used, and the calibration error.

The work is done in parts, each kept in a folder that is printed; what is there is not done again. The tables are
written to `results/quality.md`. `python -m tests.benchmarks.quality --help` is the same with sizes of one's own.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from search.system.machine import processors
from tests.benchmarks.quality import averages, parts, tasks
from tests.benchmarks.timing import HERE, Size, machine, note, table

_RESULTS = HERE / "results" / "quality.md"
QUICK = ("diabetes", "breast_cancer", "oj", "digits")
_RESAMPLES = 4000


def main(size: Size) -> None:
    """Search, judge, print, and add the table to the results."""
    plan = plan_of(size)
    compare(
        plan,
        [name for name in tasks.TASKS if not size.quick or name in QUICK],
        1 if size.quick else 3,
        keep=not size.quick,
    )


def compare(plan: parts.Plan, names: Sequence[str], splits: int, *, keep: bool) -> None:
    """Search and judge task after task, print the tables, and `keep` them among the results.

    Ctrl-C ends the work; the tables are of the splits that are done for all tools.
    """
    note(f"  parts are kept in {plan.folder}")
    if parts.missing():
        note(f"  not compared with what needs {', '.join(parts.missing())}: pip install 'search[benchmarks]'")
    found: dict[tuple[str, int], averages.Given] = {}
    fresh: dict[tuple[str, int], dict[str, float]] = {}
    floors: dict[tuple[str, int], float] = {}
    longest = dict.fromkeys(parts.tools(), 0.0)
    try:
        for split in range(splits):
            for name in names:
                task = f"{name}-split{split}"
                try:
                    several = _searched(plan, task)
                    known = _fresh(plan, task, several)
                    found[name, split], floors[name, split] = _judged(plan, task, several)
                except Exception as error:  # whatever a tool or its model raises: a race of hours goes on
                    note(f"  {task} is left out, and tried again by the next run: {error}")
                else:
                    fresh[name, split] = known
                    longest = {tool: max(longest[tool], *(each.seconds for each in several[tool])) for tool in longest}
    except KeyboardInterrupt:
        note("  stopped; the tables are of what is done")
    if not found:
        note("  no task is done for all tools; the same command goes on from what is kept")
        return
    ranks = [[*row, f"{longest[row[0]]:.0f}"] for row in _ranks(found, fresh)]
    caption = _caption(plan, sorted({task for task, _ in found}), len(found))
    columns = ["", "mean rank", "95 %", "first", "configuration under fresh seeds, mean rank", "calibration error"]
    columns.append("longest, s")
    table("quality: test loss of the model that is handed over", columns, ranks, caption)
    losses = _losses(found)
    against = averages.summary(found, floors, parts.PLAIN)
    shown = [*parts.as_markdown(columns, ranks), "", f"Test loss against {parts.PLAIN}:", ""]
    shown += [*parts.as_markdown(averages.COLUMNS, against), "", *parts.as_markdown(["", *parts.tools()], losses)]
    lines = [caption, "", *shown, ""]
    (plan.folder / "table.md").write_text("\n".join(lines), encoding="utf-8")
    if keep:
        head = ["# Quality", "", "`python -m tests.benchmarks quality` writes this file.", ""]
        _RESULTS.write_text("\n".join([*head, *lines]), encoding="utf-8")
        _draw(found, _RESULTS.with_suffix(".png"))


def _searched(plan: parts.Plan, task: str) -> dict[str, list[parts.Handed]]:
    """Return what the searches of a task hand over, by tool.

    Raises:
        RuntimeError: A tool failed; the message names it.
    """
    several: dict[str, list[parts.Handed]] = {}
    for tool in parts.tools():
        try:
            several[tool] = [parts.handed(plan, task, tool, seed) for seed in plan.seeds]
        except Exception as error:
            raise RuntimeError(f"{tool} failed ({type(error).__name__}: {error})") from error
    return several


def folder(name: str = "") -> Path:
    """Return where the parts are kept."""
    return Path(tempfile.gettempdir()) / f"search-quality{name}"


def plan_of(size: Size) -> parts.Plan:
    """Return how much to do."""
    return parts.Plan(
        folder=folder("-quick" if size.quick else ""),
        random=size.of(300, 60),
        seconds=size.of(60, 30),
        seeds=tuple(range(size.of(size.repeats, 1))),
        judges=size.of(5, 3),
    )


def _judged(plan: parts.Plan, task: str, several: dict[str, list[parts.Handed]]) -> tuple[averages.Given, float]:
    """Return each tool's mean test loss and calibration error, and what is added to losses that are compared."""
    with np.load(parts.arrays(plan, task)) as file:
        kind, y = str(file["kind"]), file["y_test"]
    given = {
        tool: (
            float(np.mean([averages.losses(kind, y, each.outputs).mean() for each in searches])),
            float(np.mean([averages.calibration(kind, y, each.outputs) for each in searches])),
        )
        for tool, searches in several.items()
    }
    return given, averages.floor(kind, y)


def _fresh(plan: parts.Plan, task: str, several: dict[str, list[parts.Handed]]) -> dict[str, float]:
    """Return each tool's mean test loss of its configurations under fresh seeds; NaN for a tool with another space."""
    chosen = {tool: [each.params for each in searches if each.params] for tool, searches in several.items()}
    judged = parts.judged(plan, task, [params for found in chosen.values() for params in found])  # in one process
    losses = {
        tool: [curve.kept("last") for params in found for curve in judged[parts.key(params)]]
        for tool, found in chosen.items()
    }
    return {tool: float(np.mean(each)) if each else float("nan") for tool, each in losses.items()}


def _ranks(
    found: dict[tuple[str, int], averages.Given], fresh: dict[tuple[str, int], dict[str, float]]
) -> list[list[str]]:
    """Return a row for each tool: its mean rank with its interval over tasks, and how often it is first."""
    names = parts.tools()
    by_task: dict[str, list[NDArray[Any]]] = {}
    for (task, _), given in found.items():
        by_task.setdefault(task, []).append(rankdata([given[name][0] for name in names]))
    ranks = np.asarray([np.mean(several, axis=0) for several in by_task.values()])
    rng = np.random.default_rng(0)
    drawn = ranks[rng.integers(0, len(ranks), (_RESAMPLES, len(ranks)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    own = [name for name in names if all(np.isfinite(each[name]) for each in fresh.values())]
    configured = np.mean([rankdata([each[name] for name in own]) for each in fresh.values()], axis=0)
    rows = []
    for at, name in enumerate(names):
        errors = [given[name][1] for given in found.values() if np.isfinite(given[name][1])]
        rows.append(
            [
                name,
                f"{ranks[:, at].mean():.2f}",
                f"{low[at]:.2f} to {high[at]:.2f}",
                f"{sum(each.min() == each[at] for several in by_task.values() for each in several)} of {len(found)}",
                f"{configured[own.index(name)]:.2f}" if name in own else "–",
                f"{np.mean(errors):.4f}" if errors else "–",
            ]
        )
    return rows


def _losses(found: dict[tuple[str, int], averages.Given]) -> list[list[str]]:
    """Return each task's mean test loss by tool."""
    rows = []
    for task in dict.fromkeys(task for task, _ in found):
        several = [given for (name, _), given in found.items() if name == task]
        label = f"{task}, held back" if tasks.TASKS[task].held_back else task
        rows.append([label, *(f"{np.mean([each[tool][0] for each in several]):.4f}" for tool in parts.tools())])
    return rows


def _caption(plan: parts.Plan, names: list[str], count: int) -> str:
    return (
        f"{len(names)} tasks, {count} tasks and splits, {len(parts.tools())} tools, {plan.seconds} s for each search "
        f"on {processors()} core(s), {len(plan.seeds)} seed(s); configurations judged under {plan.judges} fresh seeds. "
        f"Lower is better. {datetime.date.today()}, {machine()}."  # noqa: DTZ011 - the reader's day
    )


def _draw(found: dict[tuple[str, int], averages.Given], file: Path) -> None:
    """Draw each tool's rank in each task and split, and its mean."""
    import matplotlib.figure

    names = parts.tools()
    ranks = np.asarray([rankdata([given[name][0] for name in names]) for given in found.values()])
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(ranks, orientation="horizontal", tick_labels=names, showmeans=True)
    axes.set(xlabel="rank of the test loss of the model that is handed over; 1 is best")
    figure.savefig(file, dpi=110)
