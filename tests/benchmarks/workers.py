"""Trials a minute with 1, 2 and 3 workers and on a dask cluster of 2, all tracked (5 minutes; `--quick` 1).

The base is one worker. Start-up and exit are left out.
"""

from __future__ import annotations

from functools import partial

from tests.benchmarks import trials
from tests.benchmarks.timing import Size, alternate, median, ratio, table
from tests.benchmarks.work import large, small


def main(size: Size) -> None:
    """Measure and print."""
    for work in (small(size.of(24, 6)), large(size.of(8, 3))):
        counts = (1, 2, 3)
        variants = {str(count): partial(trials.ours, work, count) for count in counts}
        variants["2 of a local dask cluster"] = partial(trials.ours, work, 2, None, "dask")
        found = alternate(size.of(size.repeats, 1), variants)
        rates = {name: median([60 / one.each for one in several]) for name, several in found.items()}
        rows = [
            [name, f"{rates[name]:.0f}", ratio(rates[name], rates["1"]), f"{median([o.cores for o in several]):.2f}"]
            for name, several in found.items()
        ]
        title = f"workers: {len(work.configurations)} trials of {work.name} work"
        table(title, ["workers", "trials a minute", "÷ 1 worker", "cores busy"], rows)
