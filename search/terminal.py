"""What a person sees in the terminal while a search runs and when it is over."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from search.budget import RUN_AGAIN, Stage
from search.figures import bar, block, counts, duration, fitting, number, paragraph, plural, some, table, time_left
from search.register import beside_trivial, luck
from search.reporting import notebook
from search.stopping import INTERRUPTED
from search.study.attributes import Confirmed
from search.study.ranking import nearest
from search.studyfile.schema import Definition

if TYPE_CHECKING:
    from search.budget import Progress
    from search.handover.outcome import Outcome
    from search.register import Best
    from search.reporting.findings import Findings
    from search.reporting.overview import StudyOverview
    from search.reporting.side_by_side import Side
    from search.tracking.pages.outcomes import Failures

_LINE = 80  # the longest line of a trial in a file
_FRONT = "on the front"
_WORKERS = 16  # lines of workers at the bottom of a terminal


class Display:
    """Live progress on standard error, results on standard output.

    On a terminal a bar moves; elsewhere (a log file, CI) each finished trial is a line.

    Args:
        silent: Show nothing at all.
        name: The study's name, where it is not the file's.
    """

    def __init__(self, definition: Definition, silent: bool, name: str = "") -> None:
        self._definition, self._silent, self._name = definition, silent, name or definition.name
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = self._console.is_terminal and not silent
        self._progress: Progress | None = None
        self._training: dict[int, Progress] = {}
        self._since: dict[int, float] = {}  # when they began
        self._stage: str = "starting"
        self._began = self._told = time.monotonic()
        self._bar = Live(
            get_renderable=lambda: Text("\n".join(self._lines(self._console.width - 1)), style="cyan"),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            auto_refresh=True,
        )

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Say what is going on beside the trials; a terminal shows a stage in its last lines, and how far it is."""
        moves = isinstance(text, Stage) and text == self._stage
        if isinstance(text, Stage):
            self._stage = text
        if self._live and isinstance(text, Stage):
            self._refresh()
        elif not self._silent and not moves:
            self._above(f"{self._name}: {text}", "dim")

    def _refresh(self) -> None:
        """Bring the lines that change up to date."""
        self._bar.refresh()

    def _above(self, text: str, style: str = "") -> None:
        """Print a sentence above the lines that change; a terminal gets it broken between words."""
        lines = paragraph(text, self._console.width if self._console.is_terminal else None)
        self._console.print("\n".join(lines), style=style, soft_wrap=True)

    def progress(self, progress: Progress) -> None:
        """Show where the search stands."""
        if self._silent:
            return
        if progress.state == "silent":
            self._above(f"trial {progress.number} {progress.reason}", "yellow")
            return
        if self._progress is None:
            self._began = time.monotonic()
        self._progress, self._told, self._stage = progress, time.monotonic(), ""
        if progress.state in ("began", "training"):
            self._training[progress.number] = progress
            self._since.setdefault(progress.number, self._told)
            return
        self._training.pop(progress.number, None)
        self._since.pop(progress.number, None)
        if progress.state == "failed":
            done = "" if self._live else f"[{progress.done}/{progress.total}] "
            self._above(f"{done}trial {progress.number} failed: {progress.reason}", "yellow")
        elif not self._live:
            self._console.print(self._line(progress), soft_wrap=True)

    def _line(self, progress: Progress) -> str:
        """Return a finished trial's line."""
        value = self._values(progress.values, progress.value)
        first = f"[{progress.done}/{progress.total}] trial {progress.number} {progress.state}{value}"
        return fitting(
            [first, self._best(progress), time_left(progress.seconds_left), self._pace(progress)], _LINE, "; "
        )

    def _lines(self, width: int) -> list[str]:
        """Return what stands at the bottom of the terminal, in lines of a width."""
        progress = self._progress
        if progress is None:
            first = fitting([self._name, duration(time.monotonic() - self._began)], width)
            return [first, *self._staged(width)]
        left = None
        if progress.seconds_left is not None and progress.done < progress.total:
            left = max(0.0, progress.seconds_left - (time.monotonic() - self._told))
        done = [f"{progress.done}/{progress.total}", bar(progress.done, progress.total, width)]
        lines = [
            fitting([*done, time_left(left), self._pace(progress), self._name], width, "  "),
            fitting([counts(progress.counts.as_json()), self._best(progress)], width, "; "),
            *self._workers(width),
        ]
        return [*filter(None, lines)]

    def _staged(self, width: int) -> list[str]:
        """Return what the search does while no trial trains, and how far it is."""
        stage = self._stage
        if not isinstance(stage, Stage) or not stage.total:
            return paragraph(stage, width)
        done = [f"{stage.done}/{stage.total}", bar(stage.done, stage.total, width), time_left(stage.seconds_left)]
        return [fitting([f"{stage}:", *done], width, "  ")]

    def _workers(self, width: int) -> list[str]:
        """Return a line for each trial that trains; where none does, what the search does instead."""
        if not self._training:
            return self._staged(width)
        room = max(1, min(_WORKERS, self._console.height - 6))
        lines = [
            fitting(["  " + each, *rest], width) for each, *rest in map(self._epoch, list(self._training.values()))
        ]
        more = [f"  and {len(lines) - room} more"] if len(lines) > room else []
        return lines[:room] + more

    def _epoch(self, trial: Progress) -> list[str]:
        """Return what is known of a trial that trains: how far it is, its metric, for how long it has trained."""
        now = time.monotonic()
        for_long = duration(now - self._since.get(trial.number, now))
        if trial.epoch is None:
            return [f"trial {trial.number}", for_long]
        of = f" of {trial.epochs}" if trial.epochs else ""
        first = {} if trial.value is None else {self._definition.metrics[0]: trial.value}
        return [f"trial {trial.number}", f"epoch {trial.epoch}{of}", *_named(trial.metrics or first), for_long]

    def _best(self, progress: Progress) -> str:
        values = progress.best_values or ([] if progress.best_value is None else [progress.best_value])
        return f"best {', '.join(map(number, values))} (trial {progress.best_number})" if values else ""

    def _values(self, values: Sequence[float], first: float | None) -> str:
        """Return a trial's value; of several metrics each behind its name."""
        if len(values) > 1:
            return f" {', '.join(_named(dict(zip(self._definition.metrics, values, strict=False))))}"
        return "" if first is None else f" {number(first)}"

    def _pace(self, progress: Progress) -> str:
        minutes = (time.monotonic() - self._began) / 60
        return f"{progress.done / minutes:.3g} trials a minute" if progress.done > 1 and minutes > 0 else ""

    def outcome(self, outcome: Outcome) -> None:
        """Print the best trials, what was registered, and what to do next."""
        if self._silent:
            return
        printer = _Printer()
        printer.best(outcome.table, self._definition, outcome.study, outcome.front)
        tested = {name: value for name, value in outcome.best.metrics.items() if name.startswith("test_")}
        no_numbers = [f"{name} is {value}" for name, value in tested.items() if not math.isfinite(value)]
        if no_numbers:
            printer.line(f"Trial {outcome.best.number} on the test part: {', '.join(no_numbers)}.", "yellow")
        if outcome.best.confirmed is not None:
            printer.line(luck(self._definition, outcome.best))
        if outcome.near:
            printer.line(f"{outcome.near}.")
        printer.line("")
        ended, interrupted = counts(outcome.n_trials), outcome.stopped == INTERRUPTED
        if outcome.died:
            ended += f" ({outcome.died} {'stopped' if interrupted else 'died with their worker'})"
        printer.line(f"{ended} in {outcome.seconds:.1f} s with {outcome.workers}; trained by {outcome.data.path}.")
        if outcome.saved:
            printer.line(f"{outcome.saved}.")
        printer.failures(outcome.failures)
        if interrupted:
            printer.line("Interrupted: everything finished so far is kept.", "yellow")
        elif outcome.stopped:
            printer.line(f"Ended before its budget: {outcome.stopped}.")
        self._registered(printer, outcome)
        self._next(printer, outcome)

    def _registered(self, printer: _Printer, outcome: Outcome) -> None:
        model = outcome.model
        if model is not None and outcome.newly_registered:
            rule = f", {nearest(len(outcome.front))}," if len(self._definition.metrics) > 1 else ""
            what = outcome.best.ensemble or f"trial {outcome.best.number}{rule}"
            alias = f"alias {model.alias}" if model.alias else f"without an alias: {model.refused}"
            printer.line(f"Registered {what} as {model.uri}, {alias}.", "yellow" if model.refused else "green")
        elif model is not None:
            champion = ", the champion's" if model.champion else "'s"
            printer.line(f"No better trial than {model.uri}{champion}: nothing new was registered.")
        elif outcome.unregistered:
            printer.line(f"The best trial's model is not registered: {outcome.unregistered}", "yellow")
        if left := outcome.not_mirrored.numbers:
            seconds = outcome.not_mirrored.seconds
            last = (
                ""
                if seconds is None
                else f"; search.sync takes about {duration(seconds)} for {'it' if len(left) == 1 else 'them'}"
            )
            printer.line(f"MLflow does not show {plural(len(left), 'trial')} of this search yet{last}.", "yellow")

    def _next(self, printer: _Printer, outcome: Outcome) -> None:
        commands = []
        if outcome.not_mirrored.numbers or outcome.unregistered:
            commands.append(f"python -m search.sync {outcome.arguments}".rstrip())
        if outcome.stopped == INTERRUPTED:
            commands.append(outcome.resume)
        if outcome.serve:
            commands.append(outcome.serve)
        if outcome.url:
            commands.append(outcome.url)
        if outcome.model is not None and outcome.model.alias == "challenger" and not outcome.model.champion:
            commands.append(f"python -m search.promote {shlex.quote(outcome.model.name)}")
        if commands:
            printer.line("")
            printer.line("Next:")
            for command in commands:
                printer.whole(f"  {command}", "bold")


