"""Which searches live: nobody's trials are ended by another search that sees neither its process nor its clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search import resume
from search.study import attributes, create
from search.study.files import Lock, StudyFiles
from search.study.storage import open_storage
from search.studyfile.load import parse_definition
from search.studyfile.settings import resolve
from search.system import machine

STUDY = {"name": "one", "metric": "val_loss", "direction": "minimize", "data": {"source": "sklearn:make_blobs"}}
OTHER_CONTAINER = {"namespace": "pid:[1]"}
OTHER_MACHINE = {"host": "other", "boot_id": "other"}


class Kept:
    """A study with a search noted as running, and a trial of it."""

    def __init__(self, folder: Path, **process: Any) -> None:
        space = {"epochs": {"type": "int", "low": 1, "high": 2}}
        self.definition = parse_definition({**STUDY, "space": space}, folder / "one.toml")
        settings = resolve(self.definition, storage=str(folder / "one.journal"))
        self.storage = open_storage(settings.storage)
        sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
        self.study = create.create(self.definition, "one", self.storage, sampler, pruner)
        self.files = StudyFiles(self.study, settings)
        self.record = resume.SearchRecord("abc", 2, **{**asdict(machine.this_process()), **process})
        self.record.write(self.study)
        self.study.add_trial(create_trial(state=TrialState.RUNNING, system_attrs={attributes.SEARCH_RUN: "abc"}))

    def recovered(self) -> bool:
        found = resume.recover_killed_searches(self.study, self.storage, self.files)
        failed = self.study.get_trials(deepcopy=False)[0].state == TrialState.FAIL
        assert failed == (found == {"abc"})
        return failed

    @contextmanager
    def beating(self, ahead: float) -> Iterator[None]:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(0.1):
                replace(self.record, beat=time.time() + ahead).write(self.study)

        thread = threading.Thread(target=beat)
        thread.start()
        yield
        over.set()
        thread.join()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_WATCH_SECONDS", 2)


@pytest.mark.parametrize("process", [OTHER_CONTAINER, OTHER_MACHINE], ids=["container", "machine"])
@pytest.mark.parametrize("ahead", [-121, -86_400, 0, 121])
def test_a_search_elsewhere_lives_whatever_the_clocks_say(tmp_path: Path, process: Any, ahead: float) -> None:
    """The second container's search would end the first one's trials as failed, and the first die of it."""
    kept = Kept(tmp_path, **process, beat=time.time() + ahead)
    with kept.beating(ahead):
        assert not kept.recovered()


@pytest.mark.parametrize("process", [OTHER_CONTAINER, OTHER_MACHINE], ids=["container", "machine"])
def test_a_search_elsewhere_that_does_not_beat_is_dead(tmp_path: Path, process: Any) -> None:
    """Trials of a machine that was switched off would stay RUNNING for ever."""
    assert Kept(tmp_path, **process, beat=time.time() - 1_000).recovered()


def test_a_search_of_this_machine_is_known_by_its_process(tmp_path: Path) -> None:
    """A clock that is set would end a search that runs beside this one."""
    assert not Kept(tmp_path, beat=time.time() - 1_000).recovered()
    assert Kept(tmp_path / "gone", started=1.0, beat=time.time()).recovered(), "another process has its number now"


def test_a_lock_decides_in_another_container_of_this_machine(tmp_path: Path) -> None:
    """A container that is gone would keep its trials RUNNING; one that lives would lose them."""
    kept = Kept(tmp_path, **OTHER_CONTAINER, beat=time.time())
    kept.files.folder.mkdir()
    lock = Lock(kept.files.folder / "abc.lock")
    assert lock.take()
    assert not kept.recovered()
    lock.release()
    assert kept.recovered()


def test_a_search_that_could_not_note_its_end_is_over_in_a_process_that_goes_on(tmp_path: Path) -> None:
    """Whoever makes room on a full disk could not resume the search in the same notebook."""
    kept = Kept(tmp_path, beat=time.time())
    lock = kept.files.claim("abc")
    assert lock is not None
    assert not kept.recovered()
    lock.release()
    assert kept.recovered()


def test_a_search_beats_whatever_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the leading trials are trained again, another machine would take the search for dead."""
    kept = Kept(tmp_path)
    monkeypatch.setattr(resume, "BEAT_SECONDS", 0.05)
    claim = resume.begin(kept.study, kept.files, 1)
    beats = set()
    while len(beats) < 3:
        beats.add(attributes.searches_of(kept.study)[claim.record.search_id]["beat"])
    claim.ended("finished")
    assert attributes.searches_of(kept.study)[claim.record.search_id]["state"] == "finished"


def test_a_trial_whose_end_was_written_does_not_go_on(tmp_path: Path) -> None:
    """It would be trained a second time when its search is resumed."""
    kept = Kept(tmp_path, started=1.0)
    checkpoint = kept.files.checkpoints / "00000"
    checkpoint.mkdir(parents=True)
    assert resume.recover_killed_searches(kept.study, kept.storage, kept.files) == {"abc"}
    assert kept.study.get_trials(deepcopy=False)[0].state == TrialState.RUNNING, "it goes on with --resume"
    replace(kept.record).write(kept.study)
    ended = resume.TrialResult(0, "failed", 0, reason="too large")
    attributes.set_outcome(kept.storage, attributes.id_of(kept.storage, kept.study, 0), ended.as_text())
    assert kept.recovered()
    assert not checkpoint.exists()


def test_what_is_resumed_is_the_newest_interrupted_search(tmp_path: Path) -> None:
    """A search that only owes MLflow its trials would be resumed in the place of one that has trials left."""
    kept = Kept(tmp_path)
    for began, search_id, state in (("1", "abc", "interrupted"), ("2", "def", "trained"), ("3", "ghi", "finished")):
        resume.SearchRecord(search_id, 2, state, began).write(kept.study)
    found = resume.to_resume(kept.study)
    assert found is not None
    assert found.search_id == "abc"
    resume.SearchRecord("abc", 2, "finished", "1").write(kept.study)
    assert (resume.to_resume(kept.study) or kept.record).search_id == "def"


def test_what_a_search_was_to_train_first_is_not_lost_with_it(tmp_path: Path) -> None:
    """The champion's configuration would never be trained on the new rows, where the search ended early."""
    kept, basis = Kept(tmp_path), {"rows": "a", "parts": "", "split": {}, "code": {}, "set": {}, "searched": []}
    resume.SearchRecord("abc", 2, "interrupted", "1", basis=basis, first=[{"epochs": 1}, {"epochs": 2}]).write(
        kept.study
    )
    epochs = optuna.distributions.IntDistribution(1, 2)
    kept.study.add_trial(create_trial(value=0.0, params={"epochs": 2}, distributions={"epochs": epochs}))
    attributes.set_data(kept.study, basis, 0)
    assert resume.left_to_try(kept.definition, kept.study, basis) == [{"epochs": 1}]
    assert resume.left_to_try(kept.definition, kept.study, {**basis, "rows": "b"}) == []
