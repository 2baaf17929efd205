"""Promotion and its reverse: an alias moves to a version that passes, and back along its history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search.comparison.verdict import Slice, Verdict
from search.errors import RegistryError
from search.promotion.conditions import Conditions
from search.promotion.judge import Decision, Judge
from search.tracking.pages import markup

if TYPE_CHECKING:
    from search.tracking.history import Move
    from search.tracking.registry import Registered

CHAMPION = "champion"
_TRIES = 5


@dataclass(frozen=True)
class Promotion:
    """What became of a promotion, or of taking one back.

    Attributes:
        model: The registered model whose alias it is about.
        version: The version that was to get the alias.
        alias: The alias.
        previous: The version that carried it before, if any.
        promoted: Whether the alias moved.
        reason: Why, in one line.
        verdict: The comparison in the study's metric; None when nothing was compared.
        refused: Whether the version did not pass.
        others: Verdicts in the further metrics.
        slices: The comparison of each slice.
    """

    model: str
    version: str
    alias: str
    previous: str | None
    promoted: bool
    reason: str
    verdict: Verdict | None = None
    refused: bool = False
    others: tuple[Verdict, ...] = ()
    slices: tuple[Slice, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        names = ("model", "version", "alias", "previous", "promoted", "reason")
        verdict = None if self.verdict is None else self.verdict.as_json()
        return {**{name: getattr(self, name) for name in names}, "verdict": verdict}

    def _repr_html_(self) -> str:
        moved = "is" if self.promoted else "is not"
        told = {"before": self.previous and f"version {self.previous}", "reason": self.reason}
        known = [each for each in (self.verdict, *self.others) if each is not None]
        head = ["metric", "before", "now", "difference", "95 % interval", "surely better"]
        rows = [[each.metric, each.champion, each.challenger, each.difference, *_sure(each)] for each in known]
        worse = ", ".join(each.name for each in self.slices if each.worse)
        return markup.Markup(
            markup.heading(f"{self.model} version {self.version} {moved} {self.alias}")
            + markup.facts(told)
            + (markup.table(head, [["" if cell is None else cell for cell in row] for row in rows]) if rows else "")
            + markup.paragraph(f"Surely worse on: {worse}" if worse else "")
        )


def _sure(verdict: Verdict) -> list[str]:
    """Return the interval of a difference, and whether it says that the challenger is better."""
    interval = "" if verdict.interval is None else " to ".join(f"{each:.4g}" for each in verdict.interval)
    return [interval, {True: "yes", False: "no, worse", None: "not decided"}[verdict.better]]


def promote(
    model: str,
    *,
    version: str | None = None,
    alias: str = CHAMPION,
    conditions: Conditions | None = None,
    dry_run: bool = False,
    to: str | None = None,
) -> Promotion:
    """Move an alias to a version that is surely better than the one that has it.

    It is decided on the version that has the alias at the moment of writing. After the alias moved, the promotions
    at the same time are looked at: the later one stays only if it passes against the earlier.

    Args:
        model: The registered model.
        version: The version; the `challenger` when left out.
        alias: The alias to move.
        conditions: What the version must be.
        dry_run: Whether to only say what would become of it.
        to: Another registered model, to which the version is copied and whose alias moves.

    Raises:
        UsageError: There is no such model, version, metric or column, or nothing can be compared.
    """
    from search.tracking import history, registry

    conditions = conditions or Conditions()
    registry.check_alias(alias)
    if to is not None:
        registry.check_name(to)
    candidate = registry.find(model, version)
    target, judge = to if to is not None else model, Judge(conditions)
    with history.one_at_a_time(target, alias):
        seen = history.moves(target, alias)
        judge.former = next((each.version for each in reversed(seen) if each.done), "")
        current, decision = _decided(judge, candidate, target, alias)
        if current is not None and _same(candidate, current):
            number = current.version
            return Promotion(target, number, alias, number, False, f"version {number} is {alias} already")
        kind = history.PROMOTED if decision.passed else history.FORCED
        decision = _allowed(decision, conditions)
        told = _promotion(candidate, target, alias, current, decision, promoted=decision.passed and not dry_run)
        if dry_run:
            return told
        if decision.passed:
            placed = candidate if target == model else registry.copy(candidate, target)
            move = history.begin(placed, alias, current, kind, decision.reason, _json(decision.verdict))
            registry.move(placed, alias)
            told = _settled(judge, placed, current, decision, move, seen)
        else:
            _note_refusal(candidate, told)
        return told


def _note_refusal(candidate: Registered, told: Promotion) -> None:
    from search.promotion import plot
    from search.tracking import registry

    verdict = {} if told.verdict is None else {f"{told.alias}.verdict": json.dumps(told.verdict.as_json())}
    registry.tag(candidate, {f"{told.alias}.refused": told.reason, **verdict})
    registry.describe(candidate, f"Not promoted to **{told.alias}**: {told.reason}{plot.keep(candidate, told)}")


def _decided(judge: Judge, candidate: Registered, target: str, alias: str) -> tuple[Registered | None, Decision]:
    """Decide on the version that has the alias when the decision is made."""
    from search.tracking import registry

    for _ in range(_TRIES):
        current = registry.holder(target, alias)
        if current is not None and _same(candidate, current):
            return current, Decision(False, "")
        decision = judge.decide(candidate, current)
        now = registry.holder(target, alias)
        if (now and now.version) == (current and current.version):
            return current, decision
    raise RegistryError(f"alias '{alias}' of model '{target}' is being moved by another process; try again later")


def _same(candidate: Registered, current: Registered) -> bool:
    from search.tracking.registry import COPIED_FROM

    return candidate.uri in (current.uri, current.tags.get(COPIED_FROM))


def _allowed(decision: Decision, conditions: Conditions) -> Decision:
    """Return a decision with the person's own word on it."""
    if decision.passed:
        return replace(decision, reason=f"{decision.reason} ({conditions.reason})") if conditions.reason else decision
    if conditions.force:
        return replace(decision, passed=True, reason=f"forced: {conditions.reason} ({decision.reason})")
    return decision.refused(f'{decision.reason}; --force --reason "…" promotes it all the same')


