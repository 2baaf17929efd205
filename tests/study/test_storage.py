"""The Optuna study: storages, samplers' options, what may change, and which trial is best."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.errors import StorageError, StudyFileError, UsageError
from search.study import attributes, create, ranking, samplers, space, storage
from search.studyfile.schema import Definition
from tests.studyfiles import definition

TWO = {"metric": ["val_loss", "parameters"], "direction": ["minimize", "maximize"]}


def _create(wanted: Definition, url: str, name: str = "small") -> optuna.Study:
    return create.create(
        wanted, name, storage.open_storage(url), optuna.samplers.RandomSampler(0), optuna.pruners.NopPruner()
    )


@pytest.fixture(params=["journal", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"journal": f"{tmp_path}/deep/x.journal", "sqlite": f"sqlite:///{tmp_path}/x.db"}[request.param]


def test_a_study_is_created_continued_and_loaded(url: str) -> None:
    """Tomorrow's search would not know of today's trials."""
    begun = _create(definition(), url)
    begun.add_trial(create_trial(params={"epochs": 2}, distributions={"epochs": IntDistribution(1, 3)}, value=0.5))
    assert [t.value for t in _create(definition(), url).trials] == [0.5]
    loaded = create.load("small", url)
    assert [t.value for t in loaded.trials] == [0.5]
    assert loaded.user_attrs["metric"] == ["val_loss"]


def test_loading_what_is_not_there_says_so_and_creates_nothing(tmp_path: Path) -> None:
    """A mistyped name would leave an empty study behind, and a report about nothing."""
    for missing in (f"{tmp_path}/no/x.journal", f"sqlite:///{tmp_path}/x.db"):
        with pytest.raises(
            StorageError, match=r"study 'small': there is no .*; run the search first, or give its --storage"
        ):
            create.load("small", missing)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    with pytest.raises(StorageError, match=r"empty.db holds no study; give the storage that the search used"):
        create.load("small", f"sqlite:///{tmp_path}/empty.db")
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_loading_another_study_names_those_there_are(url: str) -> None:
    """A person would not know what their study is called."""
    _create(definition(), url)
    with pytest.raises(StorageError, match=r"no study 'smal' in .*; it has small; did you mean 'small'"):
        create.load("smal", url)


@pytest.mark.parametrize(
    "there",
    [
        "postgresql+psycopg://ann:s3cret@127.0.0.1:{port}/db",
        "sqlite:////no/such/folder/s3cret.db",
        "nonsense://ann:s3cret@host/db",
        "grpc://127.0.0.1:port",
        "sqlite://ann:s3cret@host/db",
    ],
)
def test_a_storage_that_cannot_be_used_is_told_in_seconds_without_password(there: str) -> None:
    """A person would wait for minutes, or read their password in the terminal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"^storage ") as raised:
        storage.open_storage(there.format(port=port))
    assert time.monotonic() - started < 15
    assert ":s3cret@" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg2", r"x: write postgresql\+psycopg://… and pip install 'search\[postgresql\]'$"),
        ("mysql", r"x: write mysql\+pymysql://… and pip install pymysql$"),
        ("mysql+pymysql", r"x: its driver 'pymysql' is not installed; pip install pymysql$"),
    ],
)
def test_a_missing_driver_is_named(url: str, said: str) -> None:
    """A person would be asked whether the database is up, and not know what to install."""
    with pytest.raises(StorageError, match=said):
        storage.open_storage(f"{url}://u:p@127.0.0.1:1/x")


def test_a_broken_journal_is_told(tmp_path: Path) -> None:
    """A file that is no journal would end in a traceback."""
    path = tmp_path / "x.journal"
    path.write_text("no json\n" * 3)
    with pytest.raises(StorageError, match=r"x.journal is not an Optuna journal"):
        storage.open_storage(str(path))


