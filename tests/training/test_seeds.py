"""A trial's seed decides what it begins with, whatever else runs in its process."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from search.data.loading import load
from search.training.training import Training, seeds_of_its_own
from tests.studyfiles import definition


def test_another_thread_that_draws_changes_nothing(tmp_path: Path) -> None:
    """The same trial would give other losses on a cluster, whose workers have threads that draw random numbers."""
    wanted = definition(folder=tmp_path)
    data, over = load(wanted), threading.Event()
    params = {"epochs": 1, "batch_size": 16, "dropout": 0.25}

    def draw() -> None:
        while not over.is_set():
            random.random()

    def weights() -> list[np.ndarray]:  # type: ignore[type-arg]
        trial = SimpleNamespace(params=params)
        return Training(wanted, data, trial, 7, tmp_path).model.get_weights()  # type: ignore[arg-type]

    alone = weights()
    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with seeds_of_its_own():
            beside = [weights() for _ in range(5)]
    finally:
        over.set()
    for each in beside:
        assert all(np.array_equal(one, other) for one, other in zip(alone, each, strict=True))
