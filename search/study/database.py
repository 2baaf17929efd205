"""A study in a database that may restart: each request is tried again for half a minute."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage

from search.system.retry import retried

PATIENCE_SECONDS = 30.0
_AWAY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, optuna.exceptions.StorageInternalError)
_HOPELESS = ("disk is full", "No space left", "readonly", "does not exist", "authentication failed")


class PatientStorage(RDBStorage):
    """Optuna's database storage, whose requests survive a restart of the database.

    Attributes:
        on_message: Told once when the database is away.
    """

    on_message: Callable[[str], None] = staticmethod(lambda _: None)


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def tried(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        again = False

        def call() -> Any:
            try:
                return method(self, *args, **kwargs)
            except UpdateFinishedTrialError:
                if again:  # the first try was carried out, only its answer was lost
                    return True
                raise

        def wait() -> None:
            nonlocal again
            again = True
            self.on_message(f"the study's database does not answer; trying again for {PATIENCE_SECONDS:g} s")

        return retried(call, _is_away, PATIENCE_SECONDS, wait)

    return tried


def _is_away(error: Exception) -> bool:
    text = f"{error} {error.__cause__ or ''}"
    return isinstance(error, _AWAY) and not any(each in text for each in _HOPELESS)


for _name in {name for name in vars(BaseStorage) if not name.startswith("_")} & vars(RDBStorage).keys():
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))
