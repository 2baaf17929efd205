"""Files that wait beside a study until MLflow has them: models, what a search knows of its data, and locks."""

from __future__ import annotations

import fcntl
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.studyfile.settings import Settings
from search.system import whole


class Spool:
    """The folder of a study's waiting files: beside its journal, or in the working folder.

    Every file appears whole or not at all.
    """

    def __init__(self, settings: Settings) -> None:
        beside = Path(settings.storage) if "://" not in settings.storage else Path(settings.study_name)
        self.folder = beside.with_name(f"{beside.name.removesuffix('.journal')}.spool")

    def model(self, number: int) -> Path:
        """Return where the model of a trial waits."""
        return self.folder / f"trial-{number:05d}.keras"

    def predictions(self, number: int) -> Path:
        """Return where the predictions of a trial's model wait."""
        return self.folder / f"trial-{number:05d}.npz"

    def waiting(self) -> set[int]:
        """Return the numbers of the trials whose model waits."""
        return {int(path.stem.removeprefix("trial-")) for path in self.folder.glob("trial-*.keras")}

    def answers(self, number: int) -> Path:
        """Return where a trial's model's outputs for its input example wait."""
        return self.model(number).with_suffix(".answers")

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
        self.model(number).unlink(missing_ok=True)
        self.predictions(number).unlink(missing_ok=True)
        self.answers(number).unlink(missing_ok=True)
        self._data(f"trial-{number}").unlink(missing_ok=True)

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

    def stop_file(self, search_id: str) -> Path:
        """Return the file whose presence asks a search's trials to stop."""
        return self.folder / f"{search_id}.stop"

    def lock(self, search_id: str) -> SearchLock:
        """Return the lock that a search holds while it runs."""
        return SearchLock(self.folder / f"{search_id}.lock")

    def forget(self, search_id: str) -> None:
        """Remove the files of a search that is over and mirrored, and the folder when it is empty."""
        for path in (self._data(search_id), self.stop_file(search_id), self.folder / f"{search_id}.lock"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _data(self, search_id: str) -> Path:
        return self.folder / f"{search_id}.data"


class SearchLock:
    """A file lock that the system releases when its process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Take the lock, and return whether it was free."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def held_elsewhere(self) -> bool | None:
        """Return whether another process holds the lock; None when there is no lock file."""
        if not self._path.exists():
            return None
        if not self.take():
            return True
        self.release()
        return False

    def release(self) -> None:
        """Give the lock up."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
