"""Runs a search whose slots only wait, and prints as JSON how busy they were and what a trial cost the search.

    python slots.py STUDY_FILE N_TRIALS SLOTS SECONDS [offline]

Everything else is as in any search: the study in its journal, MLflow's store in `mlflow.db` beside it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.studyfile.settings import Settings
    from search.workers.base import Pool, Slot


class Timer:
    """Ends trials when their time is over: one thread for all slots."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed, self._numbers = threading.Condition(), itertools.count()
        threading.Thread(target=self._run, daemon=True).start()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function after this time."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), call))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                call = heapq.heappop(self._due)[2]
            call()


class WaitingSlot:
    """A slot whose trials take a given time, and end with ten epochs."""

    def __init__(self, timer: Timer, seconds: float) -> None:
        self._timer, self._seconds = timer, seconds

    def ready(self) -> bool:
        """Return true."""
        return True

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Wait for a trial's time; do at once what is no trial."""
        from search.training.result import Epoch, TrialResult
        from search.workers import worker

        future: Future[Any] = Future()
        if function is not worker.train:
            future.set_result(function(*args))
            return future
        number = args[1]

        def end() -> None:
            loss = 1 / (1 + number * 7919 % 104729)
            logs = dict.fromkeys(("loss", "val_loss", "accuracy", "val_accuracy"), loss)
            epochs = tuple(Epoch(step, time.time(), logs) for step in range(10))
            future.set_result(TrialResult(number, "complete", number, (loss,), epochs, {"test_loss": loss}))

        self._timer.after(self._seconds, end)
        return future

    def lost(self) -> None:
        """Return none."""

    def stop(self) -> None:
        """Do nothing."""

    def trained(self, memory: int) -> None:
        """Do nothing."""


class WaitingPool:
    """Slots that wait."""

    def __init__(self, count: int, seconds: float) -> None:
        timer = Timer()
        self.slots: list[Slot] = [WaitingSlot(timer, seconds) for _ in range(count)]
        self.description = f"{count} slots that wait"

    def dry_run(self, job: Any) -> Any:
        """Check the study here."""
        from search.workers import worker

        return worker.try_out(job)

    def reach(self, job: Any) -> Any:
        """Return the job."""
        return job

    def sees(self, folder: Path) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Search, and print."""
    from search import session
    from search.budget import Progress
    from search.studyfile.load import load_definition
    from search.studyfile.settings import resolve

    file, n_trials, slots, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

    def pool(settings: Settings) -> Pool:
        return WaitingPool(slots, seconds)

    session._pool = pool  # the one place where a search gets its slots
    ended: list[tuple[float, float]] = []
    began: list[float] = []

    def hook(progress: Progress) -> None:
        if progress.state == "began":
            began.append(time.time())
        elif progress.state != "training":
            ended.append((time.time(), time.process_time()))

    first = time.process_time()
    settings = resolve(
        load_definition(file), n_trials=n_trials, workers=slots, register=False, offline="offline" in sys.argv
    )
    outcome = session.search(settings, hook)
    moments = [moment for moment, _ in ended]
    wall = max(moments) - min(began)
    used = [cpu for _, cpu in ended]
    marks = sorted({min(len(used) - 1, mark) for mark in (10, 100, 300, 1000, 2000, 3000, 5000, 10_000, 20_000)})
    found = {
        "complete": outcome.n_trials["complete"],
        "not_mirrored": len(outcome.not_mirrored.numbers),
        "wall": wall,
        "busy": n_trials * seconds / (wall * slots),
        "cpu": [(mark, (used[mark] - used[mark // 2]) / (mark - mark // 2)) for mark in marks],
        "cpu_total": time.process_time() - first,
        "rate": n_trials / wall,
        "drained": time.time() - max(moments),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
