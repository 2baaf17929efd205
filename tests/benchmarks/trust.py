"""What the defaults of `keep_epoch` and `confirm` rest on: searches judged under fresh seeds (an hour; quick: minutes).

Each search has a split of its own. Its leading configurations are trained again: under some seeds
for the confirmation, for several budgets, and under other seeds for the judge. The judge's
loss on the test part, which nothing chose by, is what a model is truly worth.

The work is done in parts, each kept in a folder that is printed; what is there is not done again. Ctrl-C ends the work
and prints the tables of what is there. They are written to `results/trust.md`.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.handover.confirmation import planned
from tests.benchmarks.quality import parts, tasks
from tests.benchmarks.quality.parts import Curve, Params
from tests.benchmarks.quality.searches import LEADING
from tests.benchmarks.timing import HERE, PYTHON, Size, machine, note, table
from tests.comparison.test_verdict import of_equal_models

_RESULTS = HERE / "results" / "trust.md"
_CHOOSING = ("digits", "breast_cancer", "diabetes")
_HELD_BACK = ("hitters", "attrition", "penguins", "odd_digits")
_SHARES = (0.1, 0.2, 0.5)
_EPOCHS = ("last", "best")


@dataclass(frozen=True)
class Trial:
    """A trial of a search: its configuration, the validation loss of each epoch, and how long it took."""

    params: Params
    validation: list[float]
    seconds: float

    def value(self, epoch: str) -> float:
        """Return the validation loss of the `best` or the `last` epoch."""
        return min(self.validation) if epoch == "best" else self.validation[-1]


@dataclass(frozen=True)
class Searched:
    """A search, and the trainings of its leading configurations under other seeds."""

    trials: list[Trial]
    again: dict[str, list[Curve]]
    judged: dict[str, list[Curve]]

    def leading(self, epoch: str) -> list[Trial]:
        """Return the trials that lead, the best first."""
        return sorted(self.trials, key=lambda trial: trial.value(epoch))[:LEADING]

    def test(self, trial: Trial, epoch: str) -> float:
        """Return the judge's loss of a configuration on the test part."""
        return statistics.mean(curve.kept(epoch) for curve in self.judged[parts.key(trial.params)])


@dataclass(frozen=True)
class Confirmed:
    """What a confirmation decided: the trial, its mean validation loss under new seeds, and what share it cost."""

    trial: Trial
    mean: float
    cost: float


def main(size: Size) -> None:
    """Search, train again, judge, and print the tables."""
    folder = Path(tempfile.gettempdir()) / f"search-trust{'-quick' if size.quick else ''}"
    folder.mkdir(exist_ok=True)
    note(f"  parts are kept in {folder}")
    sizes = (size.of(12, 8), size.of(2, 1), size.of(3, 2))  # trials, trainings for the confirmation, for the judge
    seeds = {True: range(1, size.of(10, 2) + 1), False: range(1, size.of(5, 1) + 1)}
    known = [name for name in (*_CHOOSING, *_HELD_BACK) if name in tasks.TASKS]
    try:
        for most in (size.of(5, 1), None):  # some of each task first
            for name in known:
                _search(folder, name, sizes, seeds[name in _CHOOSING][:most])
    except KeyboardInterrupt:
        note("  stopped; the tables are of what is there")
    found = {name: _kept(folder, name, seeds[True]) for name in known}
    found = {name: searches for name, searches in found.items() if searches}
    caption = (
        f"Searches of {sizes[0]} trials (TPE, no pruner, each on a split of its own), judged under {sizes[2]} fresh "
        f"seeds. {datetime.date.today()}, {machine()}."  # noqa: DTZ011 - the reader's day
    )
    tables = [_keep_table(found), *(_confirm_table(found, epoch) for epoch in _EPOCHS), _promotion_table()]
    for title, columns, rows in tables:
        table(title, columns, rows, caption)
    if not size.quick:
        _RESULTS.write_text(_text(tables, caption), encoding="utf-8")


# The searches


def _search(folder: Path, name: str, sizes: Sequence[int], seeds: Sequence[int]) -> None:
    """Do the searches of a task that are not kept yet, in a process of their own."""
    note(f"  {name}")
    command = [PYTHON, "-m", "tests.benchmarks.quality.searches", str(folder), name, *map(str, (*sizes, *seeds))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(HERE.parent.parent)}
    subprocess.run(command, env=environment, check=True)


def _kept(folder: Path, name: str, seeds: Sequence[int]) -> list[Searched]:
    files = [folder / f"{name}-split{seed}.json" for seed in seeds]
    return [_read(file) for file in files if file.is_file()]


def _read(kept: Path) -> Searched:
    found = json.loads(kept.read_text())
    again, judged = ([Curve(**each) for each in found[name]] for name in ("again", "judged"))
    trials = [Trial(**each) for each in found["trials"]]
    return Searched(trials, parts.by_configuration(again), parts.by_configuration(judged))


# What they say of `keep_epoch`


