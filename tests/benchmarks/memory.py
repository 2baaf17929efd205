"""A worker's resident size over 1000 tiny trials, against a plain loop in one process (30 minutes; `--quick` 3).

A trial trains one epoch on 100 rows. Once all trials have the same architecture, once each has its
own number of units. The plain loop, of one architecture, calls `clear_session` after each. Workers
are replaced when they have grown; the table says how often that was.
"""

from __future__ import annotations

from tests.benchmarks import trials
from tests.benchmarks.timing import HERE, PYTHON, Size, in_empty_folder, median, note, ratio, table
from tests.benchmarks.work import Work, tiny

_WIDEST = 4000


def sizes_of_search(work: Work, count: int) -> tuple[list[int], int, float]:
    """Return the worker's size after each trial, how many workers there were, and seconds a trial."""
    found = trials.ours(work, 1, count)
    sizes = [found.watch.memory(found.workers[number], found.ended[number]) for number in sorted(found.ended)]
    return sizes, len(set(found.workers.values())), found.each


def main(size: Size) -> None:
    """Measure and print."""
    count = size.of(1000, 100)
    note("  search, 1 worker, one architecture")
    same, workers, same_each = sizes_of_search(tiny(), count)
    note("  search, 1 worker, many architectures")
    many, many_workers, many_each = sizes_of_search(tiny(_WIDEST), count)
    note("  plain loop")
    plain = in_empty_folder(PYTHON, str(HERE / "probes" / "loop.py"), str(count)).json
    all_sizes = (same, many, plain["sizes"])
    rows = [
        [f"after trial {number}", *(cell for sizes in all_sizes for cell in _cells(sizes, number))]
        for number in (10, 30, 100, 200, 300, 500, 700, 1000)
        if number <= count
    ]
    rows.append(["largest", *(cell for sizes in all_sizes for cell in _cells(sizes, sizes.index(max(sizes)) + 1))])
    each = (same_each, many_each, median(plain["seconds"]))
    rows.append(["seconds a trial", *(cell for seconds in each for cell in (f"{seconds:.2f} s", ""))])
    rows.append(["processes", str(workers), "", str(many_workers), "", "1", ""])
    columns = ["", "worker", "÷ trial 10", "many architectures", "÷ trial 10", "plain loop", "÷ trial 10"]
    table(f"memory: resident size over {count} tiny trials", columns, rows)


def _cells(sizes: list[int], number: int) -> tuple[str, str]:
    value = sizes[number - 1]
    return f"{value / 1e6:.0f} MB", ratio(value, sizes[9])
