"""What MLflow's pages say of a study, and the address that opens them."""

from __future__ import annotations

import base64
import json
import socket
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from search.data.summary import DataSummary, TensorSpec
from search.register import _in_and_out
from search.serving.meaning import Meaning
from search.study.storage import open_storage
from search.studyfile.schema import Definition
from search.tracking.pages import descriptions, pictures, views
from search.training.result import Epoch, TrialResult
from tests.conftest import Searcher

Tiny = Callable[..., Definition]
SVG = "{http://www.w3.org/2000/svg}"
PROBABILITY = Meaning("probabilities", "binary", (0, 1), True)
CODE = """
import keras
import optuna


def build(trial, data):
    width = trial.params["width"]
    if width == 5:
        raise ValueError(f"width {width} is odd, token=abc123")
    if width == 6:
        raise optuna.TrialPruned("width 6 is even")
    inputs, x = data.inputs()
    outputs = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dense(width)(x))
    model = keras.Model(inputs, outputs)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["binary_accuracy"])
    return model
"""


@pytest.mark.draws
def test_a_search_tells_in_words_what_became_of_it(tiny: Tiny, run_search: Searcher) -> None:
    """A person would read a page of numbers, and take every pruned trial for a failed one."""
    enqueued = "".join(f"\n[[enqueue]]\nwidth = {width}\n" for width in (4, 5, 6, 7))
    outcome = run_search(tiny("told", "build.py:build", CODE, enqueued), n_trials=4, pruner="none")
    client = MlflowClient()
    runs = client.search_runs([outcome.experiment_id], f"tags.mlflow.parentRunId = '{outcome.search_run_id}'")
    by_number = {int(run.data.tags["trial"]): run for run in runs}
    names = [by_number[number].info.run_name for number in range(4)]
    assert names == ["trial-00000", "trial-00001 · failed", "trial-00002 · pruned", "trial-00003"]
    notes = [by_number[number].data.tags["mlflow.note.content"] for number in range(4)]
    assert notes[0].startswith(f"**Complete**: value {by_number[0].data.metrics['objective']:.5g} after 2 epochs of 2.")
    assert "On the held-out test part: `test_" in notes[0]
    assert "**Failed**" in notes[1]
    assert "width 5 is odd" in notes[1]
    assert "abc123" not in notes[1], "a secret in a reason stays secret"
    assert "**Pruned**" in notes[2]
    for run in runs:
        junk = [name for name in run.data.tags if name.endswith("_distribution") or name.startswith("datetime_")]
        assert junk == []
        assert {"direction", "number"} & run.data.tags.keys() == set()
    storage = open_storage("studies/told.journal")
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name("told"))
    note = attributes["dashboard:note_str:0"]  # as optuna-dashboard's `save_note` writes it
    assert attributes["dashboard:note_ver"] == 1
    assert note.startswith("Optuna study **told**: minimize `val_loss`.")
    assert note.endswith(outcome.url)
    _the_pictures(client, by_number)
    _the_searchs_own_page(client, outcome.search_run_id, by_number)
    version = client.get_model_version("told", "1")
    assert "{" not in version.description
    assert "Input: 2 numbers per row. Output: the probability of class 1 (the other is 0)." in version.description