class NotebookDisplay(Display):
    """Live progress in a notebook: one output of the cell that moves."""

    def __init__(self, definition: Definition, name: str) -> None:
        super().__init__(definition, silent=False, name=name)
        self._live = True

    def __enter__(self) -> Self:
        self._output = notebook.Output()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stage = ""
        self._training.clear()
        self._output.show([] if self._progress is None else self._lines(_LINE), at_once=True)

    def progress(self, progress: Progress) -> None:
        """Show where the search stands."""
        super().progress(progress)
        self._refresh()

    def _refresh(self) -> None:
        self._output.show(self._lines(_LINE))

    def _above(self, text: str, style: str = "") -> None:  # noqa: ARG002 - as `Display`; it has no colours
        self._output.say(text, self._lines(_LINE))


def print_findings(found: Findings, definition: Definition, files: Sequence[Path], page: Sequence[str]) -> None:
    """Print what a study found.

    Args:
        found: What it found.
        files: What was written.
        page: How to open it in MLflow's UI.
    """
    printer = _Printer()
    printer.best(found.best, definition, found.study, found.front)
    printer.line("")
    printer.line(f"Trials: {counts(found.states)}.")
    if found.ensemble is not None:
        printer.line(f"Registered: {found.ensemble}.")
    if found.saved.trials:
        printer.line(f"{found.saved}.")
    printer.failures(found.failures)
    if found.importances:
        printer.whole("")
        printer.line(f"What {definition.metrics[0]} depends on{f' ({found.caveat})' if found.caveat else ''}:", "bold")
        for line in block([(name, f"{share:.0%}") for name, share in found.importances.items()]):
            printer.whole(line)
    if found.edges:
        printer.whole("")
        printer.line("Ranges to widen:", "bold")
        for edge in found.edges:
            printer.line(f"  {edge}")
    for heading, lines in (("Written:", [*map(str, files)]), ("To see it in MLflow:", page)):
        if lines:
            printer.whole("")
            printer.line(heading, "bold")
            for line in lines:
                printer.whole(f"  {line}")


