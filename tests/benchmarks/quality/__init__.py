"""How good the model is that a search hands over, against what a person would use instead (`--quick` 20 minutes).

Real tables, one space of eight parameters, several splits each. Each tool searches for the same time, whole process;
what counts is the test loss of the model that it hands over: the registered version, the best model that a script
kept. Beside it stands its configuration's test loss under seeds that no search used, and the calibration error.

The work is done in parts, each kept in a folder that is printed; what is there is not done again. What a tool comes to
in a task and split is a line of `results/quality.jsonl`, from which the next run goes on, on another machine too;
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
import pandas as pd
from numpy.typing import NDArray

from tests.benchmarks.quality import averages, parts, tasks
from tests.benchmarks.timing import HERE, Size, machine, note

_RESULTS = HERE / "results" / "quality"
_MARK = "<!-- tables: python -m tests.benchmarks.quality --keep -->"
QUICK = ("diabetes", "breast_cancer", "digits")
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
class Result:
    """What a tool came to in one task and split.

    Attributes:
        task: The task.
        split: Which split of its rows.
        tool: The tool.
        seconds: How long each search might take.
        seeds: Searches.
        judges: Seeds under which a configuration was judged.
        machine: Where they ran.
        floor: What is added to the task's losses before they are compared.
        loss: The mean test loss of the models that were handed over.
        ece: Their mean calibration error; NaN for a regression.
        fresh: The mean test loss of their configurations under fresh seeds; NaN for a tool with another space.
        took: The longest search, in seconds.
        trials: The mean number of trials.
    """

    task: str
    split: int
    tool: str
    seconds: int
    seeds: int
    judges: int
    machine: str
    floor: float
    loss: float
    ece: float
    fresh: float
    took: float
    trials: float


def compare(
    plan: parts.Plan, names: Sequence[str], splits: int, *, keep: bool, tools: Sequence[str] | None = None
) -> None:
    """Race in task after task, and print the tables of all races of the file.

    Ctrl-C ends the work; what the file has is not repeated.

    Args:
        plan: How much to do.
        names: The tasks.
        splits: Splits of each.
        keep: Whether the file and the tables are those of the results.
        tools: The tools; all when left out, and only then the tables are kept.
    """
    file = (_RESULTS if keep else plan.folder / "races").with_suffix(".jsonl")
    note(f"  parts are kept in {plan.folder}, results in {file}")
    if parts.missing():
        note(f"  not compared with what needs {', '.join(parts.missing())}: pip install 'search[benchmarks]'")
    results = _results(plan, file)
    known = {(each.task, each.split, each.tool) for each in results}
    try:
        for split, task in itertools.product(range(splits), names):
            left = [tool for tool in tools or parts.tools() if (task, split, tool) not in known]
            try:
                found = _race(plan, task, split, left) if left else []
            except Exception as error:  # of the judge: a race of hours goes on
                note(f"  {task}, split {split} is left out, and tried again by the next run: {error}")
                continue
            results += found
            with file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(asdict(each)) + "\n" for each in found)
    except KeyboardInterrupt:
        note("  stopped; the tables are of what is done")
    races = _races(results, tools or parts.tools())
    if races.empty:
        note("  no task is done for all tools; the same command goes on from what is kept")
        return
    lines = _tables(plan, races)
    print("\n".join(lines))
    if keep and not tools:
        page = _RESULTS.with_suffix(".md")
        head = page.read_text(encoding="utf-8").partition(_MARK)[0]
        page.write_text(f"{head}{_MARK}\n\n" + "\n".join(lines), encoding="utf-8")
        _draw(races, _RESULTS.with_suffix(".png"))


def _results(plan: parts.Plan, file: Path) -> list[Result]:
    """Return the results of a file whose races were as large as the plan."""
    size = (plan.seconds, len(plan.seeds), plan.judges)
    found = (Result(**each) for each in parts.read(file))
    return [each for each in found if (each.seconds, each.seeds, each.judges) == size]


def _races(results: Sequence[Result], tools: Sequence[str]) -> pd.DataFrame:
    """Return the results of the tasks and splits that all these tools have done."""
    table = pd.DataFrame([asdict(each) for each in results if each.tool in tools])
    if table.empty:
        return table
    return table[table.groupby(["task", "split"])["tool"].transform("nunique") == len(tools)]


def _race(plan: parts.Plan, task: str, split: int, tools: Sequence[str]) -> list[Result]:
    """Search with each of some tools, and judge what they hand over; a tool that fails is told and left out."""
    name = f"{task}-split{split}"
    several: dict[str, list[parts.Handed]] = {}
    for tool in tools:
        try:
            several[tool] = [parts.handed(plan, name, tool, seed) for seed in plan.seeds]
        except Exception as error:  # whatever a tool or its model raises: a race of hours goes on
            note(f"  {name}: {tool} is left out, and tried again by the next run: {error!r}")
    with np.load(parts.arrays(plan, name)) as file:
        kind, y = str(file["kind"]), file["y_test"]
    fresh, where = _fresh(plan, name, several), machine()
    return [
        Result(
            task=task,
            split=split,
            tool=tool,
            seconds=plan.seconds,
            seeds=len(plan.seeds),
            judges=plan.judges,
            machine=where,
            floor=averages.floor(kind, y),
            loss=float(np.mean([averages.losses(kind, y, each.outputs).mean() for each in searches])),
            ece=float(np.mean([averages.calibration(kind, y, each.outputs) for each in searches])),
            fresh=fresh[tool],
            took=max(each.seconds for each in searches),
            trials=float(np.mean([each.trials for each in searches])),
        )
        for tool, searches in several.items()
    ]


def _tables(plan: parts.Plan, races: pd.DataFrame) -> list[str]:
    """Return the tables of some races as lines of Markdown."""
    columns = ["", "mean rank", "95 %", "first", "configuration under fresh seeds, mean rank", "calibration error"]
    columns += ["trials", "longest, s"]
    shown = [_caption(plan, races), "", *parts.as_markdown(columns, _ranks(races)), ""]
    columns = ["", "mean rank", "best other tool", "its mean rank", "ahead by, 95 %", "tasks better / worse"]
    columns += ["worst task beside it", "tasks better than every other"]
    others = [name for name in _tools(races) if not name.startswith(parts.OURS)]
    of_keras = [name for name in others if races["fresh"][races["tool"] == name].notna().all()]
    for what, several in (("other tools for Keras", of_keras), ("others", others)):
        if not several:
            continue
        shown += [f"Each setting of search.run beside the {what} alone:", ""]
        shown += [*parts.as_markdown(columns, _alone(races, several)), ""]
    for measure, what in (("loss", "Test loss"), ("fresh", "Test loss of the configuration under fresh seeds,")):
        rows = parts.as_markdown(averages.COLUMNS, _beside_plain(races, measure))
        shown += [f"{what} against {parts.PLAIN}:", "", *rows, ""]
    return [*shown, *parts.as_markdown(["", *_tools(races)], _losses(races)), ""]


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


def _fresh(plan: parts.Plan, task: str, several: dict[str, list[parts.Handed]]) -> dict[str, float]:
    """Return each tool's mean test loss of its configurations under fresh seeds; NaN for a tool with another space."""
    chosen = {tool: [each.params for each in searches if each.params] for tool, searches in several.items()}
    judged = parts.judged(plan, task, [params for found in chosen.values() for params in found])  # in one process
    losses = {
        tool: [curve.kept("last") for params in found for curve in judged[parts.key(params)]]
        for tool, found in chosen.items()
    }
    return {tool: float(np.mean(each)) if each else float("nan") for tool, each in losses.items()}


