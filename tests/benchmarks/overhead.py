"""Our trial, everything tracked, against the same trial in bare Keras (20 minutes; `--quick` 3).

Bare Keras trains the same configurations in as many processes as the search has workers, with the
same threads, once with `fit` on NumPy arrays and once fed by `search.feed`. Start-up and exit are
left out on both sides. Cores: CPU seconds of all processes divided by the seconds that passed.
"""

from __future__ import annotations

from functools import partial

from tests.benchmarks import trials
from tests.benchmarks.timing import Size, alternate, median, ratio, spread, table
from tests.benchmarks.work import large, small


def main(size: Size) -> None:
    """Measure and print."""
    for work in (small(size.of(16, 6)), large(size.of(14, 4))):
        rows = []
        for count in (1, 2):
            found = alternate(
                size.of(size.repeats, 1),
                {
                    "search": partial(trials.ours, work, count),
                    "bare fit on NumPy": partial(trials.bare, work, count, "fit"),
                    "bare, fed by search.training.fit": partial(trials.bare, work, count, "feed"),
                },
            )
            each = {name: median([one.each for one in several]) for name, several in found.items()}
            for name, several in found.items():
                rows.append(
                    [
                        f"{name}, {count} process{'es' if count > 1 else ''}",
                        spread([one.each for one in several]),
                        f"{median([one.cores for one in several]):.2f}",
                        ratio(each["search"], each[name]),
                    ]
                )
        table(
            f"overhead: {len(work.configurations)} trials of {work.name} work",
            ["", "wall ÷ trials", "cores busy", "search ÷ this"],
            rows,
        )