def print_studies(found: Sequence[StudyOverview]) -> None:
    """Print a table of studies."""
    printer = _Printer()
    if not found:
        printer.line("No studies in studies/ here; python -m search.run begins one.")
        return
    states = list(dict.fromkeys(state for each in found for state in each.states))
    several = any(each.front for each in found)
    rows = [
        [
            each.study,
            ", ".join(map(number, each.values)),
            "" if each.versions is None else str(each.versions),
            each.champion or "",
            *(str(each.states.get(state, 0)) for state in states),
            *([str(each.front or "")] if several else []),
            each.package,
        ]
        for each in found
    ]
    front = [_FRONT] if several else []
    printer.table(["study", "best", "versions", "champion", *states, *front, "by search"], rows)


def print_sides(sides: Sequence[Side], metric: str) -> None:
    """Print studies side by side, and whether their differences are more than luck."""
    printer, trials = _Printer(), min(side.trials for side in sides)
    seconds = f"after {duration(min(side.seconds for side in sides))}"
    columns = ["study", "trials", "trained", f"best {metric}", f"after {trials} trials", seconds]
    rows = [
        [
            side.study,
            str(side.trials),
            duration(side.seconds),
            number(side.best),
            number(side.best_of_trials),
            "" if side.best_of_seconds is None else number(side.best_of_seconds),
        ]
        for side in sides
    ]
    printer.table(columns, rows)
    for side in sides[1:]:
        printer.line(f"{side.study}: {side.luck}.")


