"""The files of a study: its own alone, whatever its name and that of its journal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.study import attributes, create
from search.study.files import Lock, StudyFiles, checkpoint_name
from search.study.storage import open_storage
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.system import whole

DEFINITION = {"name": "one", "metric": "val_loss", "direction": "minimize", "data": {"source": "sklearn:make_blobs"}}


@pytest.fixture
def definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.chdir(tmp_path)
    return parse_definition(
        {**DEFINITION, "space": {"epochs": {"type": "int", "low": 1, "high": 2}}}, tmp_path / "s.toml"
    )


def opened(definition: Definition, name: str, storage: str = "studies/one.journal") -> StudyFiles:
    settings = resolve(definition, study_name=name, storage=storage)
    return StudyFiles(study_in(definition, name, storage), settings)


def study_in(definition: Definition, name: str, storage: str = "studies/one.journal") -> optuna.Study:
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    return create.create(definition, name, open_storage(storage), sampler, pruner)


def test_two_studies_of_one_journal_share_nothing(definition: Definition) -> None:
    """The best model of one would be logged to a trial of the other."""
    one, other = opened(definition, "one"), opened(definition, "other")
    one.put_model(0, b"model")
    (one.checkpoints / checkpoint_name(0)).mkdir(parents=True)
    assert (one.waiting(), one.goes_on(0)) == ({0}, True)
    assert (other.waiting(), other.goes_on(0)) == (set(), False)


def test_a_new_study_has_nothing_of_one_that_is_gone(definition: Definition) -> None:
    """A new study would train on from an old study's checkpoint, on other data."""
    old = opened(definition, "one")
    (old.checkpoints / checkpoint_name(0)).mkdir(parents=True)
    old.put_model(0, b"model")
    Path("studies/one.journal").unlink()
    legacy = Path("studies/one.spool").absolute()
    legacy.mkdir()
    (legacy / "trial-00000.keras").write_bytes(b"model")
    checkpoints = Path("studies/one.checkpoints/one-00000").absolute()
    checkpoints.mkdir(parents=True)
    new = opened(definition, "one")
    new.take_over()
    assert (new.waiting(), new.goes_on(0)) == (set(), False)
    assert new.strangers() == [old.folder, legacy, checkpoints.parent]
    assert old.model(0).exists()
    assert checkpoints.exists()


def test_a_journal_that_is_renamed_keeps_its_files(definition: Definition) -> None:
    """Whoever puts a finished journal aside would lose the models that wait for MLflow."""
    opened(definition, "one").put_model(3, b"model")
    Path("studies/one.journal").rename("studies/kept.journal")
    assert opened(definition, "one", "studies/kept.journal").waiting() == {3}
    assert opened(definition, "one").waiting() == set()


def begun_with_version_0_1(definition: Definition, name: str, search_id: str) -> optuna.Study:
    """Return a study as version 0.1 wrote it: a search's record and a running trial, no identity."""
    study = optuna.create_study(study_name=name, storage=open_storage("studies/one.journal"))
    attributes.set_search(study, search_id, {"n_trials": 2, "state": "running", "began": "2026", "pid": 1})
    study.add_trial(create_trial(state=TrialState.RUNNING, system_attrs={attributes.SEARCH_RUN: search_id}))
    whole.write(Path(f"studies/one.checkpoints/{name}-00000/last/state.pickle"), b"state")
    whole.write(Path(f"studies/one.spool/{search_id}.data"), b"data")
    return study


def test_a_study_of_version_0_1_goes_on_with_its_files(definition: Definition) -> None:
    """Models that wait for MLflow, and hours of training, would be lost by an upgrade."""
    study = begun_with_version_0_1(definition, "one", "abc")
    study.add_trial(create_trial(state=TrialState.FAIL))
    whole.write(Path("studies/one.spool/trial-00007.keras"), b"model")
    whole.write(Path("studies/one.spool/abc.stop"), b"")
    whole.write(Path("studies/one.checkpoints/one-00001/last/state.pickle"), b"of a trial that ended by its time limit")
    files = opened(definition, "one")
    lock = Lock(Path("studies/one.spool/abc.lock"))
    assert lock.take()
    files.take_over()
    assert files.waiting() == set(), "a search of that version runs"
    lock.release()
    files.take_over()
    assert (files.waiting(), files.goes_on(0)) == ({7}, True)
    assert (files.folder / "abc.data").read_bytes() == b"data"
    assert not files.stop_file("abc").exists()
    assert {each.name for each in Path("studies").iterdir()} == {"one.journal", files.folder.name}
    assert opened(definition, "one").waiting() == {7}


