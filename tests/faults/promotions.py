"""Two promotions at once, again and again: the better version must stand, and nobody be told otherwise.

    python -m tests.faults.promotions [--rounds 200] [--one-machine] [--uri URI]

Two processes promote two versions of one model at the same moment, by default without the lock that promotions of one
machine share, as from two machines. Prints a line of what happened; exit status 1 when a round went wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections import Counter
from contextlib import nullcontext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

WORSE, BETTER = "2", "3"


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.promotions", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--one-machine", action="store_true", help="with the lock that promotions of a machine share")
    parser.add_argument("--uri", help="MLflow's store  [default: a new SQLite file]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="promotions-") as name:
        os.chdir(name)
        uri = arguments.uri or f"sqlite:///{name}/mlflow.db"
        _prepare(Path(name), uri)
        found = Counter(_rounds(uri, arguments.rounds, arguments.one_machine))
    print(f"{arguments.rounds} rounds: " + ", ".join(f"{count} {what}" for what, count in found.most_common()))
    return 1 if any(what.startswith("WRONG") for what in found) else 0


def _prepare(folder: Path, uri: str) -> None:
    import mlflow

    from search import promotion
    from search.tracking import store
    from tests.promotion.test_promotion import predictions, registering

    with store.fresh_store(uri) as publish:
        publish()
    mlflow.set_tracking_uri(uri)
    add = registering(folder)
    add(predictions(1.0))
    promotion.promote("m")
    add(predictions(2.0))
    add(predictions(4.0))


def _rounds(uri: str, count: int, one_machine: bool) -> list[str]:
    from mlflow import MlflowClient

    from search import promotion
    from search.tracking import registry

    spawn = multiprocessing.get_context("spawn")
    start, end, told = spawn.Barrier(3), spawn.Barrier(3), spawn.Manager().dict()
    processes = [
        spawn.Process(target=_promote, args=(uri, version, count, one_machine, start, end, told))
        for version in (WORSE, BETTER)
    ]
    for process in processes:
        process.start()
    found = []
    for _ in range(count):
        _reset(MlflowClient())
        start.wait()
        end.wait()
        holder, moves = registry.holder("m", "champion"), promotion.moves("m")
        found.append(_judged(dict(told), holder.version if holder else "none", [each.version for each in moves]))
    for process in processes:
        process.join()
    return found


def _reset(client: Any) -> None:
    """Make version 1 champion, with nothing known of the others."""
    from search.tracking import registry

    client.set_registered_model_alias("m", "champion", "1")
    for version in (WORSE, BETTER):
        for key in [each for each in registry.find("m", version).tags if each.startswith("champion")]:
            registry.untag(registry.find("m", version), key)


def _judged(told: dict[str, Any], champion: str, moves: list[str]) -> str:
    wrong = [str(each) for each in told.values() if isinstance(each, str)]
    if wrong:
        return f"WRONG: {wrong[0]}"
    if champion != BETTER or not told[BETTER] or moves[-1] != BETTER:
        return f"WRONG: champion {champion}, told {told}, history {moves}"
    return "one after the other, both told so" if told[WORSE] else "the worse one yielded"


def _promote(
    uri: str, version: str, count: int, one_machine: bool, start: Barrier, end: Barrier, told: dict[str, Any]
) -> None:
    import mlflow

    from search import promotion
    from search.tracking import history

    mlflow.set_tracking_uri(uri)
    if not one_machine:
        history.one_at_a_time = lambda *_: nullcontext()  # type: ignore[assignment,misc]
    for _ in range(count):
        start.wait()
        try:
            told[version] = promotion.promote("m", version=version).promoted
        except Exception as error:
            told[version] = f"{type(error).__name__}: {error}"
        end.wait()


if __name__ == "__main__":
    raise SystemExit(main())
