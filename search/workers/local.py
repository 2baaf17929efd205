"""The workers of this machine: how many, and what each may use; `search.workers.cluster` offers the same elsewhere."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pebble import ProcessExpired

from search.errors import ModelError
from search.study.files import SharedFolder
from search.system import machine
from search.workers.base import Slot
from search.workers.process import WORKER_BYTES, Allotment, LocalSlot, reason_of, start_forkserver

if TYPE_CHECKING:
    from search.training.dry_run import DryRun
    from search.workers import worker


class LocalPool:
    """Worker processes of this machine.

    Args:
        wanted: How many, or `auto`.
        n_trials: The budget; more workers than trials would idle.
        gpu_share: The share of a GPU that one worker uses.
        gpus_each: How many GPUs one worker uses.
    """

    def __init__(self, wanted: int | str, n_trials: int, gpu_share: float = 1.0, gpus_each: int = 1) -> None:
        start_forkserver()
        gpus = in_groups(visible_gpus(), gpus_each)
        count, why = choose_workers(wanted, n_trials, gpus, gpu_share)
        threads = max(1, machine.processors() // count)
        self.slots: list[Slot] = [
            LocalSlot(Allotment(threads, gpus[index % len(gpus)] if gpus else None, gpu_share))
            for index in range(count)
        ]
        shares = f" and {gpu_share * gpus_each:g} GPU{'s' * (gpus_each > 1)}" if gpus else ""
        each = f"{threads} thread{'s' if threads > 1 else ''}{shares} each"
        self._shared = SharedFolder() if count > 1 else None
        self.description = f"{count} worker{'s' if count > 1 else ''} ({why}), {each}"

    def dry_run(self, job: worker.Job) -> DryRun:
        """Check the study in one slot; creates nothing."""
        from search.workers import worker

        try:
            return self.slots[0].submit(worker.try_out, job).result()
        except ProcessExpired as error:
            raise ModelError(
                f"loading the data or building the first model ended its process: {reason_of(error)}"
            ) from (error)

    def reach(self, job: worker.Job) -> worker.Job:
        """Return the job with the folder in which workers share data; this machine has the user's files."""
        return job if self._shared is None else replace(job, shared=self._shared.path)

    def sees(self, folder: Path) -> bool:  # noqa: ARG002 - as the protocol has it
        """Return true: this machine's workers see what it sees."""
        return True

    def close(self) -> None:
        """End every worker."""
        for slot in self.slots:
            slot.stop()
        if self._shared is not None:
            self._shared.close()


def visible_gpus() -> list[str]:
    """Return the GPUs that workers may use, as in `CUDA_VISIBLE_DEVICES`, without touching them."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name for name in stated.split(",") if name and name != "-1"]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True)
        return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    return []


def in_groups(gpus: list[str], size: int) -> list[str]:
    """Return GPUs in groups of a size, each as in `CUDA_VISIBLE_DEVICES`; all in one group where they are too few."""
    groups = [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]
    return groups or ([",".join(gpus)] if gpus else [])


def _each(n_trials: int) -> str:
    return f"one for each of {n_trials} trials" if n_trials > 1 else "one for the only trial"


def choose_workers(wanted: int | str, n_trials: int, gpus: list[str], gpu_share: float) -> tuple[int, str]:
    """Return how many local workers to use, and why.

    Small models gain nothing from several threads, so `auto` takes a worker for each core, or for
    each share of a GPU or group of GPUs; more than there are trials, or than memory holds, would idle.
    """
    if isinstance(wanted, int):
        return max(1, min(wanted, n_trials)), "as asked" if wanted <= n_trials else _each(n_trials)
    places = len(gpus) * int(1 / gpu_share) if gpus else machine.processors()
    place = f"one for each of {places} {'GPU shares' if gpus else 'cores'}"
    limits = {places: place, max(1, int(machine.available_memory() / WORKER_BYTES)): "as many as memory holds"}
    limits.setdefault(max(1, n_trials), _each(n_trials))
    count = min(limits)
    return count, limits[count]