def test_models_that_may_be_another_studys_are_left_alone(definition: Definition) -> None:
    """The models of two studies of one journal lay in one folder: one would get the other's."""
    begun_with_version_0_1(definition, "one", "abc")
    begun_with_version_0_1(definition, "other", "def")
    whole.write(Path("studies/one.spool/trial-00000.keras"), b"whose?")
    for name in ("one", "other"):
        files = opened(definition, name)
        files.take_over()
        assert (files.waiting(), files.goes_on(0)) == (set(), True)
    assert Path("studies/one.spool/trial-00000.keras").exists()


def test_a_search_that_is_claimed_is_not_asked_to_stop(definition: Definition) -> None:
    """After Ctrl-C twice `--resume` could never train again."""
    files = opened(definition, "one")
    files.folder.mkdir()
    files.stop_file("abc").touch()
    lock = files.claim("abc")
    assert lock is not None
    assert not files.stop_file("abc").exists()
    assert files.claim("abc") is None
    assert files.claimed("abc") is True
    lock.release()
    assert files.claimed("abc") is False
    assert files.claimed("def") is None


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """A killed search would count as running for ever."""
    path = tmp_path / "a.lock"
    code = "import sys; from pathlib import Path; from search.study.files import Lock; l = Lock(Path(sys.argv[1]))"
    code += "; print(l.take(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert Lock(path).taken()
        process.kill()
    assert not Lock(path).taken()


def test_the_folder_goes_with_the_last_file(definition: Definition) -> None:
    """Folders of searches that are over would pile up; those of kills have half a file in them."""
    files = opened(definition, "one")
    files.put_model(0, b"model")
    files.put_data("abc", {})
    (files.checkpoints / checkpoint_name(1)).mkdir(parents=True)
    (files.folder / ".trial-00002.keras-x").mkdir()
    files.forget_model(0)
    files.forget("abc")
    assert files.goes_on(1)
    files.forget_checkpoint(1)
    assert not files.folder.exists()


def test_searches_that_create_a_study_at_once_agree_on_its_identity(definition: Definition, tmp_path: Path) -> None:
    """Two searches that begin together would look for the study's files in two folders."""
    code = """
import sys, optuna
from pathlib import Path
from search.study import attributes, create
from search.study.storage import open_storage
from search.studyfile.load import load_definition
definition = load_definition(Path(sys.argv[1]))
sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
print("ready", flush=True)
input()
print(attributes.identity_of(create.create(definition, "one", open_storage("studies/new.journal"), sampler, pruner)))
"""
    file = tmp_path / "one.toml"
    file.write_text(
        'name = "one"\nmetric = "val_loss"\ndirection = "minimize"\n[data]\nsource = "sklearn:make_blobs"\n'
        '[space]\nepochs = { type = "int", low = 1, high = 2 }\n'
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    said = {each.communicate(timeout=60)[0] for each in started}
    assert len(said) == 1
    assert len(said.pop().strip()) == 32


def test_the_files_lie_where_something_can_be_written(
    definition: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container whose working folder is read-only, with all else remote, a search would train nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    url = f"sqlite:///{tmp_path}/kept/one.db"
    (tmp_path / "kept").mkdir()
    study = study_in(definition, "one", url)
    assert StudyFiles(study, resolve(definition, storage=url)).folder.parent == tmp_path / "kept"
    served = resolve(definition, storage="postgresql://host/one")
    assert StudyFiles(study, served).folder.parent == tmp_path / "studies"
    shutil.rmtree(tmp_path / "studies", ignore_errors=True)
    (tmp_path / "studies").touch()  # nothing can be written below it
    files = StudyFiles(study, served)
    assert files.folder.parent == tmp_path / "home" / "search"
    files.put_model(0, b"model")
    (tmp_path / "studies").unlink()
    assert StudyFiles(study, served).waiting() == {0}, "what is there is found, wherever it was put"
    attributes.set_state(study, str(tmp_path / "chosen"))
    assert StudyFiles(study, served).folder.parent == tmp_path / "chosen"