def _keep_table(found: dict[str, list[Searched]]) -> tuple[str, list[str], list[list[str]]]:
    columns = [
        "",
        "searches",
        "test loss: last",
        "best",
        "last − best",
        "best is better, worse",
        "claimed: last",
        "best",
    ]
    return "keep_epoch: the winner of a search under fresh seeds", columns, [_keep_row(*each) for each in found.items()]


def _keep_row(name: str, searches: list[Searched]) -> list[str]:
    winners = {epoch: [each.leading(epoch)[0] for each in searches] for epoch in _EPOCHS}
    tested = {
        epoch: [each.test(winner, epoch) for each, winner in zip(searches, winners[epoch], strict=True)]
        for epoch in _EPOCHS
    }
    gains = [one - other for one, other in zip(tested["last"], tested["best"], strict=True)]
    claimed = [statistics.mean(winner.value(epoch) for winner in winners[epoch]) for epoch in _EPOCHS]
    return [
        name + (", held back" if name in _HELD_BACK else ""),
        str(len(searches)),
        *(f"{statistics.mean(tested[epoch]):.4f}" for epoch in _EPOCHS),
        _with_error(gains),
        f"{sum(gain > 0 for gain in gains)}, {sum(gain < 0 for gain in gains)}",
        *(f"{value:.4f}" for value in claimed),
    ]


# What they say of `confirm`


def _confirm_table(found: dict[str, list[Searched]], epoch: str) -> tuple[str, list[str], list[list[str]]]:
    columns = [
        "", "share", "claimed by the search", "confirmed", "validated by the judge", "test, without", "test, with",
        "without − with", "changed", "truly better, worse", "cost",
    ]  # fmt: skip
    rows = [_confirm_row(name, found[name], share, epoch) for name in found for share in _SHARES]
    return f"confirm: the {epoch} epoch's weights", columns, rows


def _confirm_row(name: str, searches: list[Searched], share: float, epoch: str) -> list[str]:
    first = [each.leading(epoch)[0] for each in searches]
    decided = [_confirmed(each, share, epoch) for each in searches]
    pairs = list(zip(searches, first, decided, strict=True))
    gains = [each.test(winner, epoch) - each.test(other.trial, epoch) for each, winner, other in pairs]
    changed = [gain for gain, (_, winner, other) in zip(gains, pairs, strict=True) if winner is not other.trial]
    validated = [
        statistics.mean(_value(curve, epoch) for curve in each.judged[parts.key(other.trial.params)])
        for each, _, other in pairs
    ]
    return [
        name,
        f"{share:g}",
        f"{statistics.mean(trial.value(epoch) for trial in first):.4f}",
        f"{statistics.mean(each.mean for each in decided):.4f}",
        f"{statistics.mean(validated):.4f}",
        f"{statistics.mean(each.test(winner, epoch) for each, winner, _ in pairs):.4f}",
        f"{statistics.mean(each.test(other.trial, epoch) for each, _, other in pairs):.4f}",
        _with_error(gains),
        f"{len(changed)} of {len(searches)}",
        f"{sum(gain > 0 for gain in changed)}, {sum(gain < 0 for gain in changed)}",
        f"{statistics.mean(each.cost for each in decided):.0%}",
    ]


def _confirmed(searched: Searched, share: float, epoch: str) -> Confirmed:
    """Run the package's own race on trainings that were recorded, for a budget that is a share of the search's time."""
    whole = sum(trial.seconds for trial in searched.trials)
    leading = searched.leading(epoch)
    finalists, seeds = planned([trial.seconds for trial in leading], share * whole)
    chosen = leading[:finalists]
    seeds = min(seeds, len(searched.again[parts.key(leading[0].params)]))
    means = [
        statistics.mean(_value(curve, epoch) for curve in searched.again[parts.key(trial.params)][:seeds])
        for trial in chosen
    ]
    winner = min(range(finalists), key=means.__getitem__)
    return Confirmed(leading[winner], means[winner], seeds * sum(trial.seconds for trial in chosen) / whole)


def _value(curve: Curve, epoch: str) -> float:
    return min(curve.validation) if epoch == "best" else curve.validation[-1]


# What they say of the gate


def _promotion_table() -> tuple[str, list[str], list[list[str]]]:
    """Let the gate compare equal models of made scores on the same rows."""
    rows = []
    for metric, count in (("loss", 40), ("loss", 150), ("accuracy", 120)):
        better = of_equal_models(metric, count)
        rows.append([f"{metric}, {count} rows", *(str(better.count(each)) for each in (True, False, None))])
    return "the gate: 200 pairs of equal models", ["", "promoted", "worse", "undecided"], rows


def _with_error(gains: Sequence[float]) -> str:
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return f"{statistics.mean(gains):+.4f} ({error:.4f})"


def _text(tables: list[tuple[str, list[str], list[list[str]]]], caption: str) -> str:
    lines = [
        "# Trust: `keep_epoch` and `confirm`",
        "",
        f"`python -m tests.benchmarks trust` writes this file. {caption}",
    ]
    lines += ["Above 0: the second is better; in brackets the standard error over searches.", ""]
    for title, columns, rows in tables:
        lines += [f"## {title}", "", *parts.as_markdown(columns, rows), ""]
    return "\n".join(lines)
