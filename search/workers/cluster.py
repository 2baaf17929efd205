"""Where trials run on a cluster: the workers of an existing dask.distributed scheduler.

A slot trains one trial at a time on one dask worker. The scheduler, its workers and its settings
are the user's; nothing of theirs is changed, and all that a worker needs travels with the search.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client, WorkerPlugin

from search.errors import ClusterError, StorageError, one_line
from search.study.storage import file_of
from search.studyfile import objects
from search.studyfile.copy import common_layout
from search.studyfile.schema import Definition
from search.system import whole
from search.system.retry import waited
from search.tracking.user_code import files_needed
from search.training.dry_run import DryRun
from search.training.model import user_files
from search.workers import worker
from search.workers.base import Slot
from search.workers.worker import shipped_folder

# A scheduler that is gone is told in a line; dask's own record of it has a traceback.
logging.getLogger("distributed.batched").setLevel(logging.CRITICAL)

T = TypeVar("T")
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 60.0  # how long a slot waits for a worker to come (back)
_KNOWN_SECONDS = 0.5  # how long all slots share what the scheduler said of its workers


class ClusterSlot:
    """One dask worker at a time; another when that one leaves."""

    def __init__(self, pool: ClusterPool) -> None:
        self._pool = pool
        self._address = ""
        self._future: Future[Any] | None = None

    def ready(self) -> bool:
        """Return whether a worker is there that is not running one of our trials."""
        return self._pool.has_free(self._address)

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `function` on a worker that is not running one of our trials; waits a minute for one to come."""
        self._address = self._pool.take(self._address)
        executor = self._pool.client.get_executor(
            workers=[self._address], allow_other_workers=False, pure=False, retries=0, **self._pool.resources
        )
        # Fetched and released as soon as it is done: dask runs a held result's task again when its worker dies.
        future: Future[T] = executor.submit(function, *args)
        self._future = future
        future.add_done_callback(self._pool.look_again_after)
        return future

    def lost(self) -> str | None:
        """Return that the worker left the cluster, if it did."""
        return None if self._address in self._pool.workers() else f"its worker {self._address} left the cluster"

    def stop(self) -> None:
        """Give up what runs in the slot; dask cannot end it, so its worker is free when the trial's next epoch ends."""
        address, future, lost = self._address, self._future, self.lost() is not None
        self._address = ""
        if future is not None and not lost:
            future.add_done_callback(lambda _: self._pool.give_back(address))
            return
        if future is not None:
            future.cancel()
        self._pool.give_back(address)

    def trained(self, memory: int) -> None:
        """Do nothing: a dask worker's memory is its nanny's business."""


