"""The parts of the work: random configurations, searches, and configurations judged; each is kept in a file."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from search.study.space import distribution
from search.study.storage import open_storage
from search.studyfile.parameters import Parameter
from tests.benchmarks.quality import tasks
from tests.benchmarks.quality.study import written
from tests.benchmarks.timing import HERE, PYTHON, empty_folder, note

Params = dict[str, Any]
OURS, PLAIN = "search.run", "plain Optuna"
_OURS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # options of the command, and tables of the study file
    OURS: ((), {}),
    f"{OURS} --ensemble 5": (("--ensemble", "5"), {}),
    f"{OURS}, refit": ((), {"search": {"refit": True}}),
    f"{OURS} --ensemble 5, refit": (("--ensemble", "5"), {"search": {"refit": True}}),
    f"{OURS}, folds = 5": ((), {"data": {"folds": 5}}),
    f"{OURS} --ensemble 5, folds = 5": (("--ensemble", "5"), {"data": {"folds": 5}}),
}
_RIVALS = {
    PLAIN: ("quality_plain.py",),
    "KerasTuner, Bayesian": ("quality_tuner.py", "bayesian"),
    "KerasTuner, Hyperband": ("quality_tuner.py", "hyperband"),
    "Ray Tune, ASHA": ("quality_ray.py",),
    "HistGradientBoosting": ("quality_sklearn.py", "boosting"),
    "scikit-learn's MLP": ("quality_sklearn.py", "network"),
}
_NEEDED = {"KerasTuner": ("keras_tuner", "tensorboard"), "Ray": ("ray",)}
_JUDGE = 10_000  # seeds from here on belong to the judge
_RANDOM = 1_000  # and from here on to the random configurations
_SEEDS = 20  # how far the seeds of a task's searches are from those of the next
_SHARE = 0.65  # of a search's time in which trials begin: the rest is for its model
_PATIENCE = 60.0  # seconds until a search that was asked to end is killed


@dataclass(frozen=True)
class Plan:
    """How much to do.

    Attributes:
        folder: Where the parts are kept.
        random: Random configurations of each task.
        seconds: For each search, whole process.
        seeds: Of the searches.
        judges: Under how many seeds a configuration is judged.
    """

    folder: Path
    random: int
    seconds: int
    seeds: tuple[int, ...]
    judges: int


@dataclass(frozen=True)
class Tried:
    """A trial of a search: when it ended, what it tried, and its value; none where it was given up."""

    seconds: float
    params: Params
    value: float | None


@dataclass(frozen=True)
class Handed:
    """What a tool hands over when its time is up.

    Attributes:
        seconds: How long it took, whole process.
        trials: How many it ended.
        params: The configuration that it holds to be best; empty for a tool with another space.
        outputs: What its model gives for the test rows.
    """

    seconds: float
    trials: int
    params: Params
    outputs: NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """One training of a configuration: the losses after each epoch."""

    params: Params
    seed: int
    validation: list[float]
    test: list[float]

    @property
    def best(self) -> int:
        """The epoch whose validation loss is lowest."""
        return min(range(len(self.validation)), key=self.validation.__getitem__)

    def kept(self, epoch: str) -> float:
        """Return the test loss of the weights of the `best` or the `last` epoch."""
        return self.test[self.best if epoch == "best" else -1]


def tools() -> list[str]:
    """Return what is compared: the rivals that are installed."""
    return [*_OURS, *(name for name in _RIVALS if not missing(name))]


def missing(tool: str = "") -> list[str]:
    """Return the packages that a tool lacks; those that any tool lacks when left out."""
    needed = [each for name, several in _NEEDED.items() if name in (tool or name) for each in several]
    return [each for each in needed if importlib.util.find_spec(each) is None]


def handed(plan: Plan, task: str, tool: str, seed: int) -> Handed:
    """Return what one search hands over."""
    kept = plan.folder / f"{task}-{''.join(filter(str.isalnum, tool))}-{seed}.npz"
    if not kept.is_file():
        note(f"  {task}: {tool}, seed {seed}")
        find = _ours if tool in _OURS else _rivals
        found = find(plan, task, tool, seed_of(task.partition("-split")[0], seed))
        whole = kept.with_suffix(".part.npz")
        about = json.dumps({"seconds": found.seconds, "trials": found.trials, "params": found.params})
        np.savez_compressed(whole, about=np.asarray(about), outputs=found.outputs)
        whole.replace(kept)
    with np.load(kept) as file:
        return Handed(**json.loads(str(file["about"])), outputs=file["outputs"])


def seed_of(task: str, seed: int) -> int:
    """Return the seed of a search: another one in each task.

    The space is the same in all: under one seed a sampler's first configurations are, and one lucky draw would count in
    every task.
    """
    return seed + _SEEDS * [*tasks.TASKS].index(task)


def _ours(plan: Plan, task: str, tool: str, seed: int) -> Handed:
    """Search, and read what the registered version gives for the test rows."""
    import mlflow

    from search.tracking import registry

    more, added = _OURS[tool]
    with empty_folder() as folder:
        study = written(arrays(plan, task), folder, **added)
        limit, store = str(plan.seconds * _SHARE), f"sqlite:///{folder}/mlflow.db"
        options = ("--n-trials", "100000", "--timeout", limit, "--seed", str(seed), "--quiet", *more)
        options += ("--tracking-uri", store)  # the environment has that of the search before: MLflow sets it there
        started = time.time()
        _until([PYTHON, "-m", "search.run", str(study), *options], folder, 2 * plan.seconds + _PATIENCE)
        seconds = time.time() - started
        trials = _trials(folder / "studies" / f"{task}.journal", task)
        mlflow.set_tracking_uri(store)
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        version = registry.find(task)
        known = registry.predictions_of(version)
        assert known is not None
        assert known.output is not None
        best = next(each for each in trials if str(each.number) == version.tags["trial"])
    return Handed(seconds, sum(each.state.is_finished() for each in trials), best.params, known.output)


def _trials(journal: Path, name: str) -> list[FrozenTrial]:
    if not journal.is_file():  # the time was up before the first trial
        return []
    storage = open_storage(str(journal))
    if name not in optuna.get_all_study_names(storage):
        return []
    return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)


def _rivals(plan: Plan, task: str, tool: str, seed: int) -> Handed:
    script, *method = _RIVALS[tool]
    with empty_folder() as folder:
        command = [PYTHON, str(HERE / "rivals" / script), str(arrays(plan, task)), str(seed), *method]
        lines = _until(command, folder, plan.seconds).splitlines()
        found = [Tried(**json.loads(line)) for line in lines if line.startswith("{") and line.endswith("}")]
        known = [each for each in found if each.value is not None and each.value == each.value]
        best = min(known, key=lambda each: float(each.value or 0)).params if known else {}
        kept = folder / "best.npy"
        if not kept.is_file():  # no trial yet; or a tool that keeps no model, so its best is trained once more
            line = json.dumps({"params": best or _random(1)[0], "seed": seed})
            again, environment = trainer(plan, task)
            subprocess.run([*again, str(kept)], env=environment, input=line, capture_output=True, text=True, check=True)
        return Handed(plan.seconds, len(found), best, np.load(kept))


def _until(command: list[str], folder: Path, seconds: float) -> str:
    """Run a command, end it when the seconds are over, and return what it printed."""
    environment = {**os.environ, "STARTED": str(time.time()), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / "printed").open("w+") as printed, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=printed, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = 0
            _end(process)
        if status:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit status {status}\n{errors.read()[-3000:]}")
        printed.seek(0)
        return printed.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end what is left of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def random_curves(plan: Plan, task: str) -> list[Curve]:
    """Return the task's random configurations, trained once each."""
    wanted = [(params, _RANDOM + index) for index, params in enumerate(_random(plan.random))]
    return _curves(plan, task, plan.folder / f"{task}-random.jsonl", wanted)


