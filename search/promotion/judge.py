"""What a version must be to carry an alias, and whether it is: decided on the test rows it was registered with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.predictions import Predictions
from search.comparison.scores import score_of, trivial
from search.comparison.verdict import Incomparable, Slice, Verdict, compare, compare_slices, gain, require_same_rows
from search.errors import RegistryError, UsageError, did_you_mean
from search.promotion.conditions import Conditions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.tracking.registry import Registered

_TRIVIAL, _NO_CHAMPION = "the trivial model", "there was no champion before"
_FEWEST = 30  # rows that neither version has seen
_AGREES = 0.01  # by which share a metric computed again may differ from the recorded one
_KNOWN = ("loss", "accuracy", "auc", "precision", "recall", "f1_score", "mse", "mae", "r2_score")


@dataclass(frozen=True)
class Decision:
    """Whether a version passes, and why.

    Attributes:
        passed: Whether it passes.
        reason: Why, in one line.
        verdict: The comparison in the study's metric; None when nothing was compared.
        others: Verdicts in the further metrics.
        slices: The comparison of each slice.
    """

    passed: bool
    reason: str
    verdict: Verdict | None = None
    others: tuple[Verdict, ...] = ()
    slices: tuple[Slice, ...] = ()

    def refused(self, reason: str) -> Decision:
        """Return the decision as a refusal for a further reason."""
        return replace(self, passed=False, reason=reason)


@dataclass
class Judge:
    """Decides about one candidate; what it has read or evaluated of a version is kept."""

    conditions: Conditions
    _kept: dict[str, Predictions | None] = field(default_factory=dict)
    _seen: dict[str, NDArray[np.bool_] | None] = field(default_factory=dict)
    former: str = ""  # the version that had the alias last

    def decide(self, candidate: Registered, current: Registered | None) -> Decision:
        """Decide whether a version may take over from another, or become the first."""
        if candidate.refused and self.conditions.data is None:
            return Decision(False, f"version {candidate.version} has no alias: {candidate.refused}")
        try:
            found = self._compared(candidate, current)
        except RegistryError as error:  # the kept predictions are gone or changed
            if self.conditions.data is not None:
                raise
            return Decision(False, str(error))
        beyond = next(_beyond_limits(candidate, self.conditions), None)
        return found if beyond is None else found.refused(beyond)

    def _compared(self, candidate: Registered, current: Registered | None) -> Decision:
        mine = self._predictions(candidate)
        if current is None:
            return self._as_first(candidate, mine)
        theirs = self._predictions(current)
        if mine is None or theirs is None:
            return self._recorded(candidate, current, "without the test predictions of both")
        try:
            require_same_rows(theirs, mine)
        except Incomparable as error:
            found = None if self.conditions.data is not None else self._on_newest(candidate, current, mine, theirs)
            return found or Decision(False, f"{error}; --data FILE compares both on the same rows")
        return self._on_unseen(candidate, current, mine, theirs)

    def _on_newest(
        self, candidate: Registered, current: Registered, mine: Predictions, theirs: Predictions
    ) -> Decision | None:
        """Decide on the held-out rows of the newer version, which the other one predicts now."""
        from search.promotion import evaluated

        newer, older = (candidate, current) if int(candidate.version) > int(current.version) else (current, candidate)
        known = mine if newer is candidate else theirs
        found = evaluated.held_out(older, known)
        if found is None:
            return None
        again, self._seen[older.uri] = found
        both = (mine, again) if newer is candidate else (again, theirs)
        try:
            require_same_rows(both[1], both[0])
        except Incomparable:
            return None
        decision = self._on_unseen(candidate, current, *both)
        return replace(decision, reason=f"{decision.reason} (on the held-out rows of version {newer.version})")

    def _on_unseen(
        self, candidate: Registered, current: Registered, mine: Predictions, theirs: Predictions
    ) -> Decision:
        """Decide on the rows that neither version has seen."""
        rows, told = self._unseen([candidate, current], len(mine))
        if len(rows) < len(mine):
            if len(rows) < _FEWEST:
                return Decision(False, f"{told}, and {len(rows)} are too few to decide")
            mine, theirs = mine.take(rows), theirs.take(rows)
        decision = self._compared_on(candidate, current, mine, theirs)
        return replace(decision, reason=f"{decision.reason}; {told}") if told else decision

    def _unseen(self, versions: Sequence[Registered], count: int) -> tuple[NDArray[np.intp], str]:
        """Return the rows that no version has seen, and in words how many were left out."""
        seen = np.zeros(count, bool)
        for version in versions:
            known = self._seen.get(version.uri)
            seen |= known if known is not None else False
        out = int(seen.sum())
        what = f"{out} of {count} rows are left out, which trained or chose one of the versions" if out else ""
        return np.flatnonzero(~seen), what

    def _compared_on(
        self, candidate: Registered, current: Registered, mine: Predictions, theirs: Predictions
    ) -> Decision:
        try:
            if self.conditions.data is None:  # what was recorded is of the test rows
                _check_recorded(candidate, mine)
            verdict = compare(theirs, mine)
        except Incomparable as error:
            return self._recorded(candidate, current, str(error))
        return self._with_conditions(_judged(verdict, f"version {current.version}", self.conditions), theirs, mine)

    def _as_first(self, candidate: Registered, mine: Predictions | None) -> Decision:
        if mine is None:
            return self._replaces(_first_recorded(candidate))
        rows, told = self._unseen([candidate], len(mine))
        if len(rows) < len(mine):
            if len(rows) < _FEWEST:
                return Decision(False, f"{told}, and {len(rows)} are too few to decide")
            mine = mine.take(rows)
        self._with_conditions(Decision(True, ""), mine, mine)  # a misspelt metric or column is told all the same
        if self.conditions.data is not None and score_of(mine.about.metric, mine) is None:
            return self._recorded(candidate, candidate, f"they do not tell its {mine.about.metric}")
        return self._replaces(_first(candidate, mine))

    def _replaces(self, decision: Decision) -> Decision:
        """Name the version that had the alias until somebody removed it."""
        if not self.former:
            return decision
        before = f"version {self.former} had the alias until it was removed by hand"
        return replace(decision, reason=decision.reason.replace(_NO_CHAMPION, before))

    def _recorded(self, candidate: Registered, current: Registered, why: str) -> Decision:
        c = self.conditions
        if c.data is not None:
            return Decision(False, f"the rows of {c.data} cannot decide: {why}")
        if c.metrics or c.slices or c.margin:
            return Decision(False, f"{why} only recorded test values can be compared; --data FILE compares rows")
        found = _compare_recorded(candidate, current)
        return replace(found, reason=f"{found.reason} ({why}: recorded test values, no interval)")

    def _predictions(self, version: Registered) -> Predictions | None:
        if version.uri not in self._kept:
            from search.tracking import registry

            known = registry.predictions_of(version) if self.conditions.data is None else None
            if self.conditions.data is not None:
                from search.promotion import evaluated

                known, self._seen[version.uri] = evaluated.predictions(version, self.conditions.data)
            self._kept[version.uri] = known
        return self._kept[version.uri]

    def _with_conditions(self, found: Decision, theirs: Predictions, mine: Predictions) -> Decision:
        """Add what was asked for beside the study's metric."""
        others = tuple(_named(theirs, mine, name) for name in self.conditions.metrics)
        slices = tuple(_sliced(theirs, mine, self.conditions.slices)) if self.conditions.slices else ()
        found = replace(found, others=others, slices=slices)
        for each in others:
            if each.difference is None:
                return found.refused(f"the {each.metric} is not a finite number on these rows; {found.reason}")
            if each.better is False:
                return found.refused(f"{_text(each)}, surely worse; {found.reason}")
        worse = [each for each in slices if each.worse]
        if worse:
            first = worse[0]
            more = f" and {len(worse) - 1} more" if len(worse) > 1 else ""
            return found.refused(
                f"surely worse where {self.conditions.slices} is {first.name}{more} (by {-first.difference:.4g} on "
                f"{first.rows} rows, p {first.chance:.2g} with Holm's correction); {found.reason}"
            )
        return found


