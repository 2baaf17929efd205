"""What a study's searches leave beside its storage, in one folder that belongs to the study's identity.

Models and what is known of data wait there until MLflow has them; checkpoints wait for their trial to go on; locks
and stop files belong to running searches. No file of a study that is gone is ever read: another study has another
identity, whatever its name and that of its journal.
"""

from __future__ import annotations

import glob
import os
import pickle
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import optuna
import platformdirs
from optuna.trial import TrialState

from search.study import attributes
from search.study.storage import file_of, folder_of
from search.studyfile.settings import Settings
from search.system import machine, whole

_SUFFIX, _SHOWN = ".files", 12  # of the folder's name, and how many characters of the identity it shows
_CHECKPOINTS = "checkpoints"
MOST_OUTPUTS = 50  # trials of which it is kept what they gave for the validation rows


class StudyFiles:
    """The files of one study.

    They lie in the folder that a person chose; else beside the storage's file, or in `studies/` where it has none;
    else, where nothing can be written there, in the user's own folder for the state of programs.

    Args:
        settings: Say where its storage is, and which folder was chosen.

    Attributes:
        folder: Where the files are.
    """

    def __init__(self, study: optuna.Study, settings: Settings) -> None:
        self._study, self._storage, self._name = study, settings.storage, study.study_name
        self._beside = folder_of(settings.storage).absolute()
        chosen = settings.state or attributes.state_of(study)
        places = [Path(chosen).absolute()] if chosen else [self._beside, platformdirs.user_state_path("search")]
        identity = attributes.identity_of(study)[:_SHOWN]
        # A home that cannot be read is none.
        there = (each for place in places if os.path.isdir(place) for each in place.glob(f"*.{identity}{_SUFFIX}"))
        place = next(filter(machine.is_writable, places), places[0])
        self.folder = next(there, place / f"{self._name}.{identity}{_SUFFIX}")

    def model(self, number: int) -> Path:
        """Return where the model of a trial waits."""
        return self.folder / f"trial-{number:05d}.keras"

    def predictions(self, number: int) -> Path:
        """Return where the predictions of a trial's model wait."""
        return self.model(number).with_suffix(".npz")

    def answers(self, number: int) -> Path:
        """Return where a trial's model's outputs for its input example wait."""
        return self.model(number).with_suffix(".answers")

    def waiting(self) -> set[int]:
        """Return the numbers of the trials whose model waits."""
        return {int(path.stem.removeprefix("trial-")) for path in self.folder.glob("trial-*.keras")}

    def put_model(
        self,
        number: int,
        archive: bytes,
        predictions: bytes | None = None,
        data: Any = None,
        answers: bytes | None = None,
    ) -> None:
        """Keep a trial's model; first what it gave for test rows and example, and what is known of its own data."""
        if answers is not None:
            whole.write(self.answers(number), answers)
        if predictions is not None:
            whole.write(self.predictions(number), predictions)
        if data is not None:
            whole.write(self._data(f"trial-{number}"), pickle.dumps(data))
        whole.write(self.model(number), archive)

    def forget_model(self, number: int) -> None:
        """Remove a trial's model."""
        files = (self.model(number), self.predictions(number), self.answers(number), self._data(f"trial-{number}"))
        for path in files:
            path.unlink(missing_ok=True)

    def outputs(self, number: int, seed: int | None = None) -> Path:
        """Return where it is kept what a trial gave for the validation rows, or its training under a new seed."""
        return self.folder / f"outputs-{number:05d}{'' if seed is None else f'-{seed}'}.npz"

    def retrained(self, number: int, seed: int) -> Path:
        """Return where the model of a training under a new seed is kept."""
        return self.folder / f"again-{number:05d}-{seed}.keras"

    def seeds(self, number: int) -> list[int]:
        """Return the new seeds of a trial's trainings whose models are kept."""
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"outputs-{number:05d}-*.npz"))

    def put_outputs(
        self, number: int, outputs: bytes | None, seed: int | None = None, model: bytes | None = None
    ) -> None:
        """Keep what a trial gave for the validation rows; of a training under a new seed its model first."""
        if seed is not None and model is not None:
            whole.write(self.retrained(number, seed), model)
        if outputs is not None and (seed is None or model is not None):
            whole.write(self.outputs(number, seed), outputs)

    def forget_outputs(self, but: Collection[int] = (), running: Collection[int] = ()) -> None:
        """Remove the models of new seeds, and what trials gave for the validation rows.

        Args:
            but: Trials whose own outputs are kept.
            running: Trials of searches that run; all of theirs is left.
        """
        kept = set(map(self.outputs, but))
        for path in {*self.folder.glob("again-*.keras"), *self.folder.glob("outputs-*.npz")} - kept:
            if int(path.stem.split("-")[1]) not in running:
                path.unlink(missing_ok=True)

    def data_of_trial(self, number: int) -> Any:
        """Return what `put_model` kept of a trial's own data; None when its data are those of the search."""
        return self.data(f"trial-{number}")

    def put_data(self, search_id: str, data: Any) -> None:
        """Keep what a search knows of its data; it is needed to log models later."""
        whole.write(self._data(search_id), pickle.dumps(data))

    def data(self, search_id: str) -> Any:
        """Return what `put_data` kept; None when it is gone."""
        with suppress(OSError):
            return pickle.loads(self._data(search_id).read_bytes())  # noqa: S301 - written by us, in the user's folder
        return None

    @property
    def checkpoints(self) -> Path:
        """The folder in which each trial has a folder of checkpoints, named by `checkpoint_name`."""
        return self.folder / _CHECKPOINTS

    def goes_on(self, number: int) -> bool:
        """Return whether a trial left a checkpoint from which it can go on."""
        return (self.checkpoints / checkpoint_name(number)).is_dir()

    def forget_checkpoint(self, number: int) -> None:
        """Remove a trial's checkpoints."""
        shutil.rmtree(self.checkpoints / checkpoint_name(number), ignore_errors=True)
        self._tidy()

    def stop_file(self, search_id: str) -> Path:
        """Return the file whose presence asks a search's trials to stop."""
        return self.folder / f"{search_id}.stop"

    def claim(self, search_id: str) -> Lock | None:
        """Take the lock that a search holds while it runs; None where another process holds it.

        Nothing asks a search to stop that has just been claimed: what an earlier process of it left goes.
        """
        lock = Lock(self._lock(search_id))
        if not lock.take():
            return None
        self.stop_file(search_id).unlink(missing_ok=True)
        return lock

    def claimed(self, search_id: str) -> bool | None:
        """Return whether a process holds a search's lock; None when there is no lock."""
        path = self._lock(search_id)
        return Lock(path).taken() if path.exists() else None

    def forget(self, search_id: str) -> None:
        """Remove the files of a search that is over and mirrored, and the folder when nothing else is in it."""
        for path in (self._data(search_id), self.stop_file(search_id), self._lock(search_id)):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.origin(search_id), ignore_errors=True)
        self._tidy()

    def _tidy(self) -> None:
        """Remove folders in which nothing is left but what a kill left half-written."""
        for folder in (self.checkpoints, self.folder):
            if folder.is_dir() and not any(folder.glob("[!.]*")):
                shutil.rmtree(folder, ignore_errors=True)

    def origin(self, search_id: str) -> Path:
        """Return the folder with the study file and the code that an offline search began with."""
        return self.folder / f"{search_id}.origin"

    def _data(self, search_id: str) -> Path:
        return self.folder / f"{search_id}.data"

    def _lock(self, search_id: str) -> Path:
        return self.folder / f"{search_id}.lock"

    def strangers(self) -> list[Path]:
        """Return folders of other studies of this name, which may be gone; nothing of them is read."""
        named = self.folder.parent.glob(f"{glob.escape(self._name)}.*{_SUFFIX}")
        return [each for each in (*sorted(named), *self._earlier()) if each.is_dir() and each != self.folder]

    def _earlier(self) -> tuple[Path, Path]:
        """Return the folders of models and of checkpoints of version 0.1, which named them by storage and study."""
        file = file_of(self._storage) if "://" not in self._storage else None
        models = Path(self._name).absolute() if file is None else file.absolute()
        checkpoints = self._beside / f"{self._name}.journal" if file is None else file.absolute()
        return models.with_name(f"{models.name.removesuffix('.journal')}.spool"), checkpoints.with_suffix(
            ".checkpoints"
        )

    def take_over(self) -> None:
        """Move what version 0.1 left of this study into its folder, unless a search of that version still runs.

        Models there are the study's own only where all searches that have files there are.
        """
        models, checkpoints = self._earlier()
        known = attributes.searches_of(self._study)
        if attributes.identity_of(self._study) not in known or any(
            Lock(each).taken() for each in models.glob("*.lock")
        ):
            return  # the study was begun by a later version
        searches = {path.stem for path in models.glob("*.data") if not path.stem.startswith("trial-")}
        for path in models.glob("[!.]*") if searches and searches <= known.keys() else ():
            if path.suffix in (".lock", ".stop"):
                path.unlink()
            else:
                self._move(path, self.folder / path.name)
        for trial in self._study.get_trials(deepcopy=False) if checkpoints.is_dir() else ():
            left = checkpoints / f"{self._name}-{trial.number:05d}"
            if trial.state != TrialState.RUNNING:
                shutil.rmtree(left, ignore_errors=True)
            elif left.is_dir():
                self._move(left, self.checkpoints / checkpoint_name(trial.number))
        for folder in (models, checkpoints):
            with suppress(OSError):  # it is not there, or others have files in it
                folder.rmdir()

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def checkpoint_name(number: int) -> str:
    """Return the name of a trial's folder of checkpoints."""
    return f"{number:05d}"


