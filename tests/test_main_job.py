"""The main job as a person runs it: search, inspect, promote, serve, in a folder that was empty."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from search import graphs
from search.comparison.predictions import Predictions
from search.data.loading import load
from search.studyfile.load import find_study, load_definition
from search.training import fit as feed
from search.training.training import Training
from tests.browser import DIRECT, until
from tests.conftest import command, run_json

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TOUR = README.partition("## The tour")[2].partition("```console\n")[2].partition("```")[0]
SEARCHED = ("search.run", "--n-trials", "20")


@dataclass(frozen=True)
class Job:
    """The main job's folder, what it printed, and what it left in MLflow."""

    folder: Path
    printed: dict[str, Any]
    client: MlflowClient

    def trials(self) -> list[Run]:
        query = f"tags.mlflow.parentRunId = '{self.printed['search_run_id']}'"
        return list(self.client.search_runs([self.printed["experiment_id"]], query, max_results=200))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """`python -m search.run --n-trials 20 --json`, once for this module."""
    folder = tmp_path_factory.mktemp("job")
    printed = run_json(*SEARCHED[1:], cwd=folder)
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    yield Job(folder, printed, MlflowClient())
    mlflow.set_tracking_uri(None)


def test_the_json_is_the_contracts(job: Job) -> None:
    """If this fails, scripts that read the result break."""
    printed = job.printed
    assert set(printed) >= {"study", "experiment_id", "search_run_id", "n_trials", "best", "model", "seconds"}
    assert printed["study"] == "blobs"
    assert set(printed["n_trials"]) == {"complete", "pruned", "failed"}
    assert sum(printed["n_trials"].values()) == 20
    best = printed["best"]
    assert set(best) == {"number", "value", "params", "run_id", "metrics"}
    assert set(best["params"]) == {"epochs", "batch_size", "width"}
    assert best["metrics"]["val_loss"] == best["value"]
    assert best["metrics"]["test_loss"] < 0.1
    assert printed["model"] == {"name": "blobs", "version": "1", "alias": "challenger", "uri": "models:/blobs/1"}


def test_every_trial_is_a_run_under_the_search(job: Job) -> None:
    """If this fails, the MLflow UI shows a heap of runs instead of a search."""
    trials = job.trials()
    assert len(trials) == 20
    ends = {"COMPLETE": "", "PRUNED": " · pruned", "FAIL": " · failed"}
    named = [f"trial-{int(run.data.tags['trial']):05d}{ends[run.data.tags['state']]}" for run in trials]
    assert sorted(run.info.run_name for run in trials) == sorted(named)
    assert sorted(int(run.data.tags["trial"]) for run in trials) == list(range(20))
    expected = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    assert all(run.info.status == expected[run.data.tags["state"]] for run in trials)
    everywhere = job.client.search_runs([job.printed["experiment_id"]], max_results=200)
    assert len(everywhere) == 21, "no run beside the search and its trials"


def test_the_tutorials_experiments_come_first(job: Job) -> None:
    """If this fails, the search forgets what was tried by hand."""
    by_number = {int(run.data.tags["trial"]): run.data.params for run in job.trials()}
    tried = [(by_number[n]["epochs"], by_number[n]["batch_size"], by_number[n]["width"]) for n in range(3)]
    assert tried == [("10", "16", "128"), ("20", "32", "128"), ("30", "16", "128")]


def test_a_trial_records_all_that_was_asked(job: Job) -> None:
    """If this fails, a result cannot be understood or repeated."""
    run = job.client.get_run(job.printed["best"]["run_id"])
    metrics, tags = run.data.metrics, run.data.tags
    epochs = int(run.data.params["epochs"])
    for name in ("loss", "binary_accuracy", "val_loss", "val_binary_accuracy"):
        history = job.client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == list(range(epochs)), "one point an epoch, none added"
    assert metrics["objective"] == metrics["val_loss"] == job.printed["best"]["value"]
    assert {"test_loss", "test_binary_accuracy", "train_seconds", "parameters"} <= set(metrics)
    assert tags["seed"].isdigit()
    assert "tensorflow 2." in tags["versions"]
    assert "keras 3." in tags["versions"]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "make_blobs"
    assert len(dataset.digest) == 8
    artifacts = {file.path for file in job.client.list_artifacts(run.info.run_id)}
    assert {"training.json", "model_summary.txt"} <= artifacts
    training = json.loads(
        Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="training.json")).read_text()
    )
    assert training["fit"]["epochs"] == epochs
    assert training["optimizer"]["learning_rate"] == pytest.approx(0.001)


