"""Orders: what somebody asks of a running search, of one of its trials, or of a study, kept in its storage.

Whoever reaches the storage may give one, at any time and from anywhere. An order is written whole and is the same
however often it is given; who gave it, when and why stays with the study.
"""

from __future__ import annotations

import getpass
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import UsageError
from search.study.attributes import EXCLUDED, ORDER, STOP, id_of, read

Kind = Literal["stop", "pause", "exclude", "include"]


def _user() -> str:
    with suppress(Exception):  # a container may have no name for its user
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return socket.gethostname()


@dataclass(frozen=True)
class Order:
    """What somebody asks for.

    Attributes:
        kind: `stop` ends a search, or a trial as pruned; `pause` ends a search so that it can be resumed; `exclude`
            leaves a trial out, `include` takes it back.
        now: Whether running trials are ended at once; else they finish, and one that is stopped ends its epoch.
        reason: Why; may be empty.
        by: Who gave it, as user@host.
        at: When, UTC, ISO 8601.
    """

    kind: Kind
    now: bool = False
    reason: str = ""
    by: str = field(default_factory=_user)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __str__(self) -> str:
        """Return it in words."""
        done = {"stop": "stopped", "pause": "paused", "exclude": "excluded", "include": "included again"}[self.kind]
        return f"{done} by {self.by} at {self.at[:16]}{f': {self.reason}' if self.reason else ''}"


def _order(kept: Any) -> Order:
    return read(Order, kept, "an order")


def give_to_search(study: optuna.Study, search_id: str, order: Order) -> None:
    """Ask a running search to stop or to pause; it looks every two seconds."""
    before = study.user_attrs.get(ORDER + search_id, [])
    study.set_user_attr(ORDER + search_id, [*before, asdict(order)])


def of_search(study: optuna.Study, search_id: str) -> Order | None:
    """Return what a search was asked last."""
    kept = study.user_attrs.get(ORDER + search_id)
    return _order(kept[-1]) if kept else None


def give_to_trial(study: optuna.Study, storage: BaseStorage, number: int, order: Order) -> None:
    """Ask a running trial to stop: at its next epoch, or at once.

    Raises:
        UsageError: There is no such trial, or it does not run.
    """
    trial = trial_of(study, number)
    if trial.state == TrialState.RUNNING:
        with suppress(UpdateFinishedTrialError):  # it ended in this moment
            storage.set_trial_system_attr(id_of(storage, study, number), STOP, asdict(order))
            return
    raise UsageError(f"study '{study.study_name}': trial {number} does not run, it is {trial.state.name}")


def of_trial(trial: FrozenTrial) -> Order | None:
    """Return what a trial was asked."""
    kept = trial.system_attrs.get(STOP)
    return _order(kept) if kept else None


def trial_of(study: optuna.Study, number: int) -> FrozenTrial:
    """Return the trial of this number.

    Raises:
        UsageError: There is none.
    """
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        has = f"it has trials 0 to {len(trials) - 1}" if trials else "it has no trials"
        raise UsageError(f"study '{study.study_name}': there is no trial {number}; {has}")
    return trials[number]


def exclude(study: optuna.Study, number: int, order: Order) -> bool:
    """Leave a finished trial out from now on, or take it back; returns whether that changed anything.

    Raises:
        UsageError: There is no such trial, or it has not finished.
    """
    trial = trial_of(study, number)
    if not trial.state.is_finished():
        raise UsageError(f"study '{study.study_name}': trial {number} has not finished; stop it first (search.stop)")
    before = exclusions(study).get(number, [])
    if (before[-1].kind if before else "include") == order.kind:
        return False
    study.set_user_attr(f"{EXCLUDED}{number}", [asdict(each) for each in (*before, order)])
    return True


def exclusions(study: optuna.Study) -> dict[int, list[Order]]:
    """Return who left which trial out and took it back, by its number, the oldest order first."""
    kept = {name: value for name, value in study.user_attrs.items() if name.startswith(EXCLUDED)}
    return {int(name.removeprefix(EXCLUDED)): [_order(each) for each in value] for name, value in kept.items()}


def excluded(study: optuna.Study) -> dict[int, Order]:
    """Return the trials that are left out now, by number."""
    return {number: orders[-1] for number, orders in exclusions(study).items() if orders[-1].kind == "exclude"}