class ClusterPool:
    """The workers of a dask scheduler.

    Args:
        address: The scheduler's address, for example `tcp://host:8786`.
        wanted: How many trials at a time, or `auto` for one on each worker.
        n_trials: The budget.
        gpus: How much of the dask resource `GPU` one trial takes, where workers have it.

    Raises:
        ClusterError: The scheduler cannot be reached, has no workers, or they lack this package.
    """

    def __init__(self, address: str, wanted: int | str, n_trials: int, gpus: float) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._known: tuple[float, dict[str, Any]] | None = None  # the scheduler's workers, and when it was asked
        self._plugin = ""
        self._address = address
        try:
            self.client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(f"--cluster {address}: no scheduler answers there ({one_line(error)})") from None
        workers = self.workers()
        if not workers:
            self.client.close()
            raise ClusterError(f"--cluster {address}: the scheduler has no workers; start some (dask worker {address})")
        self._same_versions(address)
        has_gpus = any("GPU" in details.get("resources", {}) for details in workers.values())
        self.resources: dict[str, Any] = {"resources": {"GPU": gpus}} if has_gpus else {}
        count = max(1, min(len(workers) if wanted == "auto" else int(wanted), n_trials))
        self.slots: list[Slot] = [ClusterSlot(self) for _ in range(count)]
        self.description = f"{count} of the cluster's {len(workers)} workers"

    def workers(self) -> dict[str, Any]:
        """Return what the scheduler knows of its workers, by address; it is asked twice a second at most.

        Raises:
            ClusterError: The scheduler is gone.
        """
        kept = self._known
        if kept is None or time.monotonic() - kept[0] > _KNOWN_SECONDS:
            kept = self._known = (time.monotonic(), self._ask())
        return kept[1]

    def look_again_after(self, future: Future[Any]) -> None:
        """Ask the scheduler anew when a task failed: its worker may be gone."""
        if future.cancelled() or future.exception() is not None:
            self._known = None

    def _ask(self) -> dict[str, Any]:
        known: dict[str, Any] | None = None
        # Not `scheduler_info`: the client overwrites what that returns, every two seconds, with no workers at all.
        with suppress(OSError, TimeoutError, ValueError, RuntimeError, AttributeError):  # while a connection ends
            known = self.client.sync(self.client.scheduler.identity).get("workers")
        if known is None or self.client.status != "running":
            raise ClusterError(f"--cluster {self._address}: the scheduler is gone; --resume goes on when it is back")
        return known

    def take(self, preferred: str) -> str:
        """Return a worker that is not running one of our trials, and keep it; `preferred` if it is there."""
        found = waited(lambda: self._take(preferred), _WORKER_SECONDS, 0.5)
        if not found:
            raise ClusterError(f"no worker of the cluster came back, or ended its trial, within {_WORKER_SECONDS:g} s")
        return found

    def _take(self, preferred: str) -> str:
        with self._lock:
            known = self.workers()
            self._taken &= set(known)
            free = [preferred] if preferred in known else [each for each in known if each not in self._taken]
            self._taken |= set(free[:1])
            return "".join(free[:1])

    def has_free(self, preferred: str) -> bool:
        """Return whether `take` would return at once."""
        with self._lock:
            known = self.workers()
            return preferred in known or any(address not in self._taken for address in known)

    def give_back(self, address: str) -> None:
        """Free a worker for another slot."""
        self._taken.discard(address)  # without the lock: its holder may wait for dask's thread, which may call this

    def _same_versions(self, address: str) -> None:
        try:
            found: dict[str, dict[str, str]] = self.client.run(worker.versions)
        except Exception as error:
            self.client.close()
            raise ClusterError(
                f"--cluster {address}: its workers cannot import the package 'search' ({one_line(error)}); "
                "install it there"
            ) from None
        ours = worker.versions()
        for where, theirs in found.items():
            for name, version in ours.items():
                if theirs.get(name) != version:
                    raise ClusterError(
                        f"--cluster {address}: worker {where} has {name} {theirs.get(name)}, this machine {version}; "
                        "install the same version in both places"
                    )

    def reach(self, job: worker.Job) -> worker.Job:
        """Return the job as the cluster's workers can do it: with the user's files shipped to them.

        Raises:
            StorageError: The study's storage is a file that workers on other machines do not see.
        """
        files, path = _shipped(job.definition)
        elsewhere = self._elsewhere()
        if elsewhere:
            large = objects.files_of(job.settings.objects)
            files |= {f"{worker.OBJECTS}/{each.name}": each.read_bytes() for each in large}
        # Of each search alone: a data function may read what no digest of these files knows, and the folder is
        # removed with the search.
        key = f"search-shipped-{job.definition.digest}-{secrets.token_hex(8)}"
        self.client.register_plugin(ShippedFiles(key, files), name=key)
        self._plugin = key
        file = file_of(job.settings.storage)
        if file is not None and not self.sees(file.absolute().parent):
            raise StorageError(
                f"storage {job.settings.storage} is a file that the cluster's workers do not see; "
                "say --storage postgresql+psycopg://… or grpc://host:port"
            )
        threads = min((details.get("nthreads", 1) for details in self.workers().values()), default=1)
        definition = job.definition.model_copy(update={"path": Path(path)})
        return replace(
            job,
            settings=job.settings.model_copy(update={"definition": definition}),
            shipped=key,
            threads=threads,
            guarded=True,
        )

    def _elsewhere(self) -> bool:
        """Return whether workers run on other machines."""
        return not set(self.client.run(socket.gethostname).values()) <= {socket.gethostname()}

    def sees(self, folder: Path) -> bool:
        """Return whether every worker sees a folder of this machine, by a mark left in it or above it."""
        if not self._elsewhere():
            return True
        existing = next(each for each in (folder, *folder.parents) if each.is_dir())
        try:
            with tempfile.NamedTemporaryFile(dir=existing) as mark:
                return all(self.client.run(os.path.exists, mark.name).values())
        except OSError:  # nothing can be written there
            return False

    def dry_run(self, job: worker.Job) -> DryRun:
        """Check the study on one worker; creates nothing."""
        return self.slots[0].submit(worker.try_out, job).result()

    def close(self) -> None:
        """Leave the cluster; its workers stay, without this search's plug-in."""
        with suppress(Exception):  # the scheduler may be gone
            if self._plugin:
                self.client.unregister_worker_plugin(self._plugin)
        self.client.close()


class ShippedFiles(WorkerPlugin):  # type: ignore[misc]
    """Writes the user's files where a worker finds them, on workers that join later too; removes them at the end."""

    def __init__(self, key: str, files: dict[str, bytes]) -> None:
        self._key, self._files = key, files

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - dask's interface
        """Write the files."""
        folder = shipped_folder(self._key)
        for name, content in self._files.items():
            whole.write(folder / name, content)  # workers of one machine share the folder

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - dask's interface
        """Remove the files."""
        shutil.rmtree(shipped_folder(self._key), ignore_errors=True)


def _shipped(definition: Definition) -> tuple[dict[str, bytes], str]:
    """Return the study's files by their path below a common folder, and the study file's own such path."""
    wanted = files_needed(definition)
    for file in user_files(definition):
        wanted |= set(file.parent.glob("*.py"))  # a file may import its neighbours
    if definition.data_file is not None:
        wanted.add(definition.data_file)
    files, study_file = common_layout(wanted, definition.path)
    everything = {**files, study_file: definition.path}
    return {name: path.read_bytes() for name, path in everything.items()}, study_file