@pytest.mark.parametrize(
    "changes", [{"direction": "maximize"}, {"metric": "val_accuracy"}, TWO], ids=["direction", "metric", "several"]
)
def test_another_metric_or_direction_is_refused(url: str, changes: dict[str, Any]) -> None:
    """The best trial would be the worst one of the other direction."""
    _create(definition(), url)
    with pytest.raises(StorageError, match=r"was begun with metric val_loss \(minimize\); put .* --study-name"):
        _create(definition(changes), url)


def test_a_study_goes_on_in_a_changed_range_and_in_a_changed_space(url: str) -> None:
    """Optuna would raise in the middle of the night."""
    begun = _create(definition(), url)
    begun.add_trial(create_trial(params={"epochs": 2}, distributions={"epochs": IntDistribution(1, 3)}, value=0.5))
    _create(definition({"space.epochs": {"type": "int", "low": 1, "high": 30}}), url)
    changed = definition({"space.epochs": {"type": "categorical", "choices": [1, 2]}})
    study = _create(changed, url)
    now = space.distributions(changed)["epochs"]
    kept = space.storable(now, space.first_distributions(study.get_trials(deepcopy=False))["epochs"])
    study.add_trial(create_trial(params={"epochs": 1}, distributions={"epochs": kept}, value=0.25))
    found = create.load("small", url).get_trials()
    assert [each.distributions["epochs"] for each in found] == [IntDistribution(1, 3), now]
    assert [each.params["epochs"] for each in found] == [2, 1]


# Samplers and pruners


@pytest.mark.parametrize("name", ["tpe", "random", "cmaes", "qmc", "nsga2", "grid"])
def test_every_sampler_is_made(name: str) -> None:
    """A sampler that the help names would not exist."""
    assert isinstance(samplers.make_sampler(definition(), name, 1), optuna.samplers.BaseSampler)


@pytest.mark.parametrize("name", ["none", "median", "percentile", "hyperband", "asha", "patient", "wilcoxon"])
def test_every_pruner_is_made(name: str) -> None:
    """A pruner that the help names would not exist."""
    assert isinstance(samplers.make_pruner(definition(), name), optuna.pruners.BasePruner)


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("tpe", {"n_startup_trails": 3}, "n_startup_trails: no option .*did you mean 'n_startup_trials'"),
        ("tpe", {"n_startup_trials": "ten"}, "n_startup_trials: 'ten'; use a whole number"),
        ("tpe", {"multivariate": 1}, "multivariate: 1; use true or false"),
        ("tpe", {"prior_weight": 2.0}, "sampler_options: FutureWarning: `prior_weight` has been deprecated"),
        ("tpe", {"gamma": "x"}, "gamma: no option of a study file"),
        ("tpe", {"seed": 3}, "seed: set elsewhere; use search.seed"),
        ("tpe", {"group": True, "multivariate": False}, "sampler_options: ValueError: .*multivariate"),
        ("grid", {"search_space": {}}, "search_space: no option of a study file; GridSampler takes none"),
    ],
)
def test_a_wrong_sampler_option_is_told(sampler: str, options: dict[str, Any], message: str) -> None:
    """Optuna would take it silently, and fail in the first trial that samples."""
    wanted = definition({"search.sampler": sampler, "search.sampler_options": options})
    with pytest.raises(StudyFileError, match=message):
        samplers.make_sampler(wanted, sampler, 0)


@pytest.mark.parametrize(
    ("pruner", "options", "message"),
    [
        ("median", {"n_warmup_step": 3}, "pruner_options.n_warmup_step: .*did you mean 'n_warmup_steps'"),
        ("percentile", {"percentile": 250.0}, "pruner_options: ValueError"),
        ("asha", {"reduction_factor": 1}, "pruner_options: ValueError"),
        ("asha", {"min_resource": 1.5}, "min_resource: 1.5; use a whole number or text"),
    ],
)
def test_a_wrong_pruner_option_is_told(pruner: str, options: dict[str, Any], message: str) -> None:
    """A misspelt option would prune otherwise than the person thinks."""
    with pytest.raises(StudyFileError, match=message):
        samplers.make_pruner(definition({"search.pruner": pruner, "search.pruner_options": options}), pruner)