def _first(candidate: Registered, mine: Predictions) -> Decision:
    """Decide about a first version: it must be better than the trivial model, and replaces nothing if it is not."""
    baseline = trivial(mine)
    value = score_of(mine.about.metric, mine)
    if value is None or baseline is None or score_of(mine.about.metric, baseline) is None:
        if mine.about.metric in mine.about.trivial:
            return _first_measured(candidate, mine)
        found = _first_recorded(candidate)
        return found if not found.passed else Decision(True, f"{found.reason}; no trivial model is known for it")
    verdict = compare(baseline, mine)
    if verdict.difference is None:
        return Decision(False, f"the {verdict.metric} of version {candidate.version} is not a finite number", verdict)
    if verdict.difference > 0:
        sure = "" if verdict.better else ", though not surely"
        return Decision(True, f"{_NO_CHAMPION}, and it is better than {_TRIVIAL}{sure}: {_text(verdict)}", verdict)
    return Decision(False, f"not better than {_TRIVIAL}: {_text(verdict)}", verdict)


def _first_measured(candidate: Registered, mine: Predictions) -> Decision:
    """Decide about a first version whose metric only whole batches or the user's code tell."""
    metric = mine.about.metric
    value, known = candidate.recorded(f"test_{metric}"), mine.about.trivial[metric]
    if not math.isfinite(value):
        return _first_recorded(candidate)
    gained = value - known if mine.about.direction == "maximize" else known - value
    verdict = Verdict(metric, known, value, gained, None, None, len(mine))
    told = f"{metric} {value:.6g} against {known:.6g} (no interval: the rows alone do not tell it)"
    if gained > 0:
        return Decision(True, f"{_NO_CHAMPION}, and it is better than {_TRIVIAL}: {told}", verdict)
    return Decision(False, f"not better than {_TRIVIAL}: {told}", verdict)


