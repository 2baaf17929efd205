"""The Optuna study: its storage, sampler and pruner, and what earlier searches left in it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search import space
from search.definition import Definition, parse_constraint
from search.errors import StorageError, StudyFileError, UsageError, one_line, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

CONSTRAINTS = "constraints"
METRICS = "metrics"
SEARCH = "search"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def default_storage(name: str) -> str:
    """Return the journal that a study is kept in unless the user says otherwise."""
    return f"studies/{name}.journal"


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage: a database URL, `grpc://host:port`, or the path of a journal.

    Raises:
        StorageError: It cannot be reached, or its driver is not installed.
    """
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=10)
            return proxy
        if "://" in url:
            return _relational(url)
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(url)
        return optuna.storages.JournalStorage(backend)
    except ModuleNotFoundError as error:
        raise StorageError(f"storage {url}: {_install(error.name or '')}") from None
    except Exception as error:
        raise StorageError(f"storage {url} cannot be used ({one_line(error)}); is it up, and the URL right?") from None


def _relational(url: str) -> BaseStorage:
    import sqlalchemy.exc

    pool = {} if url.startswith("sqlite") else {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=pool, heartbeat_interval=None)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError):
            # Searches that open a fresh database at the same moment create its tables twice.
            if attempt == 4 or not _reachable(url):
                raise
    raise AssertionError("unreachable")


def _reachable(url: str) -> bool:
    import sqlalchemy

    try:
        with sqlalchemy.create_engine(url).connect():
            return True
    except sqlalchemy.exc.SQLAlchemyError:
        return False


def _install(module: str) -> str:
    extra = {"psycopg": "postgresql", "psycopg2": "postgresql", "grpc": "grpc"}.get(module)
    if module == "psycopg2":
        return "write postgresql+psycopg://… and pip install 'search[postgresql]'"
    if extra:
        return f"pip install 'search[{extra}]'"
    return f"its driver '{module}' is not installed; pip install {module}"


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn an error of the storage inside this block into a `StorageError`."""
    import sqlalchemy.exc  # what Optuna's database storage raises beside its own error

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StorageError(f"storage {url} cannot be used ({one_line(error)})") from error


def make_sampler(definition: Definition, name: str, seed: int, finished: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """Return the sampler of this name, seeded.

    Args:
        definition: The study file, for its options, space and constraints.
        name: One of `tpe`, `random`, `gp`, `cmaes`, `qmc`, `grid`, `nsga2`.
        seed: Seed of the sampler.
        finished: Trials the study already has; they move the seed on, so that a later search does
            not repeat the random draws of the first.

    Raises:
        UsageError: The sampler's package is missing, or it does not suit the study.
    """
    options = dict(definition.search.sampler_options)
    seed = (seed + len(finished)) % 2**32
    several = len(definition.metrics) > 1
    if several and name in ("cmaes", "gp"):
        raise UsageError(f"sampler '{name}' takes one metric; use tpe, nsga2, random, qmc or grid")
    takes_constraints = name in ("tpe", "gp", "nsga2")
    if definition.search.constraints and takes_constraints:
        options["constraints_func"] = constraints_of
    samplers = optuna.samplers
    makers: dict[str, Callable[..., BaseSampler]] = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "gp": samplers.GPSampler,
        "cmaes": samplers.CmaEsSampler,
        "qmc": samplers.QMCSampler,
        "nsga2": samplers.NSGAIISampler,
        "grid": lambda **kwargs: samplers.GridSampler(space.grid(definition), **kwargs),
    }
    for needed, package in (("gp", "torch"), ("cmaes", "cmaes")):
        if name == needed and importlib.util.find_spec(package) is None:
            raise UsageError(f"sampler '{name}' needs {package}; pip install 'search[{name}]'")
    if name == "tpe":
        options.setdefault("constant_liar", True)
    if name == "qmc":
        options.setdefault("scramble", True)
        options.setdefault("warn_independent_sampling", False)
    try:
        return makers[name](seed=seed, **options)
    except (TypeError, ValueError) as error:
        raise StudyFileError(
            str(definition.path), "search.sampler_options", one_line(error), "see Optuna's sampler of that name"
        ) from None


def make_pruner(definition: Definition, name: str) -> BasePruner:
    """Return the pruner of this name; studies with several metrics are never pruned.

    Raises:
        StudyFileError: The pruner does not take the options.
    """
    pruners, options = optuna.pruners, dict(definition.search.pruner_options)
    makers: dict[str, Callable[..., BasePruner]] = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "percentile": lambda percentile=25.0, **kwargs: pruners.PercentilePruner(percentile, **kwargs),
        "hyperband": pruners.HyperbandPruner,
        "asha": pruners.SuccessiveHalvingPruner,
        "patient": lambda patience=5, **kwargs: pruners.PatientPruner(pruners.MedianPruner(), patience, **kwargs),
        "wilcoxon": pruners.WilcoxonPruner,
    }
    try:
        return pruners.NopPruner() if len(definition.metrics) > 1 else makers[name](**options)
    except (TypeError, ValueError) as error:
        raise StudyFileError(
            str(definition.path), "search.pruner_options", one_line(error), "see Optuna's pruner of that name"
        ) from None


def constraints_of(trial: FrozenTrial) -> Sequence[float]:
    """Return how far a trial is beyond each constraint; at most 0 where it is met."""
    return list(trial.user_attrs.get(CONSTRAINTS, ()))


def violations(definition: Definition, metrics: dict[str, float]) -> list[float]:
    """Return how far these metrics are beyond each of the study's constraints."""
    beyond = []
    for text in definition.search.constraints:
        metric, operator, bound = parse_constraint(text)
        value = metrics.get(metric, float("inf"))
        beyond.append(value - bound if operator == "<=" else bound - value)
    return beyond


def feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial meets the study's constraints."""
    return all(each <= 0 for each in constraints_of(trial))


def create(
    definition: Definition, name: str, storage: BaseStorage, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """Create the study, or load it when it exists.

    Raises:
        StorageError: The study exists with other directions or a space Optuna cannot continue.
    """
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=list(definition.directions),
            load_if_exists=True,
        )
    except ValueError as error:
        raise StorageError(
            f"study '{name}': {one_line(error)}; keep metric and direction, or use --study-name"
        ) from None
    directions = tuple(each.name.lower() for each in study.directions)
    kept = study.user_attrs.get("metric", list(definition.metrics))
    if directions != definition.directions or kept != list(definition.metrics):
        raise StorageError(
            f"study '{name}' was begun with metric {', '.join(kept)} ({', '.join(directions)}); "
            "put metric and direction back, or start anew with --study-name"
        )
    if "metric" not in study.user_attrs:
        study.set_user_attr("metric", list(definition.metrics))
    space.check_unchanged(definition, study.get_trials(deepcopy=False))
    return study


def best_trials(definition: Definition, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the feasible complete trials, best first.

    With several metrics the Pareto front comes first, ordered by the stated rule: nearest to the
    ideal point, each metric scaled to the front's range; then the rest by their first metric.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and feasible(t)]
    signs = [1 if direction == "minimize" else -1 for direction in definition.directions]
    costs = {t.number: [s * v for s, v in zip(signs, t.values, strict=True)] for t in complete}
    if len(signs) == 1:
        return sorted(complete, key=lambda t: (costs[t.number], t.number))
    front = [t for t in complete if not any(_dominates(costs[o.number], costs[t.number]) for o in complete)]
    lows = [min((costs[t.number][i] for t in front), default=0.0) for i in range(len(signs))]
    highs = [max((costs[t.number][i] for t in front), default=0.0) for i in range(len(signs))]

    def distance(trial: FrozenTrial) -> float:
        scaled = zip(costs[trial.number], lows, highs, strict=True)
        return sum(((cost - low) / (high - low)) ** 2 for cost, low, high in scaled if high > low)

    front_numbers = {t.number for t in front}
    rest = [t for t in complete if t.number not in front_numbers]
    return sorted(front, key=lambda t: (distance(t), t.number)) + sorted(rest, key=lambda t: costs[t.number])


def pareto_front(definition: Definition, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the feasible complete trials that no other is better than in every metric."""
    signs = [1 if direction == "minimize" else -1 for direction in definition.directions]
    complete = [t for t in trials if t.state == TrialState.COMPLETE and feasible(t)]
    costs = [[s * v for s, v in zip(signs, t.values, strict=True)] for t in complete]
    return [t for t, cost in zip(complete, costs, strict=True) if not any(_dominates(o, cost) for o in costs)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def describe(url: str) -> str:
    """Return a storage URL without its credentials."""
    return redact(url)


def warm_start(definition: Definition) -> list[dict[str, Any]]:
    """Return the configurations of another study's best trials that lie in this study's space.

    Raises:
        StorageError: There is no such study.
    """
    wanted = definition.search.warm_start
    if wanted is None:
        return []
    url = wanted.storage or default_storage(wanted.study)
    if "://" not in url and not Path(url).is_file():
        raise StorageError(f"search.warm_start: no journal {url}; name the other study's storage")
    try:
        other = optuna.load_study(study_name=wanted.study, storage=open_storage(url))
    except KeyError:
        raise StorageError(f"search.warm_start: no study '{wanted.study}' in {url}") from None
    complete = [t for t in other.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(other.directions) == len(definition.directions):
        complete = best_trials(definition, complete)
    inside = [
        {name: value for name, value in trial.params.items() if space.contains(definition, name, value)}
        for trial in complete[: wanted.n_trials]
    ]
    return [configuration for configuration in inside if configuration]
