"""Whole searches in this process: real workers, a real journal, a real MLflow store."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from search.budget import Progress
from search.errors import NoTrialCompleted, StorageError
from search.handover.syncing import sync
from search.resume import search_records
from search.session import search
from search.study import attributes
from search.study.files import StudyFiles
from search.study.storage import open_storage
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.system import machine
from search.tracking import registry
from tests.conftest import Searcher

Tiny = Callable[..., Definition]

FATES = """
import keras

from search.training.model import mlp


def build(trial, data):
    number = trial.number
    if number == 1:
        raise RuntimeError("the user's own mistake")
    model = mlp(trial, data)
    if number == 2:
        model.compile(optimizer="adam", loss=lambda y, p: keras.ops.mean(p) * float("nan"))
    if number == 3:
        import tensorflow as tf

        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    return model
"""

DIES = """
import os
import signal
from pathlib import Path

from search.training.model import mlp


def build(trial, data):
    mark = Path(__file__).with_suffix(".killed")
    if trial.number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mlp(trial, data)
"""


def trial_runs(outcome_run: str) -> dict[int, Run]:
    """Return the runs nested under a search's run, by the number of their trial."""
    client = MlflowClient()
    experiment = client.get_run(outcome_run).info.experiment_id
    runs = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{outcome_run}'", max_results=1000)
    return {int(run.data.tags["trial"]): run for run in runs}


def optuna_states(name: str) -> Counter[str]:
    study = optuna.load_study(study_name=name, storage=open_storage(f"studies/{name}.journal"))
    return Counter(trial.state.name for trial in study.get_trials(deepcopy=False))