def test_options_are_for_the_sampler_that_the_file_names() -> None:
    """`--sampler random`, or a worker's own sampler, would fail on options meant for another."""
    wanted = definition({"search.sampler": "nsga2", "search.sampler_options": {"population_size": 4}})
    assert isinstance(samplers.make_sampler(wanted, "random", 0), optuna.samplers.RandomSampler)
    assert samplers.make_sampler(wanted, "nsga2", 0)._population_size == 4  # type: ignore[attr-defined]
    pruned = definition({"search.pruner": "patient", "search.pruner_options": {"patience": 2}})
    assert isinstance(samplers.make_pruner(pruned, "median"), optuna.pruners.MedianPruner)


def test_what_takes_one_metric_refuses_several() -> None:
    """The search would stop with Optuna's traceback at the first proposal."""
    for name in ("cmaes", "gp"):
        with pytest.raises(
            UsageError, match=f"'{name}' takes one metric; use 'tpe', 'random', 'qmc', 'grid' or 'nsga2'$"
        ):
            samplers.make_sampler(definition(TWO), name, 0)
    assert isinstance(samplers.make_pruner(definition(TWO), "median"), optuna.pruners.NopPruner)


def test_a_later_search_draws_other_configurations() -> None:
    """A second search with the same seed would draw the first one's configurations again."""
    trials = [_trial(0, 1.0)]
    first, later = (samplers.make_sampler(definition(), "random", 0, finished) for finished in ([], trials))
    drawn = [optuna.create_study(sampler=each).ask({"x": IntDistribution(0, 10**6)}).params for each in (first, later)]
    assert drawn[0] != drawn[1]


# Which is best


def _trial(
    number: int, *values: float, state: TrialState = TrialState.COMPLETE, beyond: float | None = None
) -> FrozenTrial:
    written = {} if beyond is None else {attributes.CONSTRAINTS: [beyond]}
    trial = create_trial(state=state, values=list(values) if state == TrialState.COMPLETE else None, user_attrs=written)
    trial.number = number
    return trial


@pytest.mark.parametrize(("direction", "order"), [("minimize", [2, 0, 3]), ("maximize", [0, 3, 2])])
def test_the_best_come_first(direction: str, order: list[int]) -> None:
    """The worst model would be registered."""
    trials = [
        _trial(0, 2.0),
        _trial(1, state=TrialState.PRUNED),
        _trial(2, 1.0),
        _trial(3, 2.0),
        _trial(4, state=TrialState.FAIL),
    ]
    assert [t.number for t in ranking.best_trials(definition({"direction": direction}), trials)] == order
    assert ranking.best_trials(definition(), []) == []


def test_what_misses_a_constraint_is_never_best() -> None:
    """A model too slow to serve would be registered."""
    trials = [
        _trial(0, 1.0, beyond=0.5),
        _trial(1, 2.0, beyond=0.0),
        _trial(2, 0.5, beyond=float("nan")),
        _trial(3, 3.0),
    ]
    assert [t.number for t in ranking.best_trials(definition(), trials)] == [1, 3]
    assert not ranking.feasible(trials[0])


def test_the_pareto_front_comes_first_its_middle_before_its_ends() -> None:
    """With several metrics the registered model would be one that another beats in everything."""
    trials = [
        _trial(0, 1.0, 1.0),
        _trial(1, 9.0, 9.0),
        _trial(2, 2.0, 8.0),
        _trial(3, 9.5, 0.5),
        _trial(4, 0.0, 9.5, beyond=1.0),
    ]
    wanted = definition(TWO)
    assert [t.number for t in ranking.pareto_front(wanted, trials)] == [0, 1, 2]
    assert [t.number for t in ranking.best_trials(wanted, trials)] == [2, 0, 1, 3]
    assert [t.number for t in ranking.best_trials(wanted, [trials[3]])] == [3]
    assert ranking.pareto_front(wanted, []) == []


