"""Train random models here and by Keras's `fit`, and count by kind what differs.

    python -m tests.exact --models 300 --seed 0 --file exact.jsonl [--processes 2]

Each model is followed by three of the same builder with other sizes, rates and seeds, in turn with another builder's.
Every epoch's logs, all weights and the optimizer's variables are compared to the last bit; the predictions of saved
models in a fresh process. A file that is there already is gone on with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.exact.attack import FOLLOWERS, attack, load_here, read, table


def main() -> None:
    """Compare, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", type=int, default=300)
    options.add_argument("--seed", type=int, default=0, help="of the first model")
    options.add_argument("--seeds", type=int, nargs="*", help="these models alone")
    options.add_argument("--followers", type=int, default=FOLLOWERS, help="later models of each builder")
    options.add_argument("--processes", type=int, default=1, help="how many train at once")
    options.add_argument("--file", type=Path, default=Path("exact.jsonl"), help="where the outcomes are kept")
    options.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--table", action="store_true", help="print the counts of the file alone")
    given = options.parse_args()
    if given.load:
        load_here(given.load, given.seeds)
        return
    seeds = given.seeds or list(range(given.seed, given.seed + given.models))
    if not given.table:
        attack(seeds, given.file, given.followers, given.processes)
    print(table(read(given.file)))
    for each in read(given.file):
        for told in each["differs"]:
            print(each["seed"], told, each["kinds"])


if __name__ == "__main__":
    main()