def test_an_architecture_is_traced_once_and_no_result_depends_on_it(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If this fails, most of a trial is tracing, or its losses are those of the trials before it."""
    fed = Counter((run.data.tags["worker"], run.data.tags["trained_by"]) for run in job.trials())
    assert {how for _, how in fed} == {feed.WHOLE_EPOCHS, feed.REUSED}
    assert all(count <= 1 for (_, how), count in fed.items() if how == feed.WHOLE_EPOCHS), "widths share a graph"
    run = next(
        each for each in job.trials() if each.data.tags["trained_by"] == feed.REUSED and each.info.status == "FINISHED"
    )
    monkeypatch.setattr(graphs, "_graphs", OrderedDict())
    definition = load_definition(find_study("blobs"))
    params = {name: int(value) for name, value in run.data.params.items()}
    keras.backend.clear_session()
    seed = int(run.data.tags["seed"])
    training = Training(definition, load(definition), SimpleNamespace(params=params), seed, tmp_path)
    alone: list[float] = []
    training.fit(lambda epoch, ended, logs, last: alone.append(logs["val_loss"]))
    recorded = job.client.get_metric_history(run.info.run_id, "val_loss")
    assert [metric.value for metric in recorded] == alone


def test_the_search_has_its_table_and_plots(job: Job) -> None:
    """If this fails, the outcome must be pieced together from twenty runs."""
    run = job.client.get_run(job.printed["search_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["n_trials"] == "20"
    assert run.data.params["sampler"] == "tpe"
    assert run.data.metrics["best_val_loss"] == job.printed["best"]["value"]
    files = {file.path for file in job.client.list_artifacts(run.info.run_id)}
    assert {"trials.csv", "parallel_coordinate.png", "optimization_history.png", "study"} <= files
    experiment = job.client.get_experiment(job.printed["experiment_id"])
    assert "minimize `val_loss`" in experiment.tags["mlflow.note.content"]


def test_only_models_that_were_the_best_so_far_are_kept(job: Job) -> None:
    """If this fails, twenty models fill the disk, or the best one is missing."""
    logged = job.client.search_logged_models([job.printed["experiment_id"]])
    finished = {run.info.run_id: run for run in job.trials() if run.info.status == "FINISHED"}
    assert {model.source_run_id for model in logged} <= set(finished)
    assert job.printed["best"]["run_id"] in {model.source_run_id for model in logged}
    assert len(logged) < len(finished)


def test_the_registered_version_tells_where_it_comes_from(job: Job) -> None:
    """If this fails, nobody knows which trial, data and score a deployed model has."""
    version = job.client.get_model_version_by_alias("blobs", "challenger")
    best = job.printed["best"]
    assert version.run_id == best["run_id"]
    assert version.tags["trial"] == str(best["number"])
    assert version.tags["study"] == "blobs"
    assert float(version.tags["test_value"]) == pytest.approx(best["metrics"]["test_loss"], rel=1e-4)
    assert len([name for name in version.tags if not name.startswith("mlflow.")]) <= 5, "people see five"
    assert version.tags["data_digest"] == job.client.get_run(best["run_id"]).inputs.dataset_inputs[0].dataset.digest
    assert "Held-out test part" in version.description


def test_the_registered_version_has_its_predictions(job: Job) -> None:
    """Two versions could not be compared without the data and a minute of TensorFlow."""
    path = mlflow.artifacts.download_artifacts("models:/blobs@challenger/test_predictions.npz")
    kept = Predictions.from_bytes(Path(path).read_bytes())
    assert kept.loss is not None
    assert kept.loss.mean() == pytest.approx(job.printed["best"]["metrics"]["test_loss"], rel=1e-4)
    assert len(kept) == 330


def test_the_registered_model_loads_and_predicts_alike(job: Job) -> None:
    """If this fails, the model in the registry is not the one that was measured."""
    test = load(load_definition(find_study("blobs"))).test
    generic = mlflow.pyfunc.load_model("models:/blobs@challenger")
    keras_model = mlflow.keras.load_model("models:/blobs@challenger")
    predicted = generic.predict(test.x)
    np.testing.assert_allclose(predicted, keras_model.predict(test.x, verbose=0), rtol=1e-5, atol=1e-7)
    loss = keras_model.evaluate(test.x, test.y, verbose=0, return_dict=True)["loss"]  # from logits, near 0 too
    assert loss == pytest.approx(job.printed["best"]["metrics"]["test_loss"], rel=1e-3)
    assert generic.metadata.signature is not None
    assert generic.metadata.saved_input_example_info is not None
    requirements = Path(mlflow.artifacts.download_artifacts("models:/blobs@challenger/requirements.txt")).read_text()
    assert all("==" in line for line in requirements.splitlines())
    assert "tensorflow==" in requirements


def test_promote_roll_back_and_refuse(job: Job) -> None:
    """If this fails, a worse model goes live, or a bad one cannot be taken back."""
    first = command("search.promote", "blobs", "--json", cwd=job.folder)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told.pop("reason").startswith("there was no champion before, and it is better than the trivial model: loss")
    verdict = told.pop("verdict")
    assert told == {"model": "blobs", "version": "1", "alias": "champion", "previous": None, "promoted": True}
    assert verdict["better"] is True
    assert verdict["challenger"] == pytest.approx(job.printed["best"]["metrics"]["test_loss"], rel=1e-4)
    again = command("search.promote", "blobs", cwd=job.folder)
    assert (again.returncode, again.stdout) == (0, "nothing to do: version 1 is champion already\n")
    nothing_before = command("search.promote", "blobs", "--rollback", cwd=job.folder)
    assert nothing_before.returncode == 2
    assert "is its first champion" in nothing_before.stderr


def test_the_readmes_tour_runs_from_its_first_line_to_its_last(job: Job, tmp_path: Path) -> None:
    """A step of the tour would fail as written, or its two servers want the same port."""
    searched, *rest = TOUR.splitlines()
    assert searched.split("#")[0].split() == ["python", "-m", *SEARCHED], "the search that all tests here share"
    (port,) = re.findall(r"serve .*--port (\d+)", TOUR)
    assert port != "5000", "mlflow ui has it"
    ui, served = _free_port(), _free_port()
    script = "\n".join(["set -e", *rest, ""]).replace(port, str(served))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_PORT": str(ui),  # of `mlflow ui`: 5000 may be taken on the machine that tests
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with (tmp_path / "said").open("w") as said, (tmp_path / "log").open("w") as log:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=job.folder, env=environment, stdout=said, stderr=log, start_new_session=True
        )
        try:
            assert shell.wait(280) == 0, (tmp_path / "log").read_text()[-3000:]
            address = (
                f"http://127.0.0.1:{ui}/api/2.0/mlflow/experiments/get?experiment_id={job.printed['experiment_id']}"
            )
            shown = until(lambda: json.load(DIRECT.open(address, timeout=5)))
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
    printed = (tmp_path / "said").read_text()
    assert re.search(r"version 1 is (now )?champion", printed)
    assert shown["experiment"]["name"] == "blobs"
    (answer,) = re.findall(r'\{"predictions".*\}', printed)
    predictions = np.asarray(json.loads(answer)["predictions"])
    assert predictions.shape == (2, 1)
    assert predictions[0, 0] < 0.5 < predictions[1, 0], "the blobs' centres are told apart"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_second_search_continues_the_study(job: Job) -> None:
    """If this fails, every call begins anew and forgets what the last one learnt."""
    printed = run_json("--n-trials", "2", "--seed", "5", cwd=job.folder)
    assert sum(printed["n_trials"].values()) == 2
    assert printed["experiment_id"] == job.printed["experiment_id"]
    assert printed["best"]["value"] <= job.printed["best"]["value"]
    numbers = {
        int(run.data.tags["trial"])
        for run in job.client.search_runs(
            [printed["experiment_id"]], f"tags.mlflow.parentRunId = '{printed['search_run_id']}'"
        )
    }
    assert numbers == {20, 21}
