"""Where the seconds of a 20-trial search go, and what the floor is (1 minute).

First the command's own time line, phase after phase, from its start to its exit. Then what the
workers did while trials ran: their seconds together, which are the phase's seconds times the number
of workers; and what the command did meanwhile. Last the floor: what stays when only importing the
framework, tracing and optimising graphs, and the epochs themselves are left.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.timing import HERE, PYTHON, Size, empty_folder, in_empty_folder, median, note, run, table


@dataclass(frozen=True)
class Span:
    """One call: the process and thread that made it, and when."""

    who: str
    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def profiled(n_trials: int) -> tuple[float, float, list[Span]]:
    """Run a search, and return when it began and ended, and its spans."""
    with empty_folder() as folder:
        file = folder / "spans"
        started = time.time()
        done = run(
            PYTHON, str(HERE / "probes" / "spans.py"), str(n_trials), folder=folder, environment={"SPANS": str(file)}
        )
        return started, started + done.seconds, read(file)


def read(file: Path) -> list[Span]:
    """Return the spans of a file, by their beginning."""
    return sorted((Span(**json.loads(line)) for line in file.read_text().splitlines()), key=lambda span: span.start)


def timeline(started: float, ended: float, spans: list[Span]) -> list[tuple[str, float]]:
    """Return the phases of the command's own process, which follow one another without gaps."""
    first: dict[str, Span] = {}
    for span in spans:
        first.setdefault(span.name, span)
    until = [  # a phase whose end is no longer seen counts to the next one
        ("interpreter, command line", "start_forkserver", "start"),
        ("fork server started (it imports the framework from here on)", "start_forkserver", "end"),
        ("import Optuna and the session", "search", "start"),
        ("start workers' pools", "_pool", "end"),
        ("MLflow's store, the data and the first model", "_storage", "start"),
        ("study, experiment, the search's run", "optimize", "start"),
        ("trials", "optimize", "end"),
        ("plots are asked for, MLflow catches up", "drain", "end"),
        ("register the best model, end the search's run", "finish", "end"),
        ("end the workers", "close", "end"),
    ]
    phases, last = [], started
    for name, span_name, edge in until:
        if span_name in first:
            moment = getattr(first[span_name], edge)
            phases.append((name, moment - last))
            last = moment
    phases.append(("exit", ended - last))
    return phases


def in_workers(spans: list[Span], workers: int) -> list[tuple[str, float]]:
    """Return what workers did while trials ran, as seconds of all of them together."""
    checks = [span for span in spans if span.name == "worker.try_out"]  # it builds a model too
    total = _total(span for span in spans if not any(_inside(span, check) for check in checks))
    epochs = total["first epoch"] + total["other epoch"]  # with the pruner, which is asked in between
    parts = {
        "build the model": total["build"],
        "trace the model, or take an earlier one's graph": total["graphs"],
        "first epoch, TensorFlow optimises the graph": total["first epoch"],
        "all other epochs": total["other epoch"] - total["pruner"],
        "report to Optuna, ask the pruner": total["pruner"],
        "the rest of fit: pipelines, Keras's own set-up": total["fit"] - total["graphs"] - epochs,
        "test evaluation": total["evaluate"],
        "summary for MLflow": total["summary"],
        "save the best so far": total["archive"],
        "clear the session": total["worker._forget_model"],
    }
    parts["load the study, seeds, the rest"] = total["worker.train"] - sum(parts.values())
    parts["wait for the next trial"] = total["optimize"] * workers - total["worker.train"]
    return list(parts.items())


def in_command(spans: list[Span]) -> list[tuple[str, float]]:
    """Return what the command's own process did while trials ran: its loop, and the thread that writes to MLflow."""
    loop = next(span for span in spans if span.name == "optimize")
    total = _total(span for span in spans if loop.start <= span.start <= loop.end)
    named = ("ask the sampler", "write the proposal", "submit to a slot", "record how a trial ended")
    parts = [(name, total[name]) for name in named]
    waits = loop.seconds - sum(seconds for _, seconds in parts)
    return [*parts, ("wait for trials", waits), ("beside it: show trials in MLflow", total["mirror"])]


def _total(spans: Iterable[Span]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for span in spans:
        total[span.name] += span.seconds
    return total


def _inside(span: Span, outer: Span) -> bool:
    return span.who == outer.who and outer.start <= span.start <= outer.end


def main(size: Size) -> None:
    """Measure and print."""
    n_trials = size.of(20, 5)
    note("  import of the framework alone")
    imports = median([in_empty_folder(PYTHON, "-c", "import keras").seconds for _ in range(size.of(size.repeats, 1))])
    note("  one search")
    started, ended, spans = profiled(n_trials)
    whole = ended - started
    workers = len({span.who for span in spans if span.name == "worker.train"})
    rows = [[name, f"{taken:.2f} s", f"{taken / whole:.0%}"] for name, taken in timeline(started, ended, spans)]
    rows.append(["whole process", f"{whole:.2f} s", "100%"])
    table(f"profile: a search of {n_trials} trials, {workers} workers", ["the command", "seconds", "share"], rows)
    trials = in_workers(spans, workers)
    together = sum(taken for _, taken in trials)
    rows = [[name, f"{t:.2f} s", f"{t / n_trials * 1e3:.0f} ms", f"{t / together:.0%}"] for name, t in trials]
    rows.append(["the phase 'trials', all workers", f"{together:.2f} s", f"{together / n_trials * 1e3:.0f} ms", "100%"])
    table("profile: while trials ran", ["workers together", "seconds", "a trial", "share"], rows)
    rows = [[name, f"{t:.2f} s", f"{t / n_trials * 1e3:.0f} ms"] for name, t in in_command(spans)]
    table("profile: the command while trials ran", ["one process", "seconds", "a trial"], rows)
    known = dict(trials)
    graphs = known["trace the model, or take an earlier one's graph"]
    graphs = (graphs + known["first epoch, TensorFlow optimises the graph"]) / workers
    epochs = known["all other epochs"] / workers
    rows = [
        ["import the framework (python -c 'import keras')", f"{imports:.2f} s"],
        [f"trace what is new, optimise each graph once, in {workers} workers", f"{graphs:.2f} s"],
        [f"the epochs, in {workers} workers", f"{epochs:.2f} s"],
        ["floor", f"{imports + graphs + epochs:.2f} s"],
        ["this search", f"{whole:.2f} s, {whole / (imports + graphs + epochs):.2f} × the floor"],
    ]
    table("profile: the floor", ["", "seconds"], rows)
