"""A worker's resident size over 1000 tiny trials, against a plain loop in one process (25 minutes; `--quick` 3).

A trial trains one epoch on 100 rows. The plain loop calls `clear_session` after each. Workers are
replaced when they have grown; the table says how often that was.
"""

from __future__ import annotations

from tests.benchmarks import trials
from tests.benchmarks.timing import HERE, PYTHON, Size, in_empty_folder, median, note, ratio, table
from tests.benchmarks.work import tiny


def sizes_of_search(count: int) -> tuple[list[int], int, float]:
    """Return the worker's size after each trial, how many workers there were, and seconds a trial."""
    found = trials.ours(tiny(), 1, count)
    sizes = [found.watch.memory(found.workers[number], found.ended[number]) for number in sorted(found.ended)]
    return sizes, len(set(found.workers.values())), found.each


def main(size: Size) -> None:
    """Measure and print."""
    count = size.of(1000, 100)
    note("  search, 1 worker")
    ours, workers, ours_each = sizes_of_search(count)
    note("  plain loop")
    plain = in_empty_folder(PYTHON, str(HERE / "probes" / "loop.py"), str(count)).json
    rows = [
        [f"after trial {number}", *_cells(ours, number), *_cells(plain["sizes"], number)]
        for number in (10, 30, 100, 200, 300, 500, 700, 1000)
        if number <= count
    ]
    rows.append(["largest", *_cells(ours, ours.index(max(ours)) + 1), *_cells(plain["sizes"], count)])
    rows.append(["seconds a trial", f"{ours_each:.2f} s", "", f"{median(plain['seconds']):.2f} s", ""])
    rows.append(["processes", str(workers), "", "1", ""])
    columns = ["", "worker", "÷ after trial 10", "plain loop", "÷ after trial 10"]
    table(f"memory: resident size over {count} tiny trials", columns, rows)


def _cells(sizes: list[int], number: int) -> tuple[str, str]:
    value = sizes[number - 1]
    return f"{value / 1e6:.0f} MB", ratio(value, sizes[9])
