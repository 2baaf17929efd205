"""What a notebook shows of a search: one output that moves while it runs, and its study and result as HTML."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.figures import counts, plural
from search.register import luck
from search.reporting import plots
from search.study.ranking import nearest, states_of
from search.studyfile.objects import in_words
from search.studyfile.parameters import describe
from search.tracking.pages.markup import Markup, facts, heading, image, link, markup, paragraph, table

if TYPE_CHECKING:
    import optuna

    from search.handover.outcome import Outcome
    from search.register import Best
    from search.studyfile.schema import Definition

_SECONDS = 0.25  # between two pictures of the progress
_SAME = "the same for every row"
_SAID = 20  # sentences that are shown, the newest


def is_here() -> bool:
    """Return whether this program runs in a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


class Output:
    """An output of a notebook's cell that is brought up to date: sentences, and lines that change."""

    def __init__(self) -> None:
        self._said = list[str]()
        self._drawn = 0.0
        self._cell: Any = importlib.import_module("IPython.display").display(
            _content([], []), raw=True, display_id=True
        )

    def say(self, text: str, lines: Sequence[str]) -> None:
        """Add a sentence above the lines that change."""
        self._said.append(text)
        self.show(lines, at_once=True)

    def show(self, lines: Sequence[str], *, at_once: bool = False) -> None:
        """Show lines in the place of those before, four times a second at most."""
        now = time.monotonic()
        if at_once or now - self._drawn >= _SECONDS:
            self._drawn = now
            self._cell.update(_content(self._said, lines), raw=True)


def _content(said: Sequence[str], lines: Sequence[str]) -> dict[str, str]:
    """Return what is shown, in each form that a notebook may choose."""
    earlier = len(said) - _SAID
    shown = [*([f"{plural(earlier, 'earlier line')} not shown"] if earlier > 0 else []), *said[-_SAID:]]
    moving = f"<pre style='white-space:pre-wrap;background:none'>{markup(chr(10).join(lines))}</pre>" if lines else ""
    return {
        "text/plain": "\n".join([*shown, *lines]),
        "text/html": "".join(f"<div>{markup(each)}</div>" for each in shown) + moving,
    }


def of_result(study: optuna.Study, definition: Definition, outcome: Outcome) -> Markup:
    """Return what a search came to: its best trial, the five best, and the value by trial."""
    best, links = outcome.best, _Links(outcome)
    values: dict[str, object] = dict(zip(definition.metrics, best.values, strict=True))
    if best.trivial is not None:
        values[definition.metrics[0]] = f"{best.value:.4g} (trivial answer: {best.trivial:.4g})"
    tests = {name: value for name, value in sorted(best.metrics.items()) if name.startswith("test_")}
    told = {
        "best trial": links.trial(best),
        **values,
        **tests,
        **best.params,
        "averaged": "" if best.ensemble is None else str(best.ensemble),
        "trials": f"{counts(outcome.n_trials)}, in {outcome.seconds:.4g} s",
        "on the front": _front(outcome),
        "model": links.model(),
        "in MLflow": outcome.url and Markup(f"{link(outcome.url, 'the trials')}{_served(outcome)}"),
    }
    said = [
        "" if best.beats_trivial else f"Trial {best.number} is not better than the trivial answer, {_SAME}.",
        luck(definition, best).replace("`", ""),
        outcome.saved and f"{outcome.saved}.",
        outcome.near and f"{outcome.near}.",
        *(f"Failed: {plural(len(each.numbers), 'trial')}: {each.reason}" for each in outcome.failures),
        outcome.stopped and f"Ended before its budget: {outcome.stopped}.",
        outcome.unregistered and f"The best trial's model is not registered: {outcome.unregistered}",
        "" if outcome.model is None or not outcome.model.refused else f"Without an alias: {outcome.model.refused}",
        outcome.not_mirrored.numbers
        and f"MLflow does not show {plural(len(outcome.not_mirrored.numbers), 'trial')} of it yet.",
    ]
    return Markup(
        heading(f"Study {outcome.study}: trial {best.number} is best")
        + facts(told)
        + "".join(map(paragraph, said))
        + heading(f"The {len(outcome.table)} best" if len(outcome.table) > 1 else "")
        + (_best(definition, outcome, links) if len(outcome.table) > 1 else "")
        + image(plots.picture(study, definition), f"{definition.metrics[0]} by trial")
    )


def _front(outcome: Outcome) -> str:
    """Return which trials are on the Pareto front, and which of them is the best; nothing of one metric."""
    front = outcome.front
    return f"{', '.join(map(str, front))}; trial {outcome.best.number} is {nearest(len(front))}" if front else ""


def _best(definition: Definition, outcome: Outcome, links: _Links) -> Markup:
    tests = sorted({name for each in outcome.table for name in each.metrics if name.startswith("test_")})
    names = list(dict.fromkeys(name for each in outcome.table for name in each.params))
    rows = [
        [
            Markup(f"{links.trial(each)}{'' if each.beats_trivial else ' *'}"),
            *each.values,
            *(each.metrics.get(name, "") for name in tests),
            *(each.params.get(name, "") for name in names),
        ]
        for each in outcome.table
    ]
    worse = any(not each.beats_trivial for each in outcome.table)
    note = paragraph(f"* not better than the trivial answer, {_SAME}" if worse else "")
    return Markup(table(["trial", *definition.metrics, *tests, *names], rows) + note)


def _served(outcome: Outcome) -> str:
    return f" (served by: <code>{markup(outcome.serve)}</code>)" if outcome.serve else ""


class _Links:
    """The addresses of a search's pages in MLflow's UI; where MLflow does not show it, the names alone."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._server, shown, _ = outcome.url.partition("/#/")
        self._there = bool(shown)

    def trial(self, best: Best) -> Markup:
        """Return a trial's number, which opens its run."""
        path = f"experiments/{self._outcome.experiment_id}/runs/{best.run_id}?workflowType=machine_learning"
        return self._link(path if best.run_id else "", str(best.number))

    def model(self) -> Markup:
        """Return the registered version, which opens its page; empty where there is none."""
        model = self._outcome.model
        if model is None:
            return Markup("")
        alias = f" ({', '.join(model.aliases)})" if model.aliases else ""
        return Markup(self._link(f"models/{model.name}/versions/{model.version}", model.uri) + markup(alias))

    def _link(self, path: str, text: str) -> Markup:
        return link(f"{self._server}/#/{path}", text) if self._there and path else markup(text)


def of_study(definition: Definition, storage: str, study: optuna.Study | None) -> Markup:
    """Return what a study asks, and where it stands.

    Args:
        definition: The study file.
        storage: Where it is kept, without secrets.
        study: The Optuna study; None before the first search.
    """
    goal = ", ".join(map(" ".join, zip(definition.directions, definition.metrics, strict=True)))
    told = {
        "asked": definition.description,
        "goal": goal,
        "data": in_words(definition.data.source),
        "model": in_words(definition.model.build),
        **{name: describe(each) for name, each in definition.space.items()},
        "kept in": storage,
        "trials": "none yet" if study is None else counts(states_of(study.get_trials(deepcopy=False))),
    }
    return Markup(heading(f"Study {definition.name}") + facts(told))