def _first_recorded(candidate: Registered) -> Decision:
    if not math.isfinite(candidate.recorded()):
        return Decision(False, f"version {candidate.version} recorded no finite {candidate.metric or 'test value'}")
    return Decision(
        True,
        f"{_NO_CHAMPION} (registered without the data that a comparison with the trivial model needs)",
    )


def _compare_recorded(candidate: Registered, current: Registered) -> Decision:
    """Compare the test values that two versions were registered with."""
    from search.tracking.registry import DIGEST

    metric = current.metric
    if candidate.metric != metric or not metric:
        return Decision(False, f"versions {candidate.version} and {current.version} recorded no common test metric")
    digests = [version.tags.get(DIGEST, "") for version in (current, candidate)]
    if digests[0] != digests[1]:
        return Decision(False, f"they were tested on different data (digests {digests[0]} and {digests[1]})")
    ours, theirs = candidate.recorded(), current.recorded()
    for version, value in ((candidate, ours), (current, theirs)):
        if not math.isfinite(value):
            return Decision(
                False, f"version {version.version} recorded no finite {metric}; nothing shows which is better"
            )
    difference = (ours - theirs) if current.maximize else (theirs - ours)
    better = None if difference == 0 else difference > 0
    verdict = Verdict(metric, theirs, ours, difference, None, better)
    relation = {True: "better than", False: "worse than", None: "as good as"}[better]
    return Decision(
        better is not False, f"{metric} {ours:.6g} is {relation} version {current.version}'s {theirs:.6g}", verdict
    )


def _check_recorded(candidate: Registered, mine: Predictions) -> None:
    """See that a metric computed from the predictions is the one that Keras recorded under its name."""
    name = mine.about.metric
    recorded = candidate.recorded(f"test_{name}")
    score = None if name == "loss" else score_of(name, mine)
    if score is None or not math.isfinite(recorded) or not math.isfinite(score.value):
        return
    if abs(score.value - recorded) > _AGREES * max(abs(recorded), abs(score.value)):
        raise Incomparable(f"the predictions give another {name} than Keras recorded")


