"""Total memory and start of searches on large arrays, with 1, 2 and 4 workers (6 minutes; `--quick` 2).

The proportional set size (PSS) of every process of a search is summed twice a second: what processes share counts
once. A search on a hundred rows shows what the workers take without data. The goal is that memory, the data
counted once, with 10 % on top. The same source is trained in single and in double precision; Keras trains in
single precision, so that the latter needs the rows in both.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.timing import PYTHON, Size, empty_folder, note, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COLUMNS = 200
_CODE = """
import json
import os
import time

import keras
import numpy as np


def load(file):
    x = np.load(file)
    return x, x[:, :1].copy()


def build(trial, data):
    with open("built.jsonl", "a") as file:
        file.write(json.dumps([time.time(), os.getpid()]) + "\\n")
    model = keras.Sequential([keras.layers.Dense(trial.params["width"], activation="relu"), keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model
"""
_STUDY = """
name = "sharing"
metric = "val_loss"
direction = "minimize"

[data]
source = "large.py:load"
options = {{ file = "{file}" }}
test_size = 0.2
validation_size = 0.2

[model]
build = "large.py:build"

[fit]
epochs = 3
batch_size = 4096

[space]
width = {{ type = "int", low = 8, high = 32 }}

[search]
pruner = "none"
"""


@dataclass(frozen=True)
class Taken:
    """What a search took.

    Attributes:
        most: Its largest total memory in bytes.
        training: Its largest total memory once every worker had built a model.
        first: Seconds from the command to the first trial's model.
        last: Seconds until each worker had built a model.
    """

    most: int
    training: int
    first: float
    last: float


def pss(session: int) -> int:
    """Return the summed proportional set size of the processes of a session, in bytes."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            lines = (entry / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, IndexError):
            continue  # it ended while we looked
    return total


def search(folder: Path, file: Path, workers: int) -> Taken:
    """Run a search, and return what it took."""
    (folder / "large.py").write_text(_CODE)
    (folder / "large.toml").write_text(_STUDY.format(file=file))
    arguments = ["--workers", str(workers), "--n-trials", str(2 * workers), "--offline", "--quiet"]
    began = time.time()
    process = subprocess.Popen(
        [PYTHON, "-m", "search.run", "large.toml", *arguments], cwd=folder, start_new_session=True
    )
    samples: list[tuple[float, int]] = []

    def watch() -> None:
        while process.poll() is None:
            samples.append((time.time(), pss(process.pid)))
            time.sleep(0.5)

    watching = threading.Thread(target=watch)
    watching.start()
    if process.wait():
        raise RuntimeError(f"search.run: exit status {process.returncode}")
    watching.join()
    of_processes: dict[int, list[float]] = defaultdict(list)
    for line in (folder / "built.jsonl").read_text().splitlines():
        moment, pid = json.loads(line)
        of_processes[pid].append(moment)
    checked = next(iter(of_processes.values()))
    del checked[0]  # the model that is built before the search begins
    firsts = [each[0] for each in of_processes.values() if each]
    most = max(size for _, size in samples)
    training = max((size for moment, size in samples if moment >= max(firsts)), default=0)
    return Taken(most, training, min(firsts) - began, max(firsts) - began)


def numbers(rows: int, dtype: str) -> NDArray[Any]:
    """Return random numbers, the same ones each time."""
    return np.random.default_rng(0).standard_normal((rows, _COLUMNS), "float32").astype(dtype)


def main(size: Size) -> None:
    """Measure and print."""
    rows = []
    with empty_folder() as files:
        few = files / "few.npy"
        np.save(few, numbers(100, "float32"))
        for dtype in ("float32", "float64")[: size.of(2, 1)]:
            large = files / f"{dtype}.npy"
            count = size.of(500_000_000, 200_000_000) // (_COLUMNS * np.dtype(dtype).itemsize)
            np.save(large, numbers(count, dtype))
            for workers in (1, 2, 4)[: size.of(3, 2)]:
                taken = []
                for file in (few, large):
                    note(f"  {dtype}, {workers} workers, {file.stat().st_size / 1e6:.0f} MB")
                    with empty_folder() as folder:
                        taken.append(search(folder, file, workers))
                without, having = taken
                data = large.stat().st_size
                goal = 1.1 * (without.training + data)
                rows.append(
                    [
                        f"{dtype}, {workers}",
                        *(f"{each / 1e6:.0f} MB" for each in (without.training, data, having.training)),
                        f"{having.training / goal:.2f}",
                        f"{having.most / 1e6:.0f} MB",
                        f"{having.first:.1f} s",
                        f"{having.last:.1f} s",
                    ]
                )
    table(
        "sharing: total memory of a search on large arrays",
        ["workers", "without data", "data", "training", "÷ goal", "largest", "first trial", "all workers train"],
        rows,
        "Goal: 1.1 times the memory without data and the data once.",
    )
