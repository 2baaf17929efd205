"""How good a model is found, and how soon, against what a person would use instead (12 hours; `--quick` 30 minutes).

A dozen real tasks, one space of eight parameters, one fixed split each. The reference of a task is the best of many
random configurations. Each tool searches for the same time, whole process; a configuration that it holds to be its
best at some moment is trained again under seeds that no search used, and its loss on the test part counts, with the
weights that the tool would keep. Regret: 0 is as good as the reference, 1 as a median random configuration.

The work is done in parts, each kept in a folder that is printed; what is there is not done again. The tables are
written to `results/quality.md`. `python -m tests.benchmarks.quality --help` is the same with sizes of one's own.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path

from search.workers.local import cores
from tests.benchmarks.quality import parts, tasks
from tests.benchmarks.quality.regret import Regrets, of_task
from tests.benchmarks.timing import HERE, Size, machine, median, note, table

_RESULTS = HERE / "results" / "quality.md"
QUICK = ("diabetes", "breast_cancer", "oj", "digits")


def main(size: Size) -> None:
    """Search, judge, print, and add the table to the results."""
    plan = plan_of(size)
    compare(plan, [name for name in tasks.TASKS if not size.quick or name in QUICK], keep=not size.quick)


def compare(plan: parts.Plan, names: Sequence[str], *, keep: bool) -> None:
    """Search and judge task after task, print the tables, and `keep` them among the results.

    Ctrl-C ends the work; the tables are of the tasks that are done.
    """
    note(f"  parts are kept in {plan.folder}")
    if parts.missing():
        note(f"  not compared with what needs {', '.join(parts.missing())}: pip install 'search[benchmarks]'")
    found: dict[str, Regrets | None] = {}
    try:
        for name in names:
            for tool in parts.tools():
                for seed in plan.seeds:
                    parts.searched(plan, name, tool, seed)
            found[name] = of_task(plan, name)
    except KeyboardInterrupt:
        note("  stopped; the tables are of the tasks that are done")
    regrets = [each for each in found.values() if each is not None]
    unscaled = [name for name, each in found.items() if each is None]
    if not regrets:
        raise RuntimeError(f"no random configuration is better than the median on the test part of {list(found)}")
    columns, rows = _summary(plan, regrets)
    caption = _caption(plan, list(found))
    if unscaled:
        caption += f" Left out, since no reference is better than the median: {', '.join(unscaled)}."
    table("quality: regret of the best configuration's test loss", columns, rows, caption)
    each_columns, each_rows = _by_task(regrets)
    table("quality: regret at the end, task by task", each_columns, each_rows)
    lines = [caption, "", *parts.as_markdown(columns, rows), "", *parts.as_markdown(each_columns, each_rows), ""]
    (plan.folder / "table.md").write_text("\n".join(lines), encoding="utf-8")
    _draw(plan, regrets, plan.folder / "curves.png")
    if keep:
        head = ["# Quality", "", "`python -m tests.benchmarks quality` writes this file.", ""]
        _RESULTS.write_text("\n".join([*head, *lines]), encoding="utf-8")
        _draw(plan, regrets, _RESULTS.with_suffix(".png"))


def folder(name: str = "") -> Path:
    """Return where the parts are kept."""
    return Path(tempfile.gettempdir()) / f"search-quality{name}"


def plan_of(size: Size) -> parts.Plan:
    """Return how much to do."""
    return parts.Plan(
        folder=folder("-quick" if size.quick else ""),
        random=size.of(300, 60),
        seconds=size.of(300, 60),
        seeds=tuple(range(size.of(size.repeats, 1))),
        judges=size.of(5, 3),
    )


def _summary(plan: parts.Plan, regrets: list[Regrets]) -> tuple[list[str], list[list[str]]]:
    moments = [*(f"after {seconds:.0f} s" for seconds in plan.moments), *(f"{count} trials" for count in plan.counts)]
    columns = ["", "mean rank", *moments, "95 % of the way", "trials"]
    return columns, [_row(tool, regrets) for tool in parts.tools()]


def _row(tool: str, regrets: list[Regrets]) -> list[str]:
    def mean(values: list[float]) -> str:
        return f"{sum(values) / len(values):.3f}" if values else "–"

    known = [each.tools[tool] for each in regrets]
    moments = zip(*(each.after_seconds for each in known), strict=True)
    counts = [
        [value for value in column if value is not None]
        for column in zip(*(k.after_trials for k in known), strict=True)
    ]
    reached = [seconds for each in known for seconds in each.seconds_to_95]
    inside = [seconds for seconds in reached if seconds is not None]
    way = f"{median(inside):.0f} s in {len(inside)} of {len(reached)}" if inside else f"0 of {len(reached)}"
    return [
        tool,
        mean([each.rank for each in known]),
        *(mean(list(column)) for column in moments),
        *(mean(column) if len(column) == len(known) else "–" for column in counts),
        way,
        f"{median([each.trials for each in known]):.0f}",
    ]


def _by_task(regrets: list[Regrets]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            each.task + (", held back" if tasks.TASKS[each.task].held_back else ""),
            f"{each.reference:.4f}",
            f"{each.usual:.4f}",
            *(f"{each.tools[tool].after_seconds[-1]:.3f}" for tool in parts.tools()),
        ]
        for each in regrets
    ]
    return ["", "reference's test loss", "median random", *parts.tools()], rows


def _caption(plan: parts.Plan, names: list[str]) -> str:
    tools = len(parts.tools())
    return (
        f"{len(names)} tasks, {tools} tools, {plan.seconds} s for each search on {cores()} core(s), {len(plan.seeds)} "
        f"seed(s); reference: best of {plan.random} random configurations; judged under {plan.judges} fresh seeds. "
        f"Lower is better. {datetime.date.today()}, {machine()}."  # noqa: DTZ011 - the reader's day
    )


def _draw(plan: parts.Plan, regrets: list[Regrets], file: Path) -> None:
    """Draw each tool's mean regret over the seconds."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for tool in parts.tools():
        several = zip(*(each.tools[tool].after_seconds for each in regrets), strict=True)
        axes.plot(plan.moments, [sum(values) / len(values) for values in several], marker="o", label=tool)
    axes.set(xlabel="seconds, whole process", ylabel="mean regret on the test part", ylim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=110)