def _judged(verdict: Verdict, than: str, conditions: Conditions) -> Decision:
    """Decide by the interval of the difference."""
    margin = conditions.margin
    if verdict.interval is None:
        values = {"challenger": verdict.challenger, than: verdict.champion}
        wrong = next(name for name, value in values.items() if value is None or not math.isfinite(value))
        return Decision(
            False, f"the {verdict.metric} of {wrong} is not a finite number; nothing shows which is better", verdict
        )
    low, high = verdict.interval
    text = f"{_text(verdict)}, {than}"
    if low > margin and (margin < 0 or verdict.better is True):
        sure = f"surely not worse by more than {-margin:g}" if margin < 0 else "surely better"
        sure += f" by more than {margin:g}" if margin > 0 else ""
        return Decision(True, f"{text}: {sure}", verdict)
    if high < margin:
        return Decision(False, f"{text}: surely {'worse' if high < 0 else f'not better by {margin:g}'}", verdict)
    return Decision(False, f"{text}: undecided{_more(verdict, margin)}", verdict)


def _text(verdict: Verdict) -> str:
    if verdict.interval is None or verdict.difference is None:
        return f"{verdict.metric} {verdict.challenger} against {verdict.champion}"
    low, high = verdict.interval
    units = f"{verdict.rows} rows" + (f" in {verdict.groups} groups" if verdict.groups else "")
    return (
        f"{verdict.metric} {verdict.challenger:.6g} against {verdict.champion:.6g}, {gain(verdict.difference)} "
        f"(95 % interval {low:.4g} to {high:.4g}, above 0 is better, {units})"
    )


def _more(verdict: Verdict, margin: float) -> str:
    more = verdict.more_rows(margin)
    if more is None:
        return "; no number of rows would decide it" if verdict.difference == margin else ""
    return f"; about {float(f'{more:.2g}'):,.0f} more rows like these would decide it".replace(",", " ")


def _named(theirs: Predictions, mine: Predictions, name: str) -> Verdict:
    try:
        return compare(theirs, mine, name)
    except Incomparable as error:
        known = sorted({*_KNOWN, *mine.about.metrics})
        raise UsageError(
            f"--metric {name}: {error}; use one of {', '.join(known)}, or a function of sklearn.metrics"
            f"{did_you_mean(name, known)}"
        ) from None


def _sliced(theirs: Predictions, mine: Predictions, column: str) -> Sequence[Slice]:
    values = mine.slices.get(column, theirs.slices.get(column))
    if values is None:
        known = sorted({*mine.slices, *theirs.slices})
        named = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        have = f"the predictions have {named}" if known else "the predictions were kept without columns"
        raise UsageError(f"--slices {column}: no such column; {have}; or give --data FILE{did_you_mean(column, known)}")
    try:
        return compare_slices(theirs, mine, values)
    except Incomparable as error:
        raise UsageError(f"--slices {column}: {error}, so no slice can be compared") from None


def _beyond_limits(candidate: Registered, conditions: Conditions) -> Iterator[str]:
    """Yield each limit that a version exceeds, or of which nothing is known."""
    from search.tracking import registry

    measured: dict[str, tuple[float | None, Callable[[], float]]] = {
        "parameters": (conditions.max_parameters, lambda: candidate.recorded("parameters")),
        "size in MB": (conditions.max_size_mb, lambda: registry.size_mb(candidate)),
        "latency in ms": (conditions.max_latency_ms, lambda: _latency(candidate)),
    }
    for name, (limit, measure) in measured.items():
        value = math.nan if limit is None else measure()
        if limit is not None and not value <= limit:
            known = f"{value:.6g}" if math.isfinite(value) else "not known"
            yield f"its {name} is {known}, the limit {limit:g}"


def _latency(candidate: Registered) -> float:
    """Return the recorded time for one row; measured where the study did not record it."""
    recorded = candidate.recorded("latency_ms")
    if math.isfinite(recorded):
        return recorded
    from search.promotion import evaluated

    return evaluated.latency_ms(candidate)