def _the_pictures(client: MlflowClient, by_number: dict[int, Run]) -> None:
    """A kept trial shows how its model errs; the logged model has its trial's name and the study's data set."""
    run = by_number[0]
    assert (
        f"![looks.png](get-artifact?path=looks.png&run_uuid={run.info.run_id})" in run.data.tags["mlflow.note.content"]
    )
    assert "looks.png" in {each.path for each in client.list_artifacts(run.info.run_id)}, "it was kept"
    assert run.data.metrics["trial"] == 0, "the chart of values by trial has it on an axis"
    (model,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert model.name == "trial-00000"
    assert {each.dataset_name for each in model.metrics if each.key == "test_loss"} == {"make_blobs"}
    assert {each.key for each in model.metrics} >= {"loss", "val_loss", "test_loss", "parameters"}


def _the_searchs_own_page(client: MlflowClient, run_id: str, by_number: dict[int, Run]) -> None:
    tags = client.get_experiment(by_number[0].info.experiment_id).tags
    assert [name for name in tags if not name.startswith("mlflow.")] == [], "the list shows no chip of the program's"
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert "**Finished**. Trials: 2 complete, 1 pruned, 1 failed." in note
    assert "- 1 trial: `" in note
    best = min((0, 3), key=lambda number: by_number[number].data.metrics["objective"])
    info = by_number[best].info
    link = f"[{best}](#/experiments/{info.experiment_id}/runs/{info.run_id}?workflowType=machine_learning)"
    assert f"Best trial: {link}" in note
    assert f"![optimization_history.png](get-artifact?path=optimization_history.png&run_uuid={run_id})" in note
    curve = client.get_metric_history(run_id, "best_so_far")
    values = [by_number[number].data.metrics["objective"] for number in (0, 3)]
    assert [(each.step, each.value) for each in curve] == [(0, values[0]), (3, min(values))]


def test_a_long_description_is_cut_between_paragraphs(tiny: Tiny) -> None:
    """PostgreSQL would refuse the description, or half a table be shown."""
    result = TrialResult(0, "failed", 0, reason="x" * 90_000)
    assert len(descriptions.of_trial(result, "r")) < 1000
    assert len(descriptions._limited(["a" * 4000, "b" * 4000, "c"])) == 4003


def test_the_kept_epoch_is_named() -> None:
    """A person would look for the recorded loss at the end of a curve where it is not."""
    epochs = tuple(Epoch(step, 0.0, {"loss": 1.0, "val_loss": 2.0 - step}) for step in range(3))
    result = TrialResult(
        0, "complete", 0, values=(1.0,), epochs=epochs, metrics={"best_epoch": 1.0}, training={"fit": {"epochs": 9}}
    )
    assert "after 3 epochs of 9, the kept model is that of epoch 2 (step 1)." in descriptions.of_trial(result, "r")


def test_a_kept_model_shows_how_it_errs() -> None:
    """A person would see one number, and not which classes are mistaken for which."""
    looks = {"confusion": [[3, 1], [0, 2]], "classes": ["no", "yes"], "regions": [[0, 1]] * 2}
    looks |= {"extent": [0.0, 1.0, 0.0, 1.0], "points": [[0.5, 0.5, 1]]}
    result = TrialResult(0, "complete", 0)
    none, wide, errors = (
        pictures.of_trial(replace(result, looks=each)) for each in ({}, looks, {"residuals": [[1.0, 2.0]]})
    )
    assert none == b""
    assert [each[:4] for each in (wide, errors)] == [b"\x89PNG"] * 2
    assert _width(wide) == 2 * _width(errors), "a panel each"


def _width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")


def _view(client: MlflowClient, experiment: str) -> Any:
    tag = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.search"])
    assert tag.keys() == {"name", "createdAt", "updatedAt", "state"}
    return json.loads(zlib.decompress(base64.b64decode(tag["state"].removeprefix("deflate;"))))


def test_the_saved_view_sorts_by_value_best_first(tiny: Tiny, folder: Path) -> None:
    """With a thousand trials the best would not be on the first page."""
    definition = tiny("viewed").model_copy(update={"direction": "maximize", "metric": "val_accuracy"})
    client = MlflowClient()
    experiment = client.create_experiment("viewed")
    views.save(client, experiment, "viewed", definition, ["objective"])
    state = _view(client, experiment)
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`objective`", False)
    assert state["selectedColumns"][:3] == ["metrics.`objective`", "metrics.`test_accuracy`", "params.`width`"]
    charts = {chart["type"]: chart for chart in state["compareRunCharts"]}
    assert charts["PARALLEL"]["selectedParams"] == ["width"]
    assert charts["SCATTER"]["xaxis"]["key"] == "trial"
    assert [chart["selectedMetricKeys"] for chart in state["compareRunCharts"] if chart["type"] == "LINE"] == [
        ["loss", "val_loss"],
        ["accuracy", "val_accuracy"],
    ]


def test_the_saved_view_has_the_builders_own_parameters(tiny: Tiny, folder: Path) -> None:
    """What the builder suggests would be missing, or parallel coordinates leave out all trials without it."""
    ranges = {name: IntDistribution(0, 9) for name in ("width", "depth", "filters_1")}
    trials = [
        create_trial(
            state=TrialState.COMPLETE,
            value=1.0,
            params=dict.fromkeys(names, 3),
            distributions={name: ranges[name] for name in names},
        )
        for names in (("width", "depth"), ("width", "depth", "filters_1"))
    ]
    client = MlflowClient()
    experiment = client.create_experiment("suggested")
    for known in (trials, None):  # a second search does not know the trials when it begins
        views.save(client, experiment, "suggested", tiny(), ["objective"], known)
        state = _view(client, experiment)
        columns = [each for each in state["selectedColumns"] if each.startswith("params.")]
        assert columns == ["params.`width`", "params.`depth`", "params.`filters_1`"]
        assert state["compareRunCharts"][0]["selectedParams"] == ["width", "depth"]


def test_a_view_that_cannot_be_saved_ends_nothing(tiny: Tiny, folder: Path) -> None:
    """A server without the right to write tags would stop every search."""
    views.save(MlflowClient(), "no such experiment", "x", tiny("unseen"), ["objective"])


@pytest.mark.parametrize(
    ("uri", "serve", "start"),
    [
        ("sqlite:///{folder}/mlflow.db", "mlflow ui", "http://127.0.0.1:"),
        (
            "sqlite:///{folder}/my runs.db",
            "mlflow ui --backend-store-uri 'sqlite:///{folder}/my runs.db'",
            "http://127.0.0.1:",
        ),
        (
            "postgresql://me:secret@db/mlflow",
            "mlflow ui --backend-store-uri 'postgresql://***@db/mlflow'",
            "http://127",
        ),
        ("https://me:secret@mlflow.example/base/", "", "https://***@mlflow.example/base/#/experiments/7/runs?"),
    ],
)
def test_the_page_is_served_from_the_store_in_use(
    uri: str, serve: str, start: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlflow ui` would show another folder's runs, or a password stand in a log."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page = views.page_of(uri.format(folder=folder), "7", "run")
    wanted = serve.format(folder=folder)
    assert page.serve.partition(" --port ")[0] == wanted
    assert page.url.startswith(start)
    assert page.url.endswith("/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=search")


def test_a_taken_port_is_not_proposed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed command would end with 'address already in use'."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(views, "_PORT", port)
        monkeypatch.setattr(views, "_serves", lambda *_: False)
        page = views.page_of(f"sqlite:///{folder}/mlflow.db", "1", "run")
    assert f"127.0.0.1:{port}/" not in page.url
    assert page.serve.startswith("mlflow ui --port ")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "Input: 2 numbers per row. Output: the probability of class 1 (the other is 0)."),
        (
            {"meanings": (Meaning("logits", "binary", ("no", "yes"), True),)},
            "Input: 2 numbers per row. Output: the logit of class yes (the other is no).",
        ),
        (
            {
                "meanings": (Meaning("probabilities", "multiclass", ("a", "b", "c")),),
                "output": (TensorSpec("float32", (-1, 3)),),
            },
            "Input: 2 numbers per row. Output: a probability for each of 3 classes: a, b, c.",
        ),
        (
            {"meanings": (Meaning("numbers"),), "inputs": (TensorSpec("float32", (-1, 8, 8)),)},
            "Input: an array of 8 × 8 numbers per row. Output: 1 number per row.",
        ),
        (
            {"columns": (("size", "double"), ("age", "long"))},
            "Input: 2 columns: `size`, `age`. Output: the probability",
        ),
    ],
)
def test_a_version_says_in_words_what_goes_in_and_comes_out(changed: dict[str, object], said: str) -> None:
    """A person would read `Takes float64 (-1, 2); gives classes 0, 1`."""
    known = {"task": "binary", "classes": (0, 1), "columns": (), "inputs": (TensorSpec("float64", (-1, 2)),)}
    known |= {"output": (TensorSpec("float32", (-1, 1)),), "meanings": (PROBABILITY,), **changed}
    data = DataSummary(
        name="d", source="s", digest="x", rows={}, example=None, log_names=(), path="", seconds=0.0, **known
    )  # type: ignore[arg-type]
    assert _in_and_out(data).startswith(said)


def test_the_experiment_names_the_builders_own_parameters(tiny: Tiny) -> None:
    """A person would look for a parameter of the table that no page explains."""
    distributions = {"width": IntDistribution(2, 200), "depth": IntDistribution(0, 3)}
    trial = create_trial(
        state=TrialState.COMPLETE, value=1.0, params={"width": 3, "depth": 1}, distributions=distributions
    )
    text = descriptions.of_experiment(tiny(), "other", [trial])
    assert "study **other**" in text
    assert "- `width`: a whole number from 2 to 200" in text
    assert "- `depth`: from 0 to 3; suggested by the model's builder" in text