def judged(plan: Plan, task: str, configurations: Iterable[Params]) -> dict[str, list[Curve]]:
    """Return each configuration's trainings under the judge's seeds, by `key`."""
    unique = {key(params): params for params in configurations}
    wanted = [(params, _JUDGE + seed) for params in unique.values() for seed in range(plan.judges)]
    return by_configuration(_curves(plan, task, plan.folder / f"{task}-judged.jsonl", wanted))


def by_configuration(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """Return the trainings of each configuration, by `key`."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(key(curve.params), []).append(curve)
    return found


def key(params: Params) -> str:
    """Return a text that is the same for the same configuration."""
    return json.dumps(params, sort_keys=True)


def arrays(plan: Plan, task: str) -> Path:
    """Return the file of a task's arrays."""
    file = plan.folder / f"{task}.npz"
    if not file.is_file():
        plan.folder.mkdir(parents=True, exist_ok=True)
        tasks.write(task, file)
    return file


def trainer(plan: Plan, task: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that trains configurations of a task, and its environment."""
    command = [PYTHON, "-m", "tests.benchmarks.quality.curves", str(arrays(plan, task))]
    return command, {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(HERE.parent.parent)}


def _curves(plan: Plan, task: str, kept: Path, wanted: list[tuple[Params, int]]) -> list[Curve]:
    """Return these trainings, in this order; those that the file does not have are done now."""
    known = {(key(each["params"]), each["seed"]): Curve(**each) for each in read(kept)}
    missing = [each for each in wanted if (key(each[0]), each[1]) not in known]
    if missing:
        note(f"  {task}: {len(missing)} trainings")
        lines = "".join(json.dumps({"params": params, "seed": seed}) + "\n" for params, seed in missing)
        command, environment = trainer(plan, task)
        with kept.open("a") as file:
            subprocess.run(
                command, env=environment, input=lines, stdout=file, stderr=subprocess.DEVNULL, text=True, check=True
            )
        known = {(key(each["params"]), each["seed"]): Curve(**each) for each in read(kept)}
    return [known[key(params), seed] for params, seed in wanted]


@cache
def _random(count: int) -> tuple[Params, ...]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    read: TypeAdapter[Any] = TypeAdapter(Parameter)
    space = {name: distribution(read.validate_python(each)) for name, each in tasks.SPACE.items()}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return tuple(dict(study.ask(space).params) for _ in range(count))


def write(file: Path, lines: list[dict[str, Any]]) -> None:
    """Write lines of JSON, all or none."""
    whole = file.with_suffix(".part")
    whole.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    whole.replace(file)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the lines of JSON of a file; none where there is no file."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be torn


def as_markdown(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
