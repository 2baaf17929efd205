"""`python -m tests.benchmarks [--quick] [NAME …]`: run the benchmarks, each printing a table with ratios."""

from __future__ import annotations

import argparse
import importlib
import time

from tests.benchmarks.timing import Size, machine, note

NAMES = (
    "startup",
    "search",
    "profile",
    "overhead",
    "paths",
    "workers",
    "storage",
    "mirror",
    "scaling",
    "memory",
    "sharing",
    "baseline",
    "quality",
    "defaults",
    "trust",
)


def main() -> None:
    """Run the benchmarks that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(NAMES)}  [default: all]")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that they work")
    parser.add_argument("--repeats", type=int, default=3, help="how often to measure each variant  [default: 3]")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"no benchmark '{name}'; there are {', '.join(NAMES)}")
    print(machine())
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        note(f"{name}: {(module.__doc__ or '').splitlines()[0]}")
        started = time.perf_counter()
        module.main(Size(arguments.quick, arguments.repeats))
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
