"""`python -m tests.benchmarks.quality`: the benchmark `quality` with sizes of one's own."""

from __future__ import annotations

import argparse

from tests.benchmarks import defaults, quality
from tests.benchmarks.quality import parts, samplers, tasks
from tests.benchmarks.timing import machine


def main() -> None:
    """Read the sizes, and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=list(tasks.TASKS), help="which tasks")
    parser.add_argument("--seconds", type=int, default=60, help="for each search, whole process")
    parser.add_argument("--seeds", type=int, default=1, help="searches of each tool and task")
    parser.add_argument("--splits", type=int, default=3, help="splits of each task")
    parser.add_argument(
        "--tools", nargs="+", metavar="TOOL", choices=parts.tools(), help="which tools; all when left out"
    )
    parser.add_argument("--random", type=int, default=100, help="random configurations that are replayed")
    parser.add_argument("--judges", type=int, default=3, help="seeds under which a configuration is judged")
    parser.add_argument("--pruners", action="store_true", help="replay pruners over the random configurations instead")
    parser.add_argument("--choices", action="store_true", help="replay keep_epoch and the preset over them instead")
    parser.add_argument("--samplers", action="store_true", help="compare samplers by trials instead")
    parser.add_argument("--keep", action="store_true", help="add to results/quality.jsonl and quality.md")
    asked = parser.parse_args()
    for name in asked.tasks:
        if name not in tasks.TASKS:
            parser.error(f"no task '{name}'; there are {', '.join(tasks.TASKS)}")
    plan = parts.Plan(
        folder=quality.folder(f"-{asked.seconds}s"),
        random=asked.random,
        seconds=asked.seconds,
        seeds=tuple(range(asked.seeds)),
        judges=asked.judges,
    )
    print(machine())
    if asked.pruners:
        defaults.replay_pruners(plan, asked.tasks)
    elif asked.choices:
        defaults.replay_kept(plan, asked.tasks)
        defaults.replay_preset(plan, asked.tasks)
    elif asked.samplers:
        samplers.compare(plan, asked.tasks)
    else:
        quality.compare(plan, asked.tasks, asked.splits, keep=asked.keep, tools=asked.tools)


if __name__ == "__main__":
    main()
