"""What a person sees in the terminal while a search runs and when it is over."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import optuna

    from search.optimize import Progress
    from search.outcome import Outcome
    from search.register import Best


class Display:
    """Live progress on standard error, results on standard output.

    On a terminal a bar moves; elsewhere (a log file, CI) each finished trial is a line.

    Args:
        definition: The study file.
        silent: Show nothing at all.
    """

    def __init__(self, definition: Definition, silent: bool) -> None:
        self._definition, self._silent = definition, silent
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = self._console.is_terminal and not silent
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task(f"{definition.name}: starting", total=None, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Say what is going on before the first trial."""
        if not self._silent:
            self._console.print(f"{self._definition.name}: {text}", style="dim")

    def progress(self, progress: Progress) -> None:
        """Show where the search stands."""
        if self._silent:
            return
        best = "" if progress.best_number is None else f"best {progress.best_value:.5g} (trial {progress.best_number})"
        left = "" if progress.seconds_left is None else f"{_duration(progress.seconds_left)} left"
        self._bar.update(
            self._task,
            description=f"{self._definition.name}: trial {progress.number} {progress.state}; {best}".rstrip("; "),
            completed=progress.done,
            total=progress.total,
            left=left,
        )
        if progress.state == "failed":
            self._console.print(f"trial {progress.number} failed: {progress.reason}", style="yellow")
        elif progress.state != "began" and not self._live:
            value = "" if progress.value is None else f" {progress.value:.5g}"
            line = f"[{progress.done}/{progress.total}] trial {progress.number} {progress.state}{value}; {best}; {left}"
            self._console.print(line.rstrip("; "), markup=False)

    def outcome(self, outcome: Outcome) -> None:
        """Print the best trials, what was registered, and what to do next."""
        if self._silent:
            return
        console = Console(highlight=False, markup=False)
        console.print(_table(outcome.table, self._definition))
        counts = ", ".join(f"{count} {fate}" for fate, count in outcome.n_trials.items())
        died = f" ({outcome.died} died with their worker)" if outcome.died else ""
        console.print(f"{counts}{died} in {outcome.seconds:.1f} s with {outcome.workers}; fed by {outcome.data.path}.")
        if outcome.stopped:
            console.print(f"Ended before its budget: {outcome.stopped}.")
        model = outcome.model
        if model is not None and outcome.newly_registered:
            console.print(f"Registered trial {outcome.best.number} as {model.uri}, alias {model.alias}.")
        elif model is not None:
            console.print(f"No better trial than {model.uri}'s: nothing new was registered.")
        console.print("\nNext:")
        console.print("  mlflow ui", style="bold")
        if model is not None:
            console.print(f"  python -m search.promote {model.name}", style="bold", soft_wrap=True)


def print_study(study: optuna.Study, definition: Definition, top: int) -> None:
    """Print a study's counts and its best trials."""
    from search.register import Best
    from search.study.attributes import comparable_trials
    from search.study.ranking import best_trials

    trials = study.get_trials(deepcopy=False)
    best = [
        Best(t.number, tuple(t.values), dict(t.params), "", {})
        for t in best_trials(definition, comparable_trials(study))[:top]
    ]
    states: dict[str, int] = {}
    for trial in trials:
        states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
    console = Console(highlight=False, markup=False)
    console.print(_table(tuple(best), definition))
    console.print(f"study {study.study_name}: " + ", ".join(f"{count} {state}" for state, count in states.items()))


def _table(best: tuple[Best, ...], definition: Definition) -> Table:
    names = list(dict.fromkeys(name for each in best for name in each.params))
    tests = [name for name in (best[0].metrics if best else {}) if name.startswith("test_")]
    table = Table(title=f"{definition.name}: best trials", title_justify="left")
    for column in ("trial", *definition.metrics, *tests, *names):
        table.add_column(column, justify="right")
    for each in best:
        measured = [f"{each.metrics[name]:.5g}" if name in each.metrics else "" for name in tests]
        params = [_short(each.params.get(name, "")) for name in names]
        table.add_row(str(each.number), *(f"{value:.5g}" for value in each.values), *measured, *params)
    return table


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