class _Printer:
    """Prints lines that fit the terminal; whole ones where there is none."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False)
        self.width = self._console.width if self._console.is_terminal else None

    def line(self, text: str, style: str = "") -> None:
        """Print a sentence, broken between words."""
        for each in paragraph(text, self.width):
            self.whole(each, style)

    def failures(self, failures: Sequence[Failures]) -> None:
        """Print a line for each reason of failures."""
        for each in failures:
            trials = f"{plural(len(each.numbers), 'trial')} {some(each.numbers)}"
            stopped = each.reason.endswith(RUN_AGAIN)
            self.line(f"Stopped: {trials}." if stopped else f"Failed: {trials}: {each.reason}", "yellow")

    def whole(self, text: str, style: str = "") -> None:
        """Print a text that is copied as a whole: an address, a command."""
        self._console.print(text, style=style, soft_wrap=True)

    def best(self, best: Sequence[Best], definition: Definition, name: str, front: Sequence[int] = ()) -> None:
        """Print the best trial as a block of names and values, and the best ones as a table of what differs."""
        if not best:
            self.line(f"No trial of study {name} is complete yet.")
            return
        self.whole(f"Best of study {name}: trial {best[0].number}", "bold")
        for line in block(_entries(best[0], definition)):
            self.whole(line)
        if compared := beside_trivial(definition, best[0]):
            self.line(compared, "" if best[0].beats_trivial else "yellow")
        if len(best) > 1:
            self.whole("")
            self._compared(best, definition, front)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, and name the columns that do not fit."""
        lines, left_out = table(header, rows, self.width)
        for index, line in enumerate(lines):
            self.whole(line, "" if index else "dim")
        if left_out:
            self.line(f"Not shown, as the terminal is too narrow: {', '.join(left_out)}.", "dim")

    def _compared(self, best: Sequence[Best], definition: Definition, front: Sequence[int]) -> None:
        columns: dict[str, list[str]] = {}
        for row, each in enumerate(best):
            for column, value in _entries(each, definition):
                columns.setdefault(column, [""] * len(best))[row] = number(value)
        same = [column for column, cells in columns.items() if len(set(cells)) == 1]
        shown = [column for column in columns if column not in same]
        on_front = sum(each.number in front for each in best)
        if front and on_front < len(best):
            columns = {_FRONT: ["yes" if each.number in front else "" for each in best], **columns}
            shown = [_FRONT, *shown]
        marks = [f"{each.number}{'' if each.beats_trivial else '*'}" for each in best]
        rows = [[mark, *(columns[column][row] for column in shown)] for row, mark in enumerate(marks)]
        of_front = f"{len(best)} of the {len(front)} trials on the Pareto front, nearest to the ideal point first:"
        self.whole(of_front if on_front == len(best) else f"The {len(best)} best:", "bold")
        if front:
            self.line(f"Trial {best[0].number} is {nearest(len(front))}.", "dim")
        self.table(["trial", *shown], rows)
        if same:
            self.line(f"The same in all: {', '.join(same)}.", "dim")
        if any(not each.beats_trivial for each in best):
            self.line("* not better than the trivial answer, the same for every row.", "yellow")


def _entries(best: Best, definition: Definition) -> list[tuple[str, object]]:
    """Return what there is to say of a trial: its values, its test metrics, its parameters."""
    tests = [(name, value) for name, value in best.metrics.items() if name.startswith("test_")]
    values: list[tuple[str, object]] = list(zip(definition.metrics, best.values, strict=True))
    if best.confirmed is not None:
        values.append(("  under new seeds", _confirmed(best.confirmed)))
    return [*values, *sorted(tests), *best.params.items()]


def _confirmed(confirmed: Confirmed) -> str:
    spread = f" ± {number(confirmed.std)}" if confirmed.std is not None else ""
    return f"{number(confirmed.mean)}{spread} ({plural(len(confirmed.values), 'training')})"


def _named(values: Mapping[str, float]) -> list[str]:
    return [f"{metric} {number(value)}" for metric, value in values.items()]