def _settled(
    judge: Judge, placed: Registered, current: Registered | None, decision: Decision, move: Move, seen: Sequence[Move]
) -> Promotion:
    """Look at promotions at the same time, and yield to an earlier one that this version is not better than."""
    from search.promotion import plot
    from search.tracking import history, registry

    rival = history.rival(move, seen)
    if rival is not None:
        other = registry.find(move.model, rival.version)
        decision = _allowed(judge.decide(placed, other), judge.conditions)
        if not decision.passed:
            history.withdraw(placed, move)
            now = registry.holder(move.model, move.alias)
            if now is not None and now.version == placed.version:
                registry.move(other, move.alias)
            reason = f"version {other.version} became {move.alias} at the same time; {decision.reason}"
            return _promotion(placed, move.model, move.alias, other, decision.refused(reason), promoted=False)
        current = other
        history.withdraw(placed, move)
        move = history.begin(placed, move.alias, other, move.kind, decision.reason, _json(decision.verdict))
        registry.move(placed, move.alias)
    history.done(placed, move)
    told = _promotion(placed, move.model, move.alias, current, decision, promoted=True)
    registry.describe(placed, f"**{move.alias}** since {move.when} UTC: {decision.reason}{plot.keep(placed, told)}")
    return told


def _promotion(
    version: Registered, model: str, alias: str, current: Registered | None, decision: Decision, *, promoted: bool
) -> Promotion:
    return Promotion(
        model,
        version.version,
        alias,
        current.version if current is not None else None,
        promoted,
        decision.reason,
        decision.verdict,
        refused=not decision.passed,
        others=decision.others,
        slices=decision.slices,
    )


def _json(verdict: Verdict | None) -> Mapping[str, Any] | None:
    return None if verdict is None else verdict.as_json()


def rollback(model: str, *, alias: str = CHAMPION, reason: str = "") -> Promotion:
    """Give an alias back to the version that carried it before; again goes back further.

    Raises:
        RegistryError: There is no such model, or nobody carried the alias before.
    """
    from search.tracking import history, registry

    registry.check_alias(alias)
    registry.check_known(model)
    with history.one_at_a_time(model, alias):
        current = registry.holder(model, alias)
        there = {each.version: each for each in registry.all_versions(model)}
        line = history.champions(history.reconciled(model, alias), current.version if current else "")
        before = [each for each in line if each in there and (current is None or each != current.version)]
        if current is None and not before:
            raise RegistryError(f"model '{model}' has no {alias} to roll back; promote a version first")
        if not before:
            raise RegistryError(f"version {line[-1]} of model '{model}' is its first {alias}; nothing to roll back to")
        restored = there[before[-1]]
        why = f"rolled back from version {current.version}" if current else f"no version was {alias} any more"
        why += f": {reason}" if reason else ""
        move = history.begin(restored, alias, current, history.ROLLED_BACK, why, None)
        registry.move(restored, alias)
        history.done(restored, move)
        return Promotion(model, restored.version, alias, current.version if current else None, True, why)


def moves(model: str, *, alias: str = CHAMPION) -> list[Move]:
    """Return who got an alias when and why, the oldest first.

    Raises:
        RegistryError: There is no such model.
    """
    from search.tracking import history, registry

    registry.check_alias(alias)
    registry.check_known(model)
    return [each for each in history.reconciled(model, alias) if each.done]
