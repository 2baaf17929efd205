"""How good the model is that a search hands over, against what a person would use instead (`--quick` 20 minutes).

Real tables, one space of eight parameters, several splits each. Each tool searches for the same time, whole process;
what counts is the test loss of the model that it hands over: the registered version, the best model that a script
kept. Beside it stands its configuration's test loss under seeds that no search used, and the calibration error.

The work is done in parts, each kept in a folder that is printed; what is there is not done again. What comes of a task
and split is a line of `results/quality.jsonl`, from which the next run goes on, on another machine too;
`results/quality.md` has the tables. `python -m tests.benchmarks.quality --help` is the same with sizes of one's own.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tests.benchmarks.quality import averages, parts, tasks
from tests.benchmarks.timing import HERE, Size, machine, note

_RESULTS = HERE / "results" / "quality"
_MARK = "<!-- tables: python -m tests.benchmarks.quality --keep -->"
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


@dataclass(frozen=True)
class Race:
    """What came of one task and split: what each tool handed over, by its name.

    Attributes:
        task: The task.
        split: Which split of its rows.
        seconds: How long each search might take.
        seeds: Searches of each tool.
        judges: Seeds under which a configuration was judged.
        machine: Where they ran.
        floor: What is added to losses before they are compared.
        given: The mean test loss and calibration error of the models.
        fresh: The mean test loss of the configurations under fresh seeds; NaN for a tool with another space.
        took: The longest search, in seconds.
        trials: The mean number of trials.
    """

    task: str
    split: int
    seconds: int
    seeds: int
    judges: int
    machine: str
    floor: float
    given: averages.Given
    fresh: dict[str, float]
    took: dict[str, float]
    trials: dict[str, float]


def compare(plan: parts.Plan, names: Sequence[str], splits: int, *, keep: bool) -> None:
    """Race in task after task, and print the tables of all races of the file.

    Ctrl-C ends the work; a race that the file has is not repeated.

    Args:
        plan: How much to do.
        names: The tasks.
        splits: Splits of each.
        keep: Whether the file and the tables are those of the results.
    """
    file = (_RESULTS if keep else plan.folder / "races").with_suffix(".jsonl")
    note(f"  parts are kept in {plan.folder}, races in {file}")
    if parts.missing():
        note(f"  not compared with what needs {', '.join(parts.missing())}: pip install 'search[benchmarks]'")
    races = _races(plan, file)
    try:
        for split, task in itertools.product(range(splits), names):
            if (task, split) in races:
                continue
            try:
                races[task, split] = _race(plan, task, split)
            except Exception as error:  # whatever a tool or its model raises: a race of hours goes on
                note(f"  {task}, split {split} is left out, and tried again by the next run: {error}")
            else:
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(asdict(races[task, split])) + "\n")
    except KeyboardInterrupt:
        note("  stopped; the tables are of what is done")
    if not races:
        note("  no task is done for all tools; the same command goes on from what is kept")
        return
    lines = _tables(plan, list(races.values()))
    print("\n".join(lines))
    if keep:
        page = _RESULTS.with_suffix(".md")
        head = page.read_text(encoding="utf-8").partition(_MARK)[0]
        page.write_text(f"{head}{_MARK}\n\n" + "\n".join(lines), encoding="utf-8")
        _draw(list(races.values()), _RESULTS.with_suffix(".png"))


def _races(plan: parts.Plan, file: Path) -> dict[tuple[str, int], Race]:
    """Return the races of a file that were as large as the plan and had all tools."""
    races = [Race(**each) for each in parts.read(file)]
    return {
        (each.task, each.split): each
        for each in races
        if (each.seconds, each.seeds, each.judges) == (plan.seconds, len(plan.seeds), plan.judges)
        and each.given.keys() >= {*parts.tools()}
    }


def _race(plan: parts.Plan, task: str, split: int) -> Race:
    """Search with each tool, and judge what they hand over.

    Raises:
        RuntimeError: A tool failed; the message names it.
    """
    name = f"{task}-split{split}"
    several: dict[str, list[parts.Handed]] = {}
    for tool in parts.tools():
        try:
            several[tool] = [parts.handed(plan, name, tool, seed) for seed in plan.seeds]
        except Exception as error:
            raise RuntimeError(f"{tool} failed ({type(error).__name__}: {error})") from error
    given, floor = _judged(plan, name, several)
    return Race(
        task=task,
        split=split,
        seconds=plan.seconds,
        seeds=len(plan.seeds),
        judges=plan.judges,
        machine=machine(),
        floor=floor,
        given=given,
        fresh=_fresh(plan, name, several),
        took={tool: max(each.seconds for each in searches) for tool, searches in several.items()},
        trials={tool: float(np.mean([each.trials for each in searches])) for tool, searches in several.items()},
    )


def _tables(plan: parts.Plan, races: list[Race]) -> list[str]:
    """Return the tables of some races as lines of Markdown."""
    found = {(each.task, each.split): each.given for each in races}
    floors = {(each.task, each.split): each.floor for each in races}
    columns = ["", "mean rank", "95 %", "first", "configuration under fresh seeds, mean rank", "calibration error"]
    columns += ["trials", "longest, s"]
    shown = [_caption(plan, races), "", *parts.as_markdown(columns, _ranks(races)), ""]
    shown += [f"Test loss against {parts.PLAIN}:", ""]
    shown += [*parts.as_markdown(averages.COLUMNS, averages.summary(found, floors, parts.PLAIN)), ""]
    return [*shown, *parts.as_markdown(["", *parts.tools()], _losses(races)), ""]


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


def _ranks(races: list[Race]) -> list[list[str]]:
    """Return a row for each tool: its mean rank with its interval over tasks, and how often it is first."""
    names = parts.tools()
    by_task: dict[str, list[NDArray[Any]]] = {}
    for each in races:
        by_task.setdefault(each.task, []).append(rankdata([each.given[name][0] for name in names]))
    ranks = np.asarray([np.mean(several, axis=0) for several in by_task.values()])
    rng = np.random.default_rng(0)
    drawn = ranks[rng.integers(0, len(ranks), (_RESAMPLES, len(ranks)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    own = [name for name in names if all(np.isfinite(each.fresh[name]) for each in races)]
    configured = np.mean([rankdata([each.fresh[name] for name in own]) for each in races], axis=0)
    rows = []
    for at, name in enumerate(names):
        errors = [each.given[name][1] for each in races if np.isfinite(each.given[name][1])]
        rows.append(
            [
                name,
                f"{ranks[:, at].mean():.2f}",
                f"{low[at]:.2f} to {high[at]:.2f}",
                f"{sum(each.min() == each[at] for several in by_task.values() for each in several)} of {len(races)}",
                f"{configured[own.index(name)]:.2f}" if name in own else "–",
                f"{np.mean(errors):.4f}" if errors else "–",
                f"{np.median([each.trials[name] for each in races]):.0f}",
                f"{max(each.took[name] for each in races):.0f}",
            ]
        )
    return rows


def _losses(races: list[Race]) -> list[list[str]]:
    """Return each task's mean test loss by tool."""
    rows = []
    for task in dict.fromkeys(each.task for each in races):
        several = [each.given for each in races if each.task == task]
        label = f"{task}, held back" if tasks.TASKS[task].held_back else task
        rows.append([label, *(f"{np.mean([each[tool][0] for each in several]):.4f}" for tool in parts.tools())])
    return rows


def _caption(plan: parts.Plan, races: list[Race]) -> str:
    count = len({each.task for each in races})
    machines = dict.fromkeys(each.machine.partition(", load")[0] for each in races)
    return (
        f"{count} tasks, {len(races)} tasks and splits, {len(parts.tools())} tools, {plan.seconds} s for each search "
        f"on {' or '.join(machines)}, {len(plan.seeds)} seed(s); configurations judged under {plan.judges} fresh "
        "seeds. Lower is better."
    )


def _draw(races: list[Race], file: Path) -> None:
    """Draw each tool's rank in each task and split, and its mean."""
    import matplotlib.figure

    names = parts.tools()
    ranks = np.asarray([rankdata([each.given[name][0] for name in names]) for each in races])
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(ranks, orientation="horizontal", tick_labels=names, showmeans=True)
    axes.set(xlabel="rank of the test loss of the model that is handed over; 1 is best")
    figure.savefig(file, dpi=110)
