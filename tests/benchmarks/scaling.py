"""What a trial costs when the study has many already, and how busy many slots are (25 minutes; `--quick` 3).

The study is kept in a journal. Asking: a search's sampling learns of one more finished trial and
proposes the next, which plain Optuna does with `ask` and three `suggest_*` on the same journal, with
the same sampler. Listing: best trials and table of `search.report`. Resuming: opening the journal
and teaching a new sampler every trial, once a search.

Slots that only wait, and no training, show what the asking process can serve: whole searches, with the study in a
journal, offline and with MLflow's own store beside it. Processor time is that of the whole process, its threads
that write to MLflow included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.reporting import plots
from search.study import create, ranking, samplers, space, storage
from search.study.proposals import Sampling
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from tests.benchmarks.timing import HERE, PYTHON, Size, empty_folder, median, note, ratio, run, seconds, table
from tests.benchmarks.work import Work

_WORK = Work(
    "scaling",
    'source = "sklearn:make_blobs"',
    'epochs = { type = "int", low = 1, high = 1000 }\n'
    'batch_size = { type = "categorical", choices = [16, 32, 64] }\n'
    'learning_rate = { type = "float", low = 1e-5, high = 1.0, log = true }',
    [],
)


def finished(definition: Definition, count: int, seed: int) -> list[FrozenTrial]:
    """Return random finished trials, with ten reports each."""
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    known = space.distributions(definition)
    trials = []
    for index in range(count):
        trial = drawn.ask(known)
        trials.append(
            create_trial(
                state=TrialState.COMPLETE,
                value=trial.params["learning_rate"] * (1 + index % 7),
                params=trial.params,
                distributions=known,
                intermediate_values={step: 1 / (step + 1) for step in range(10)},
            )
        )
    return trials


def clock(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(definition: Definition, folder: Path, count: int, asks: int) -> dict[str, float]:
    """Return the seconds of each thing at this many finished trials."""
    journal = str(folder / f"{count}.journal")
    stored = storage.open_storage(journal)
    name = definition.name
    optuna_study = optuna.create_study(
        study_name=name, storage=stored, sampler=samplers.make_sampler(definition, "tpe", 0)
    )
    optuna_study.add_trials(finished(definition, count, seed=0))
    times: dict[str, list[float]] = {"plain": [], "ask": [], "list": [], "load": [], "resume": []}

    def resume() -> Sampling:
        opened = create.create(
            definition, name, storage.open_storage(journal), optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
        )
        trials = opened.get_trials(deepcopy=False)
        fresh = Sampling(definition, samplers.make_sampler(definition, "tpe", 0, trials), 0)
        fresh.learn(trials)
        return fresh

    def plain_ask() -> None:
        trial = optuna_study.ask()
        trial.suggest_int("epochs", 1, 1000)
        trial.suggest_categorical("batch_size", [16, 32, 64])
        trial.suggest_float("learning_rate", 1e-5, 1.0, log=True)
        optuna_study.tell(trial, 1.0)

    def ask() -> None:
        sampling.learn(optuna_study.get_trials(deepcopy=False))
        proposal = sampling.propose()
        assert proposal is not None
        known = space.distributions(definition)
        optuna_study.add_trial(create_trial(value=1.0, params=proposal.params, distributions=known))
        sampling.began(proposal, optuna_study.get_trials(deepcopy=False)[-1].number)

    def listing() -> None:
        loaded = optuna.load_study(study_name=name, storage=stored)
        ranking.best_trials(definition, loaded.get_trials(deepcopy=False))
        plots.table(loaded, definition, folder)

    for _ in range(3):
        times["resume"].append(clock(resume))
        times["load"].append(clock(lambda: optuna.load_study(study_name=name, storage=storage.open_storage(journal))))
        times["list"].append(clock(listing))
    sampling = resume()
    ask()
    plain_ask()
    for _ in range(asks):  # A B A B
        times["plain"].append(clock(plain_ask))
        times["ask"].append(clock(ask))
    return {what: median(several) for what, several in times.items()}


def main(size: Size) -> None:
    """Measure and print."""
    rows = []
    with empty_folder() as folder:
        definition = load_definition(_WORK.write(folder))
        for count in (10, 1000, size.of(5000, 2000)):
            note(f"  {count} finished trials")
            times = measure(definition, folder, count, size.of(10, 3))
            rows.append(
                [
                    f"{count}",
                    seconds(times["plain"]),
                    *(f"{seconds(times[what])}  {ratio(times[what], times['plain'])}" for what in ("ask", "list")),
                    f"{seconds(times['resume'])}  {ratio(times['resume'], times['load'])}",
                ]
            )
    _many_trials(rows)
    _many_slots(size)


def _many_trials(rows: list[list[str]]) -> None:
    table(
        "scaling: with this many finished trials",
        ["", "plain ask + tell", "search asks  ÷ plain ask", "report lists  ÷ plain ask", "resuming  ÷ plain load"],
        rows,
        "Listing and resuming are paid once, asking for every trial.",
    )


def _many_slots(size: Size) -> None:
    rows = []
    for trials, slots, each in ((500, 50, 3), (2000, 500, 30))[: size.of(2, 1)]:
        for where in ((), ("offline",)):
            note(f"  {slots} slots, trials of {each} s {' '.join(where)}")
            with empty_folder() as folder:
                file = str(_WORK.write(folder))
                probe = str(HERE / "probes" / "slots.py")
                found = run(PYTHON, probe, file, str(trials), str(slots), str(each), *where, folder=folder).json
            late = found["cpu"][-1][1]
            rows.append(
                [
                    f"{trials} trials of {each} s, {slots} slots, {where[0] if where else 'MLflow'}",
                    f"{found['busy']:.0%}",
                    f"{found['rate']:.1f}",
                    *(seconds(cost) for cost in (found["cpu"][1][1], late)),
                    seconds(found["drained"]),
                    f"{trials - found['complete']}, {found['not_mirrored'] if not where else 0}",
                ]
            )
    columns = ["", "busy", "trials a second", "processor, first 100", "second half", "end", "lost, not in MLflow"]
    table("scaling: slots that only wait", columns, rows, "End: from the last trial's end to the search's.")