def test_a_failing_trial_fails_alone(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, one bad configuration ends the night's search, or hides among the finished runs."""
    outcome = run_search(tiny("fates", "fates.py:build", FATES), n_trials=5, pruner="none")
    assert outcome.n_trials == {"complete": 2, "pruned": 0, "failed": 3}
    runs = trial_runs(outcome.search_run_id)
    assert {number: run.info.status for number, run in runs.items()} == {
        0: "FINISHED",
        1: "FAILED",
        2: "FAILED",
        3: "FAILED",
        4: "FINISHED",
    }
    assert runs[1].data.tags["reason"].endswith(": RuntimeError: the user's own mistake")
    assert "nan" in runs[2].data.tags["reason"]
    assert "ResourceExhaustedError" in runs[3].data.tags["reason"]
    assert [run.data.tags["state"] for run in runs.values()].count("FAIL") == 3
    artifacts = {file.path for file in MlflowClient().list_artifacts(runs[1].info.run_id)}
    assert "traceback.txt" in artifacts
    assert MlflowClient().get_run(outcome.search_run_id).info.status == "FINISHED"


ENDED = """
from optuna.trial import TrialState

from search.training.model import mlp


def build(trial, data):
    if trial.number == 1:
        trial.study.tell(1, state=TrialState.FAIL)
    return mlp(trial, data)
"""


def test_a_trial_that_somebody_else_ended_ends_alone(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, a click on a trial in optuna-dashboard, or another search's cleaning up, ends the whole search."""
    told: list[Progress] = []
    outcome = run_search(tiny("ended", "ended.py:build", ENDED), told.append, n_trials=4, pruner="none")
    assert outcome.n_trials == {"complete": 3, "pruned": 0, "failed": 1}
    reasons = [each.reason for each in told if (each.number, each.state) == (1, "failed")]
    assert reasons == ["somebody else ended it in the study's storage"]
    assert trial_runs(outcome.search_run_id)[1].info.status == "FAILED"


def test_a_search_in_which_no_trial_completes_says_so_and_ends_early(tiny: Tiny) -> None:
    """If this fails, a search that produced nothing looks like one that did."""
    code = """
from search.training.model import mlp


def build(trial, data):
    if trial.study.study_name == "hopeless":
        raise ValueError("always")
    return mlp(trial, data)
"""
    settings = resolve(tiny("hopeless", "hopeless.py:build", code), n_trials=9, workers=1)
    said: list[str] = []
    with pytest.raises(NoTrialCompleted) as raised:
        search(settings, lambda _: None, said.append)
    assert str(raised.value) == (
        "no trial of study 'hopeless' completed (0 pruned, 4 failed; the last 4 trials failed for the same reason); "
        "first failure: hopeless.py, line 7, in build: ValueError: always"
    )
    assert said[-1] == "writing the outcome to MLflow", "nothing is drawn or registered"
    client = MlflowClient()
    experiment = client.get_experiment_by_name("hopeless")
    assert experiment is not None
    searches = client.search_runs([experiment.experiment_id], "tags.kind = 'search'")
    assert [run.info.status for run in searches] == ["FAILED"]
    trials = trial_runs(searches[0].info.run_id).values()
    assert {run.data.tags["reason"] for run in trials} == {"hopeless.py, line 7, in build: ValueError: always"}
    assert all("in build: ValueError: always" in run.data.tags["mlflow.note.content"] for run in trials)


def test_what_is_measured_once_is_one_point_at_one_step(tiny: Tiny, run_search: Searcher) -> None:
    """MLflow would draw a chart of one dot for each, some at step 1, some at 2, on an axis from -1 to 1."""
    outcome = run_search(tiny("once"), n_trials=1)
    (run,) = trial_runs(outcome.search_run_id).values()
    points = {name: MlflowClient().get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    steps = {name: [each.step for each in points[name]] for name in points}
    curves = {name for name in steps if len(steps[name]) > 1}
    assert {"loss", "val_loss"} <= curves
    assert {"objective", "parameters", "train_seconds", "test_loss"} <= steps.keys() - curves
    assert {name: steps[name] for name in steps.keys() - curves if steps[name] != [0]} == {}


def test_a_killed_worker_costs_one_trial(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, one out-of-memory kill ends the search, or its trial stays RUNNING for ever."""
    outcome = run_search(tiny("dies", "dies.py:build", DIES), n_trials=5, pruner="none")
    assert outcome.died == 1
    assert outcome.n_trials == {"complete": 5, "pruned": 0, "failed": 1}
    runs = trial_runs(outcome.search_run_id)
    assert runs[2].info.status == "FAILED"
    assert runs[2].data.tags["reason"] == "its worker died: signal 9 (out of memory?)"
    assert runs[3].data.params["width"] == runs[2].data.params["width"], "its configuration is tried once more"
    assert runs[3].info.status == "FINISHED"
    assert optuna_states("dies") == {"COMPLETE": 5, "FAIL": 1}


def test_pruned_trials_are_killed_runs_that_keep_their_epochs(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, pruned trials show as failed or finished, and their curves are lost."""
    more = '\n[search]\npruner = "median"\npruner_options = { n_startup_trials = 1, n_warmup_steps = 0 }\n'
    outcome = run_search(tiny("prunes", more=more), n_trials=12)
    pruned = [run for run in trial_runs(outcome.search_run_id).values() if run.data.tags["state"] == "PRUNED"]
    assert len(pruned) == outcome.n_trials["pruned"] > 0
    assert {run.info.status for run in pruned} == {"KILLED"}
    history = MlflowClient().get_metric_history(pruned[0].info.run_id, "val_loss")
    assert [metric.step for metric in history] == list(range(len(history)))
    assert len(history) >= 1
    assert pruned[0].info.end_time >= pruned[0].info.start_time


def test_four_workers_keep_the_budget_exactly(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, 40 trials come to 38 or 42, or Optuna and MLflow tell different stories."""
    outcome = run_search(tiny("budget"), n_trials=40, workers=4)
    states = optuna_states("budget")
    runs = Counter(run.data.tags["state"] for run in trial_runs(outcome.search_run_id).values())
    assert sum(states.values()) == 40
    assert states == runs
    assert states["COMPLETE"] == outcome.n_trials["complete"]
    assert states["PRUNED"] == outcome.n_trials["pruned"]
    widths = [run.data.params["width"] for run in trial_runs(outcome.search_run_id).values()]
    assert len(set(widths)) == 40, "no configuration is trained twice"


def test_one_worker_gives_the_same_trials_every_time(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, a colleague with the same file and seed sees other results."""
    first = run_search(tiny("same"), n_trials=4, study_name="one")
    second = run_search(tiny("same"), n_trials=4, study_name="two")
    assert first.best.params == second.best.params
    assert first.best.values == second.best.values
    values = [
        [run.data.metrics["objective"] for _, run in sorted(trial_runs(o.search_run_id).items())]
        for o in (first, second)
    ]
    assert values[0] == values[1]


def test_a_finished_space_ends_the_search(tiny: Tiny, run_search: Searcher, folder: Path) -> None:
    """If this fails, the same six configurations are trained all night."""
    definition = tiny("small")
    path = definition.path
    path.write_text(path.read_text().replace("low = 2, high = 200", "low = 2, high = 4"))
    outcome = run_search(load_definition(path), n_trials=20, workers=2)
    assert sum(outcome.n_trials.values()) == 3
    assert outcome.stopped == "every configuration of the space has been tried"


def narrowed(definition: Definition) -> Definition:
    """Let the next search draw widths that learn less in two epochs than the enqueued one: it finds nothing better."""
    text = definition.path.read_text().replace("high = 200", "high = 4")
    definition.path.write_text(text.replace("[[enqueue]]\nwidth = 200\n", ""))
    return load_definition(definition.path)


def test_a_search_without_a_better_trial_registers_nothing_new(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, the registry fills with versions that nobody asked for."""
    definition = tiny("again", more='\n[[enqueue]]\nwidth = 200\n\n[search]\nsampler = "random"\n')
    first = run_search(definition, n_trials=3)
    assert first.newly_registered
    assert first.model is not None
    second = run_search(narrowed(definition), n_trials=2)
    assert second.best.number == first.best.number
    assert not second.newly_registered
    assert second.model == first.model


def test_the_best_of_an_interrupted_offline_search_is_registered_by_sync(tiny: Tiny, folder: Path) -> None:
    """Hours of an offline search that Ctrl-C ended would have no version, and `sync` say that all agrees."""
    definition = tiny("ended")
    uri = f"sqlite:///{folder}/mlflow.db"
    settings = resolve(definition, n_trials=2, workers=1, tracking_uri=uri, offline=True)
    search(settings, lambda _: None)
    study = optuna.load_study(study_name="ended", storage=open_storage(settings.storage))
    (record,) = search_records(study)
    replace(record, state="interrupted").write(study)
    settings = resolve(definition, tracking_uri=uri)
    for _ in range(2):
        synced = sync(settings, lambda _: None)
        assert not synced.differs
        assert [each.version for each in registry.all_versions("ended")] == ["1"]
    assert search_records(study)[0].state == "interrupted", "it can still be resumed"


def test_an_offline_search_is_shown_with_the_code_that_trained(tiny: Tiny, folder: Path) -> None:
    """Models of yesterday would be registered with today's code, and `search.reproduce` train that."""
    code = "from search.training.model import mlp\ndef build(trial, data):\n    return mlp(trial, data)\n"
    definition = tiny("code", "code_of.py:build", code)
    uri = f"sqlite:///{folder}/mlflow.db"
    search(resolve(definition, n_trials=1, workers=1, tracking_uri=uri, offline=True), lambda _: None)
    (folder / "studies" / "code_of.py").write_text(f"{code}TODAY = 1\n")
    settings = resolve(definition, tracking_uri=uri)
    assert not sync(settings, lambda _: None).differs
    (version,) = registry.all_versions("code")
    kept = Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=str(folder / "kept")))
    trial = MlflowClient().get_run(version.run_id).data.tags["mlflow.parentRunId"]
    origin = Path(mlflow.artifacts.download_artifacts(run_id=trial, artifact_path="origin", dst_path=str(folder)))
    for place in (kept, origin):
        (found,) = place.rglob("code_of.py")
        assert found.read_text() == code
    study = optuna.load_study(study_name="code", storage=open_storage(settings.storage))
    assert not StudyFiles(study, settings).folder.exists(), "nothing outlives the search"


def test_a_sync_leaves_a_running_search_to_itself(tiny: Tiny, folder: Path) -> None:
    """Each trial that its search has not shown yet would have two runs for ever."""
    definition = tiny("beside")
    uri = f"sqlite:///{folder}/mlflow.db"
    search(resolve(definition, n_trials=1, workers=1, tracking_uri=uri, offline=True), lambda _: None)
    settings = resolve(definition, tracking_uri=uri)
    study = optuna.load_study(study_name="beside", storage=open_storage(settings.storage))
    (record,) = search_records(study)
    replace(record, state="running", **asdict(machine.this_process())).write(study)
    lock = StudyFiles(study, settings).claim(record.search_id)
    assert lock is not None
    synced = sync(settings, lambda _: None)
    assert (synced.mended, synced.differs) == (0, ())
    lock.release()


def test_a_trial_that_ended_before_mlflow_showed_it_is_registered_once(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, each later search registers the same model again: the study does not know the trial's run."""
    definition = tiny("early", more='\n[[enqueue]]\nwidth = 200\n\n[search]\nsampler = "random"\n')
    first = run_search(definition, n_trials=3)
    study = optuna.load_study(study_name="early", storage=open_storage("studies/early.journal"))
    assert attributes.RUN_ID not in study.trials[first.best.number].system_attrs
    second = run_search(narrowed(definition), n_trials=2)
    assert second.best == first.best
    assert (second.newly_registered, second.model) == (False, first.model)


def test_a_search_ends_where_mlflow_lost_the_best_model(tiny: Tiny, run_search: Searcher, empty_store: Path) -> None:
    """If this fails, the search's run stays RUNNING for good once `mlflow.db` was emptied."""
    definition = tiny("lost", more='\n[[enqueue]]\nwidth = 200\n\n[search]\nsampler = "random"\n')
    first = run_search(definition, n_trials=2)
    folder = definition.path.parent.parent
    mlflow.set_tracking_uri(None)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    second = run_search(narrowed(definition), n_trials=1)
    assert second.best.number == first.best.number
    assert "its model was not kept" in second.unregistered
    assert MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(second.search_run_id).info.status == "FINISHED"


def test_users_own_mlflow_calls_write_to_the_trials_run(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, what a builder logs is lost, or lands in a run of its own."""
    code = """
import mlflow

from search.training.model import mlp


def build(trial, data):
    if trial.study.study_name == "logs":
        mlflow.set_tag("mine", trial.number)
    return mlp(trial, data)
"""
    outcome = run_search(tiny("logs", "logs.py:build", code), n_trials=2)
    runs = trial_runs(outcome.search_run_id)
    assert {number: run.data.tags["mine"] for number, run in runs.items()} == {0: "0", 1: "1"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_the_time_limit_begins_no_more_trials(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, `--timeout` runs on into the morning."""
    outcome = run_search(tiny("timed"), n_trials=10_000, timeout=6.0)
    assert outcome.stopped == "the time of 6 s is up"
    assert 0 < sum(outcome.n_trials.values()) < 1000


def test_progress_tells_every_beginning_and_end(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, the terminal shows a bar that does not move."""
    told: list[Progress] = []
    run_search(tiny("told"), told.append, n_trials=3, pruner="none")
    told = [each for each in told if each.state != "training"]  # of trials that take two seconds
    assert [each.state for each in told] == ["began", "complete"] * 3
    assert [each.done for each in told] == [0, 1, 1, 2, 2, 3]
    assert told[-1].best_value == min(each.value for each in told if each.value is not None)
    assert told[-1].seconds_left == 0


def test_long_trials_show_their_curve_while_they_run(
    tiny: Tiny, run_search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a trial of hours shows nothing in MLflow until it ends."""
    code = (
        "import time\nimport keras\n\n\nclass Slow(keras.callbacks.Callback):\n"
        "    def on_epoch_end(self, epoch, logs=None):\n        time.sleep(0.7)\n"
    )
    definition = tiny("slow", more="\n[search]\nseed = 1\n")
    (definition.folder / "slow.py").write_text(code)
    path = definition.path
    path.write_text(path.read_text().replace("epochs = 2", 'epochs = 8\ncallbacks = ["slow.py:Slow"]'))
    from search.tracking import runs

    seen: list[int] = []
    original = runs.SearchRun.log_epochs
    monkeypatch.setattr(
        runs.SearchRun,
        "log_epochs",
        lambda self, run_id, epochs, *more: (seen.append(len(epochs)), original(self, run_id, epochs, *more))[1],
    )
    outcome = run_search(load_definition(path), n_trials=1)
    assert any(0 < count < 8 for count in seen), "epochs arrived before the trial ended"
    history = MlflowClient().get_metric_history(outcome.best.run_id, "val_loss")
    assert [metric.step for metric in history] == list(range(8))


def test_a_mixed_table_is_trained_registered_and_predicted(folder: Path, run_search: Searcher) -> None:
    """If this fails, the table of an ordinary business, numbers beside texts with gaps, ends in an error."""
    import mlflow
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": range(200),
            "age": generator.integers(20, 70, 200).astype(float),
            "member": generator.random(200) < 0.5,
            "city": generator.choice(["Bonn", "Kiel", "Ulm"], 200),
        }
    )
    frame["churn"] = np.where((frame["city"] == "Kiel") | (frame["age"] > 60), "yes", "no")
    frame.loc[:9, "age"] = np.nan
    frame.loc[5:15, "city"] = None
    frame.to_csv(folder / "customers.csv", index=False)
    (folder / "churn.toml").write_text(
        'name = "churn"\nmetric = "val_loss"\ndirection = "minimize"\n'
        '[data]\nsource = "csv:customers.csv"\ntarget = "churn"\ndrop = ["id"]\n'
        "[fit]\nepochs = 40\nbatch_size = 16\n"
        '[space]\nwidth = { type = "int", low = 16, high = 32 }\n'
    )
    outcome = run_search(load_definition(folder / "churn.toml"), n_trials=2, pruner="none")
    assert outcome.model is not None
    assert outcome.best.metrics["test_binary_accuracy"] > 0.7
    model = mlflow.pyfunc.load_model(outcome.model.uri)
    assert [column.name for column in model.metadata.signature.inputs] == ["age", "member", "city"]
    rows = pd.DataFrame({"age": [30.0, np.nan], "member": [True, False], "city": ["Kiel", "Atlantis"]})
    assert np.isfinite(model.predict(rows)).all()


def test_other_data_are_not_compared(tiny: Tiny, run_search: Searcher) -> None:
    """A best value of last month's rows would stay best for ever, and prune this month's trials."""
    definition = tiny("moved")
    first = run_search(definition, n_trials=3, pruner="none")
    path = definition.path
    for old, new, told in (
        ("random_state = 0", "random_state = 1", r"the rows \(digest \w{8}, now \w{8}\) changed"),
        ("validation_size = 0.2", "validation_size = 0.4", r"data.validation_size \(0.2, now 0.4\) changed"),
        ("test_size = 0.3", "test_size = 0.3\nseed = 5", r"data.seed \(0, now 5\) changed"),
    ):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(StorageError, match=told):
            run_search(load_definition(path), n_trials=1)
        path.write_text(text)
    path.write_text(path.read_text().replace("random_state = 0", "random_state = 1"))
    second = run_search(load_definition(path), n_trials=2, pruner="none", accept_new_data=True)
    assert second.best.number in (3, 4), "a new trial is best, whatever the old ones had"
    assert second.newly_registered
    assert first.best.number < 3
    again = run_search(load_definition(path), n_trials=1, pruner="none")
    assert again.best.number >= 3


def test_a_study_whose_journal_is_gone_is_said_to_begin_anew(tiny: Tiny, run_search: Searcher, folder: Path) -> None:
    """A lost journal would begin a new study without a word, beside the trials that MLflow still shows."""
    definition, said = tiny("gone"), list[str]()
    run_search(definition, n_trials=1, register=False)
    Path("studies/gone.journal").unlink()
    settings = resolve(definition, n_trials=1, register=False, workers=1, tracking_uri=f"sqlite:///{folder}/mlflow.db")
    search(settings, lambda _: None, said.append)
    anew = "MLflow shows earlier searches of 'gone' that this study does not have; a new study begins in "
    assert [each for each in said if each.startswith(anew) and each.endswith("gone.journal")]