class Lock:
    """A file lock that the system releases when its process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = filelock.FileLock(path, thread_local=False)

    def take(self) -> bool:
        """Take the lock, and return whether it was free."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(filelock.Timeout):
            self._lock.acquire(timeout=0)
        return self._lock.is_locked

    def taken(self) -> bool:
        """Return whether another process holds the lock."""
        free = self.take()
        self.release()
        return not free

    def release(self) -> None:
        """Give the lock up."""
        self._lock.release()


class SharedFolder:
    """A folder of one search below the system's temporary folder, where its workers share data and traced graphs.

    The search holds a lock in it. Folders whose search was killed are removed when the next one is made. It is no
    folder of a study: it is needed before a study is created.

    Attributes:
        path: The folder, readable by its owner alone; empty where none could be made.
    """

    _PREFIX, _LOCK = "search-data-", ".search-lock"

    def __init__(self) -> None:
        self.path = ""
        for left in Path(tempfile.gettempdir()).glob(f"{self._PREFIX}*"):
            with suppress(OSError):  # another user's
                self._remove_left(left)
        with suppress(OSError):
            while not self.path:  # another search may take it for a leftover before it is locked
                path = Path(tempfile.mkdtemp(prefix=self._PREFIX))
                self._lock = Lock(path / self._LOCK)
                self.path = str(path) if self._lock.take() and path.is_dir() else ""

    def _remove_left(self, folder: Path) -> None:
        path = folder / self._LOCK
        if path.is_file() and not path.is_symlink() and not Lock(path).taken():
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder; processes that map its files keep what they map."""
        if self.path:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()
            self.path = ""
