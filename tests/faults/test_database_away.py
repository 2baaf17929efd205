"""The study's database is killed: a restart is waited for, and one that stays away is told in a line."""

from __future__ import annotations

import threading

import optuna
import pytest

from search.errors import StorageError
from search.study import database
from search.study.storage import open_storage, storage_errors
from tests.faults.night import postgresql


def test_a_database_that_is_killed_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a PostgreSQL that restarts in the night ends every search that uses it."""
    said: list[str] = []
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 120.0)
    with postgresql() as (url, restart):
        storage = open_storage(url, on_message=said.append)
        study = optuna.create_study(study_name="restarted", storage=storage)
        trial = study.ask()
        killer = threading.Thread(target=restart, args=(2.0,))
        killer.start()
        written = 0
        while killer.is_alive():
            study.set_user_attr("written", written)
            storage.set_trial_user_attr(trial._trial_id, "written", written)
            written += 1
        study.tell(trial, 1.0)
        assert study.user_attrs == {"written": written - 1}
        assert study.trials[0].user_attrs == {"written": written - 1}
        assert study.best_value == 1.0
        assert "the study's database does not answer; trying again for 120 s" in said
        monkeypatch.setattr(database, "PATIENCE_SECONDS", 1.0)
        killer = threading.Thread(target=restart, args=(8.0,))
        killer.start()

        def write() -> None:
            with storage_errors("postgres"):
                while killer.is_alive():
                    study.set_user_attr("after", 0)

        with pytest.raises(StorageError, match="storage postgres cannot be used") as raised:
            write()
        assert "\n" not in str(raised.value)
        killer.join()