def _tools(races: pd.DataFrame) -> list[str]:
    """Return the tools of some races."""
    return [name for name in parts.tools() if name in set(races["tool"])]


def _wide(races: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column by task and split (rows) and tool."""
    return races.pivot(index=["task", "split"], columns="tool", values=column)[_tools(races)]


def _by_task(races: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over each task's splits."""
    return races.groupby("task").mean()


def _interval(by_task: NDArray[Any]) -> NDArray[Any]:
    """Return the ends of the 95 % interval of the mean over tasks (rows)."""
    rng = np.random.default_rng(0)
    drawn = by_task[rng.integers(0, len(by_task), (_RESAMPLES, len(by_task)))].mean(axis=1)
    return np.asarray(np.quantile(drawn, (0.025, 0.975), axis=0))


def _ranks(races: pd.DataFrame) -> list[list[str]]:
    """Return a row for each tool: its mean rank with its interval over tasks, and how often it is first."""
    loss, fresh = _wide(races, "loss"), _wide(races, "fresh").dropna(axis="columns")
    by_task, configured = _by_task(loss.rank(axis="columns")), fresh.rank(axis="columns").mean()
    low, high = _interval(by_task.to_numpy())
    first = loss.eq(loss.min(axis="columns"), axis="index").sum()
    errors, trials, took = _wide(races, "ece").mean(), _wide(races, "trials").median(), _wide(races, "took").max()
    return [
        [
            name,
            f"{by_task[name].mean():.2f}",
            f"{low[at]:.2f} to {high[at]:.2f}",
            f"{first[name]} of {len(loss)}",
            f"{configured[name]:.2f}" if name in configured else "–",
            f"{errors[name]:.4f}" if np.isfinite(errors[name]) else "–",
            f"{trials[name]:.0f}",
            f"{took[name]:.0f}",
        ]
        for at, name in enumerate(_tools(races))
    ]


def _alone(races: pd.DataFrame, others: list[str]) -> list[list[str]]:
    """Return a row for each setting of search.run, as if it raced with some other tools alone."""
    loss, rows = _wide(races, "loss"), []
    floored = (loss + _wide(races, "floor")).apply(np.log)
    for name in (each for each in _tools(races) if each.startswith(parts.OURS)):
        by_task = _by_task(loss[[name, *others]].rank(axis="columns"))
        best = str(by_task[others].mean().idxmin())
        ahead = (by_task[best] - by_task[name]).to_numpy()
        beside = _by_task(floored.sub(floored[name], axis="index"))
        low, high = _interval(ahead)
        rows.append(
            [
                name,
                f"{by_task[name].mean():.2f}",
                best,
                f"{by_task[best].mean():.2f}",
                f"{ahead.mean():+.2f} ({low:+.2f} to {high:+.2f})",
                f"{(beside[best] > averages.LEAST).sum()} / {(beside[best] < -averages.LEAST).sum()}",
                f"{np.expm1(-beside[best].min()):+.1%}",
                f"{(beside[others] > averages.LEAST).all(axis='columns').sum()} of {len(beside)}",
            ]
        )
    return rows


def _beside_plain(races: pd.DataFrame, measure: str) -> list[list[str]]:
    """Return a row for each tool: its `loss`, or that of its configuration (`fresh`), beside the plain script's."""
    found: dict[tuple[str, int], averages.Given] = {}
    floors: dict[tuple[str, int], float] = {}
    for each in races.dropna(subset=measure).to_dict("records"):
        key = (each["task"], each["split"])
        error = each["ece"] if measure == "loss" else np.nan  # of a configuration it is not measured
        found.setdefault(key, {})[each["tool"]], floors[key] = (each[measure], error), each["floor"]
    return averages.summary(found, floors, parts.PLAIN)


def _losses(races: pd.DataFrame) -> list[list[str]]:
    """Return each task's mean test loss by tool."""
    return [
        [f"{task}, held back" if tasks.TASKS[str(task)].held_back else str(task), *(f"{loss:.4f}" for loss in losses)]
        for task, losses in _by_task(_wide(races, "loss")).iterrows()
    ]


def _caption(plan: parts.Plan, races: pd.DataFrame) -> str:
    machines = dict.fromkeys(each.partition(", load")[0] for each in races["machine"])
    return (
        f"{races['task'].nunique()} tasks, {len(_wide(races, 'loss'))} tasks and splits, {races['tool'].nunique()} "
        f"tools, {plan.seconds} s for each search on {' or '.join(machines)}, {len(plan.seeds)} seed(s); "
        f"configurations judged under {plan.judges} fresh seeds. Lower is better."
    )


def _draw(races: pd.DataFrame, file: Path) -> None:
    """Draw each tool's rank in each task and split, and its mean."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ranks = _wide(races, "loss").rank(axis="columns")
    axes.boxplot(ranks, orientation="horizontal", tick_labels=_tools(races), showmeans=True)
    axes.set(xlabel="rank of the test loss of the model that is handed over; 1 is best")
    figure.savefig(file, dpi=110)
