"""Who carried an alias when, for what reason and by which verdict: written on the versions themselves.

Each move is one tag of the version that got the alias. A move is noted before the alias moves and marked done
after it, so that two promotions at once see each other.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow

from search.study.attributes import read
from search.system import machine
from search.tracking import registry
from search.tracking.registry import Registered

_STAMP = "%Y%m%dT%H%M%S.%fZ"
PROMOTED, FORCED, ROLLED_BACK, BY_HAND = "promoted", "forced", "rolled back", "by hand"


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        model: The registered model.
        version: The version that got the alias; empty where it was removed by hand.
        alias: The alias.
        previous: The version that carried it before; empty when none did.
        at: When, as UTC text that sorts.
        kind: `promoted`, `forced`, `rolled back` or `by hand`.
        reason: Why, in one line.
        by: Who.
        verdict: The comparison behind it, as in `--json`; None when there was none.
        done: Whether the alias has moved.
    """

    model: str
    version: str
    alias: str
    previous: str
    at: str
    kind: str
    reason: str
    by: str = ""
    verdict: Mapping[str, Any] | None = None
    done: bool = True

    @property
    def key(self) -> str:
        """The name of its tag."""
        return f"{self.alias}.{self.at}"

    @property
    def when(self) -> str:
        """When, for a person."""
        return f"{datetime.strptime(self.at, _STAMP).replace(tzinfo=UTC):%Y-%m-%d %H:%M:%S}"


def moves(model: str, alias: str) -> list[Move]:
    """Return every move of an alias, the oldest first; those under way are not done."""
    found = [move for version in registry.all_versions(model) for move in _moves_of(version, alias)]
    return sorted(found, key=lambda each: (each.at, int(each.version)))


def _moves_of(version: Registered, alias: str) -> Iterator[Move]:
    noted = False
    for key, text in version.tags.items():
        stamp = key.removeprefix(f"{alias}.")
        if stamp == key or not stamp[:1].isdigit():
            continue
        content = None
        with suppress(ValueError):
            content = json.loads(text)
        if not isinstance(content, dict):  # a tag of somebody else's
            continue
        move = read(Move, content, f"a promotion of {version.name}")
        noted = True
        if (move.model, move.version) == (version.name, version.version):  # else copied with the version
            yield move
    since = version.tags.get(f"{alias}.since")
    if since and not noted and registry.COPIED_FROM not in version.tags:  # a promotion of an earlier release
        with suppress(ValueError):
            at = datetime.fromisoformat(since).astimezone(UTC).strftime(_STAMP)
            before, reason = version.tags.get(f"{alias}.previous", ""), version.tags.get(f"{alias}.reason", "")
            yield Move(version.name, version.version, alias, before, at, PROMOTED, reason)


def reconciled(model: str, alias: str) -> list[Move]:
    """Return the moves that were recorded, as the registry now shows them.

    A promotion that was killed after the alias moved is done. An alias that was moved or removed by other means than
    `search.promote` is the last move.
    """
    found, holder = moves(model, alias), registry.holder(model, alias)
    now = holder.version if holder is not None else ""
    known = [replace(each, done=True) if each.version == now and each is found[-1] else each for each in found]
    last = next((each.version for each in reversed(known) if each.done), "")
    if now == last:
        return known
    at = datetime.now(UTC).strftime(_STAMP)
    why = f"the alias was {'moved' if now else 'removed'} outside search.promote, some time before now"
    return [*known, Move(model, now, alias, last, at, BY_HAND, why)]


def champions(found: Sequence[Move], now: str = "") -> list[str]:
    """Return the versions that a rollback goes back along, the present one last.

    Args:
        found: Moves, the oldest first.
        now: The version that has the alias, which may have been moved by other means.
    """
    stack: list[str] = []
    for move in (each for each in found if each.done):
        if move.kind == ROLLED_BACK:
            while stack and stack[-1] != move.version:
                stack.pop()
        elif move.previous and stack[-1:] != [move.previous]:
            stack.append(move.previous)
        if move.version and stack[-1:] != [move.version]:
            stack.append(move.version)
    if now and stack[-1:] != [now]:
        stack.append(now)
    return stack


def begin(
    version: Registered,
    alias: str,
    previous: Registered | None,
    kind: str,
    reason: str,
    verdict: Mapping[str, Any] | None,
) -> Move:
    """Note a move before the alias moves, and return it."""
    by = ""
    with suppress(Exception):
        by = getpass.getuser()
    at = datetime.now(UTC).strftime(_STAMP)
    before = previous.version if previous else ""
    move = Move(version.name, version.version, alias, before, at, kind, reason, by, verdict, done=False)
    _write(version, move)
    return move


def done(version: Registered, move: Move) -> None:
    """Mark a move as done, and let the version's plain tags tell it."""
    _write(version, replace(move, done=True))
    told = {"since": move.when, "reason": move.reason, "previous": move.previous}
    told |= {} if move.verdict is None else {"verdict": json.dumps(move.verdict)}
    registry.tag(version, {f"{move.alias}.{name}": value for name, value in told.items()})


def withdraw(version: Registered, move: Move) -> None:
    """Forget a move that gave way to another one."""
    registry.untag(version, move.key)


def _write(version: Registered, move: Move) -> None:
    registry.tag(version, {move.key: json.dumps(asdict(move))})


def rival(mine: Move, seen: Sequence[Move]) -> Move | None:
    """Return the move that this one must yield to unless it is better; None when there is none.

    That is the newest move not known when this one was decided: one that is done, or one under way that began
    earlier. Of two under way the later looks at the earlier, so they never wait for each other.
    """
    known = {each.key + each.version for each in seen}
    new = [
        each
        for each in moves(mine.model, mine.alias)
        if each.key + each.version not in known and (each.at, each.version) != (mine.at, mine.version)
    ]
    older = [each for each in new if each.done or (each.at, int(each.version)) < (mine.at, int(mine.version))]
    return older[-1] if older else None


@contextmanager
def one_at_a_time(model: str, alias: str) -> Iterator[None]:
    """Keep other promotions of this user on this machine waiting; `rival` sees those elsewhere."""
    import filelock  # it takes 0.15 s

    name = hashlib.sha256(f"{mlflow.get_registry_uri()}\0{model}\0{alias}".encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"search-promote-{machine.user()}-{name}.lock"
    with filelock.FileLock(path):
        yield