@pytest.mark.parametrize("metrics", [2, 3])
def test_the_pareto_front_holds_every_trial_that_no_other_dominates(metrics: int) -> None:
    """A model that trades one metric for another would be missing, or a worse one be offered beside it."""
    directions = ["minimize", "maximize", "minimize"][:metrics]
    wanted = definition({"metric": ["val_loss", "val_accuracy", "parameters"][:metrics], "direction": directions})
    values = np.random.default_rng(0).integers(0, 6, (80, metrics)).astype(float)  # many are equal
    trials = [_trial(number, *each) for number, each in enumerate(values)]
    costs = values * [1 if each == "minimize" else -1 for each in directions]
    dominated = [any((other <= cost).all() and (other < cost).any() for other in costs) for cost in costs]
    front = [trial.number for trial in ranking.pareto_front(wanted, trials)]
    assert front == [number for number, worse in enumerate(dominated) if not worse]


def test_equal_trials_are_both_on_the_front() -> None:
    """Two equal trials would drive each other from the front, and nothing be registered."""
    assert len(ranking.pareto_front(definition(TWO), [_trial(0, 1.0, 1.0), _trial(1, 1.0, 1.0)])) == 2


def test_of_equal_trials_the_first_stands_first_whichever_ended_first(tmp_path: Path) -> None:
    """The best trial's model would not be kept, and the search end in an error."""
    wanted = definition({"metric": "val_accuracy", "direction": "maximize"})
    study = _create(wanted, f"{tmp_path}/ties.journal", "ties")
    study.add_trial(create_trial(state=TrialState.RUNNING))
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0))
    assert ranking.worth_keeping(wanted, study, (1.0,), 0, 1), "trial 1 ended first, trial 0 stands before it"
    assert not ranking.worth_keeping(wanted, study, (1.0,), 2, 1)
    ranked = ranking.best_trials(wanted, [_trial(1, 1.0), _trial(0, 1.0), _trial(2, 0.5)])
    assert [each.number for each in ranked] == [0, 1, 2]


# Warm start


def test_the_best_of_another_study_are_tried_where_they_fit(tmp_path: Path) -> None:
    """A warm start would begin with the other study's worst, or with values outside the space."""
    url = f"{tmp_path}/other.journal"
    other = _create(definition(), url, "other")
    for epochs, value in ((2, 0.5), (3, 0.1), (9, 0.2)):
        known = {"epochs": IntDistribution(1, 9), "layers": IntDistribution(1, 9)}
        other.add_trial(create_trial(params={"epochs": epochs, "layers": 2}, distributions=known, value=value))
    wanted = definition({"search.warm_start": {"study": "other", "storage": url, "n_trials": 3}})
    assert create.warm_start(wanted) == [{"epochs": 3}, {"epochs": 2}]
    assert create.warm_start(definition()) == []


def test_a_warm_start_from_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search would begin cold without a word, or leave an empty database behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=r"search.warm_start: study 'other': there is no studies/other.journal"):
        create.warm_start(definition({"search.warm_start": {"study": "other"}}))
    with pytest.raises(StorageError, match=r"search.warm_start: .*there is no .*x.db"):
        create.warm_start(definition({"search.warm_start": {"study": "other", "storage": "sqlite:///x.db"}}))
    assert list(tmp_path.iterdir()) == []


def test_a_warm_start_is_looked_for_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt study would be told once a journal and a store were made; a path would start where the user stands."""
    studies = tmp_path / "studies"
    _create(definition(), f"{studies}/other.journal", "other")
    monkeypatch.chdir(tmp_path)
    wanted = definition({"search.warm_start": {"study": "other", "storage": "other.journal"}}, folder=studies)
    create.check_warm_start(wanted, "new", "studies/new.journal")
    wrong = definition({"search.warm_start": {"study": "othr", "storage": "other.journal"}}, folder=studies)
    with pytest.raises(StorageError, match=r"search.warm_start: no study 'othr' in .*; did you mean 'other'"):
        create.check_warm_start(wrong, "new", "studies/new.journal")
    assert not (studies / "new.journal").exists()
