"""Random models and their followers, trained here and by Keras in turn, and what differs."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLLOWERS = 3
_LAST_BITS = 1e-5  # a share
_TOGETHER = 10  # models of a process


@dataclass
class Record:
    """What came of a model and its followers."""

    seed: int
    kinds: list[str]
    trained: int = 0
    path: str = ""
    differs: list[str] = field(default_factory=list)
    last_bits: list[str] = field(default_factory=list)  # differences in them alone
    refused: str = ""  # by Keras, and here
    resumed: str = "not tried"
    parts: str = "not tried"  # folds, repeats or refit
    loaded: str = "not tried"


def values_of(seed: int, follower: int) -> Any:
    """Return the sizes, rates and seed of a model or of a follower."""
    import random

    from tests.exact.bodies import Values

    pick = random.Random(1000 * seed + follower)
    units = pick.choice([1, 2, 3, 5, 8, 13])
    return Values(units, round(pick.uniform(0.05, 0.6), 3), 10 ** pick.uniform(-3, -1), pick.randrange(10_000))


def compared(seeds: list[int], folder: Path, followers: int = FOLLOWERS) -> list[Record]:
    """Train the models of several seeds in turn, each with its followers."""
    from tests.exact import compare, trials
    from tests.exact.kinds import draw

    drawn = {seed: draw(seed) for seed in seeds}
    records = {seed: Record(seed, each.kinds) for seed, each in drawn.items()}
    for follower in range(followers + 1):
        for seed, each in drawn.items():
            record, values = records[seed], values_of(seed, follower)
            mine = compare.here(each, values)
            theirs = compare.by_keras(each, values, mine.path)
            record.trained += 1
            record.path = record.path or mine.path
            different = mine.differs(theirs)
            if different:
                told = record.differs if mine.differs(theirs, _LAST_BITS) else record.last_bits
                told.append(f"follower {follower}: {different}")
            elif mine.error:
                record.refused = mine.error
            if follower or mine.error or different:
                continue
            if seed % 3 == 1:
                form = trials.FORMS[seed // 3 % 3]
                told = trials.differs(each, values, form, folder, _LAST_BITS)
                if told is not None:
                    record.kinds.append(form)
                    record.parts = told or "same"
            if seed % 3 == 0 and mine.path != "ordinary fit":
                again = compare.resumed(each, values, folder / f"checkpoint-{seed}")
                if again is not None:
                    mine.epochs = mine.epochs[-len(again.epochs) :] if again.epochs else mine.epochs
                    record.resumed = again.differs(mine, _LAST_BITS) or "same"
            record.loaded = compare.saved(mine, each, folder / str(seed)) or "kept"
    return list(records.values())


def load(folder: Path, seeds: list[int]) -> dict[int, str]:
    """Load the kept models of these seeds in a fresh process, and return how each differs."""
    command = [sys.executable, "-m", "tests.exact", "--load", str(folder), "--seeds", *map(str, seeds)]
    ended = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    lines = ended.stdout.decode().splitlines()
    return {int(seed): told for seed, told in json.loads(lines[-1]).items()} if lines else {}


def load_here(folder: Path, seeds: list[int]) -> None:
    from tests.exact import compare
    from tests.exact.kinds import draw

    print(json.dumps({seed: compare.load_and_compare(folder / str(seed), draw(seed)) for seed in seeds}))


def ten(seeds: list[int], followers: int) -> list[Record]:
    """Compare the models of some seeds, and load them in a fresh process."""
    gc.disable()  # it would look through all that TensorFlow traced, again and again
    with tempfile.TemporaryDirectory() as name:
        folder, records = Path(name), []
        for index in range(0, len(seeds), 2):
            records += compared(seeds[index : index + 2], folder, followers)
            gc.collect()
            for each in records[-2:]:
                sys.stderr.write(
                    f"{each.seed} {each.path} {each.differs or each.last_bits or each.refused} "
                    f"{each.resumed} {each.parts}\n"
                )
        loaded = load(folder, [each.seed for each in records if each.loaded == "kept"])
        for each in records:
            if each.loaded == "kept":
                each.loaded = loaded.get(each.seed, "no answer") or "same"
    return records


def attack(seeds: list[int], file: Path, followers: int, processes: int) -> None:
    """Compare the models of these seeds that the file has not, ten in a process: TensorFlow keeps what it traced."""
    known = {each["seed"] for each in read(file)}
    left = [seed for seed in seeds if seed not in known]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, max_tasks_per_child=1) as pool:
        parts = [left[first : first + _TOGETHER] for first in range(0, len(left), _TOGETHER)]
        for done in as_completed([pool.submit(ten, part, followers) for part in parts]):
            with file.open("a") as out:
                out.writelines(json.dumps(asdict(each)) + "\n" for each in done.result())


def read(file: Path) -> list[dict[str, Any]]:
    """Return the records of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(records: list[dict[str, Any]]) -> str:
    """Return counts by kind as Markdown."""
    counts: dict[str, Counter[str]] = {"all": Counter()}
    for each in records:
        for kind in ("all", *dict.fromkeys(each["kinds"])):
            count = counts.setdefault(kind, Counter())
            count["models"] += 1
            count["trained"] += each["trained"]
            count["refused"] += bool(each["refused"])
            count["differs"] += bool(each["differs"])
            count["last bits"] += bool(each["last_bits"])
            count["resumed"] += each["resumed"] == "same"
            count["resumed otherwise"] += each["resumed"] not in ("same", "not tried")
            count["parts"] += each["parts"] == "same"
            count["parts otherwise"] += each["parts"] not in ("same", "not tried")
            count["loaded"] += each["loaded"] == "same"
    names = ["models", "trained", "differs", "last bits", "refused", "resumed", "resumed otherwise"]
    names += ["parts", "parts otherwise", "loaded"]
    head = f"| kind | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}\n"
    rows = (
        f"| {kind} | {' | '.join(str(count[name]) for name in names)} |\n" for kind, count in sorted(counts.items())
    )
    return head + "".join(rows)
