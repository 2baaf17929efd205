"""The trials of a search or of a bare loop, from the first one's beginning to the last one's end."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.timing import HERE, PYTHON, Watch, empty_folder, run
from tests.benchmarks.work import Work

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Trials:
    """What the trials took.

    Attributes:
        count: How many there were.
        seconds: From the first one's beginning to the last one's end: start-up and exit left out.
        cores: How many cores were busy meanwhile, on average.
        ended: When each ended, by its number.
        workers: The process that trained each, by its number; empty for bare Keras.
        watch: What the processes used.
    """

    count: int
    seconds: float
    cores: float
    ended: dict[int, float]
    workers: dict[int, int]
    watch: Watch

    @property
    def each(self) -> float:
        """Seconds for a trial."""
        return self.seconds / self.count


def ours(work: Work, workers: int, n_trials: int | None = None, *where: str) -> Trials:
    """Search: everything tracked, models of the best trials logged, the best registered; `where` may be `dask`."""
    return _probe("ours.py", work, str(n_trials or len(work.configurations)), str(workers), *where)


def bare(work: Work, processes: int, how: str) -> Trials:
    """Train the same configurations with bare Keras."""
    return _probe("bare.py", work, str(processes), how)


def _probe(script: str, work: Work, *arguments: str) -> Trials:
    with empty_folder() as folder:
        file = str(work.write(folder))
        done = run(PYTHON, str(HERE / "probes" / script), file, *arguments, folder=folder, watch=_SAMPLE_SECONDS)
    began, ended = dict(done.json["began"]), dict(done.json["ended"])
    first, last = min(began.values()), max(ended.values())
    cores = done.watch.busy(first, last)
    return Trials(len(ended), last - first, cores, ended, dict(done.json.get("workers", [])), done.watch)
