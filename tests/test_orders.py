"""Orders to a running search arrive in the study's storage, whichever it is: one contract for each of them."""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search import resume
from search.budget import Progress
from search.context import Context
from search.errors import UsageError
from search.optimize import Search, _sampling
from search.study import attributes, create, orders, ranking
from search.study.comparable import comparable_study
from search.study.files import StudyFiles
from search.study.orders import Order
from search.study.storage import open_storage
from search.studyfile.settings import resolve
from search.training.result import Epoch, TrialResult
from search.workers import worker
from tests.studyfiles import definition

WIDE = {"space.epochs": {"type": "int", "low": 1, "high": 50}}
KINDS = ("journal", "sqlite", "postgresql")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real PostgreSQL."""
    pytest.importorskip("psycopg")
    server = pytest.importorskip("pgserver").get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage of each kind; the study's files lie in the working folder where it is a database."""
    monkeypatch.chdir(tmp_path)
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return str(tmp_path / "any.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/any.db"


class HeldSlot:
    """A slot whose trial trains until the test lets it end."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.number, self.stopped = -1, False

    def ready(self) -> bool:
        return True

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        assert function is worker.train
        self.future, self.number, self.stopped = Future(), args[1], False
        return self.future

    def lost(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True

    def trained(self, memory: int) -> None:
        pass

    def end(self) -> None:
        loss = 1 / (1 + self.number)
        epochs = (Epoch(0, 0.0, {"val_loss": loss}),)
        self.future.set_result(TrialResult(self.number, "complete", 0, (loss,), epochs, worker="here"))


class Steered:
    """A search in a thread, and the study as another process sees it."""

    def __init__(self, url: str, folder: Path, n_trials: int, changes: dict[str, Any] | None = None) -> None:
        wanted = definition({**WIDE, **(changes or {})}, folder=folder)
        name = f"steered-{time.monotonic_ns()}"
        self.settings = resolve(wanted, study_name=name, storage=url, n_trials=n_trials, offline=True)
        storage = open_storage(url)
        study = create.create(wanted, name, storage, optuna.samplers.RandomSampler(), optuna.pruners.NopPruner())
        files, self.slot, self.told = StudyFiles(study, self.settings), HeldSlot(), list[Progress]()
        self.claim = resume.begin(study, files, n_trials)
        job, anything = worker.Job(self.settings), Any
        pool: anything = None
        data: anything = None
        context = Context(
            self.settings, 0.0, study, storage, self.claim, files, pool, job, data, self.told.append, lambda _: None
        )
        self.search, self.study = Search(context), create.load(name, url)
        self.storage = open_storage(url)
        self._thread = threading.Thread(target=self.search.optimize, args=([self.slot],), daemon=True)

    def begin(self) -> None:
        self._thread.start()
        self.until(lambda: self.slot.number == 0)

    def end(self) -> None:
        """End each trial as soon as it runs, until the search is over."""
        ended = -1
        while self._thread.is_alive():
            if self.slot.number != ended and not self.slot.future.done():
                ended = self.slot.number
                self.slot.end()
            time.sleep(0.02)

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "the search did not come so far"
            time.sleep(0.02)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials(deepcopy=False)]

    def reason(self, number: int) -> str:
        text = attributes.outcome_of(self.study.get_trials(deepcopy=False)[number])
        return TrialResult.from_text(text).reason if text is not None else ""


def test_a_trial_that_somebody_enqueues_is_begun_next(url: str, tmp_path: Path) -> None:
    """A colleague's idea would wait for ever while the search goes on beside it."""
    steered = Steered(url, tmp_path, n_trials=6)
    steered.begin()
    steered.study.enqueue_trial({"epochs": 17, "batch_size": 32, "dropout": 0.25})
    steered.study.enqueue_trial({"epochs": 18})
    steered.study.enqueue_trial({"epochs": 99})
    steered.study.enqueue_trial({"depth": 3})
    steered.study.enqueue_trial({"epochs": 17, "batch_size": 32, "dropout": 0.25})
    steered.end()
    trials = steered.study.get_trials(deepcopy=False)
    assert steered.states() == ["COMPLETE"] * 3 + ["FAIL"] * 3
    assert trials[1].params == {"epochs": 17, "batch_size": 32, "dropout": 0.25}
    assert trials[2].params.keys() == {"epochs", "batch_size", "dropout"}, "what it lacks is sampled"
    assert trials[2].params["epochs"] == 18
    assert steered.reason(3) == "epochs = 99 is outside the space: use a whole number from 1 to 50"
    assert steered.reason(4) == "depth is not in [space], which has epochs, batch_size, dropout"
    assert steered.reason(5) == "its configuration was tried before, or is now"
    assert {each.system_attrs[attributes.SEARCH_RUN] for each in trials} == {steered.claim.record.search_id}


def test_a_trial_that_somebody_fails_ends_alone_and_is_not_tried_again(url: str, tmp_path: Path) -> None:
    """A click in optuna-dashboard would end the search, or the trial come back again and again."""
    one = {"space": {"epochs": {"type": "int", "low": 1, "high": 3}}}
    steered = Steered(url, tmp_path, n_trials=9, changes=one)
    steered.begin()
    tried = steered.study.get_trials(deepcopy=False)[0].params
    steered.study.tell(0, state=TrialState.FAIL)
    steered.until(lambda: steered.slot.number == 1)
    steered.end()
    assert steered.states() == ["FAIL", "COMPLETE", "COMPLETE"]
    assert tried not in [trial.params for trial in steered.study.get_trials(deepcopy=False)[1:]]
    assert steered.search.stopped == "every configuration of the space has been tried"
    assert [each.reason for each in steered.told if (each.number, each.state) == (0, "failed")] == [
        "somebody else ended it in the study's storage"
    ]


def test_a_trial_is_stopped_at_once(url: str, tmp_path: Path) -> None:
    """A trial that is seen to lead nowhere would take its hours."""
    steered = Steered(url, tmp_path, n_trials=2)
    steered.begin()
    order = Order("stop", now=True, reason="diverges")
    orders.give_to_trial(steered.study, steered.storage, 0, order)
    orders.give_to_trial(steered.study, steered.storage, 0, order)
    steered.until(lambda: steered.slot.number == 1)
    steered.end()
    assert steered.states() == ["PRUNED", "COMPLETE"]
    assert steered.reason(0) == str(order)
    assert f"stopped by {getpass.getuser()}@" in str(order)
    assert orders.of_trial(steered.study.get_trials(deepcopy=False)[0]) == order, "who, when and why stay with it"
    with pytest.raises(UsageError, match="trial 0 does not run, it is PRUNED"):
        orders.give_to_trial(steered.study, steered.storage, 0, order)
    with pytest.raises(UsageError, match="there is no trial 7; it has trials 0 to 1"):
        orders.give_to_trial(steered.study, steered.storage, 7, order)


@pytest.mark.parametrize(("now", "state"), [(False, "COMPLETE"), (True, "PRUNED")])
def test_a_search_is_ended_from_elsewhere(url: str, tmp_path: Path, now: bool, state: str) -> None:
    """Somebody would have to find the terminal, or kill the process and lose the registration."""
    steered = Steered(url, tmp_path, n_trials=50)
    steered.begin()
    order = Order("stop", now=now, reason="good enough")
    orders.give_to_search(steered.study, steered.claim.record.search_id, order)
    steered.until(lambda: bool(steered.search.stopped))
    steered.end()
    assert steered.states() == [state]
    assert steered.search.stopped == str(order)
    assert not steered.search.paused


def test_a_search_is_paused_and_resumed(url: str, tmp_path: Path) -> None:
    """The machine is needed for an hour, and the search would have to be begun anew; or obey the old order again."""
    steered = Steered(url, tmp_path, n_trials=3)
    steered.begin()
    search_id = steered.claim.record.search_id
    orders.give_to_search(steered.study, search_id, Order("pause", now=True))
    steered.until(lambda: steered.slot.stopped)
    steered.end()
    assert steered.search.paused
    assert steered.states() == ["FAIL"]
    steered.claim.ended("interrupted", steered.search.stopped)
    unfinished = resume.claim_interrupted(steered.study, StudyFiles(steered.study, steered.settings), 1)
    assert unfinished.left == 3
    assert [each.params for each in unfinished.first] == [steered.study.trials[0].params]
    assert orders.of_search(steered.study, search_id) is not None


def test_an_excluded_trial_never_counts(url: str, tmp_path: Path) -> None:
    """A trial that saw the test rows would stay best, whatever anybody knows of it."""
    steered = Steered(url, tmp_path, n_trials=3)
    steered.begin()
    with pytest.raises(UsageError, match="trial 0 has not finished; stop it first"):
        orders.exclude(steered.study, 0, Order("exclude", reason="leaked"))
    steered.end()
    wanted, study = steered.settings.definition, steered.study
    assert [each.number for each in ranking.leading_trials(wanted, study)] == [2, 1, 0]
    assert orders.exclude(study, 2, Order("exclude", reason="leaked"))
    assert not orders.exclude(study, 2, Order("exclude", reason="leaked")), "given twice it is the same"
    assert [each.number for each in ranking.leading_trials(wanted, study)] == [1, 0]
    comparable = comparable_study(study)
    assert [each.number for each in comparable.get_trials()] == [0, 1], "pruners do not compare with it"
    assert orders.exclude(study, 2, Order("include"))
    assert [each.number for each in ranking.leading_trials(wanted, study)] == [2, 1, 0]
    assert [each.kind for each in orders.exclusions(study)[2]] == ["exclude", "include"]


def test_searches_that_run_at_once_draw_different_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people who begin together would train the same configurations."""
    monkeypatch.chdir(tmp_path)
    first = Steered(str(tmp_path / "any.journal"), tmp_path, 5)
    proposed = first.search._sampling.propose()
    assert proposed is not None
    files = StudyFiles(first.study, first.settings)
    second = resume.begin(first.study, files, 5)
    try:
        own = _sampling(first.settings, first.study, second.record.search_id).propose()
        assert own is not None
        assert own.params != proposed.params
    finally:
        second.release()
        first.claim.release()
    resume.recover_killed_searches(first.study, first.storage, files, lambda _: None)
    third = resume.begin(first.study, files, 5)
    try:
        alone = _sampling(first.settings, first.study, third.record.search_id).propose()
        assert alone is not None
        assert alone.params == proposed.params
    finally:
        third.release()
