"""Names of the user's own, and more than one request holds, as MLflow takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.validation import _validate_metric_name, _validate_param

import tests.studyfiles  # noqa: F401 - keeps hypothesis's files out of the checkout
from search.tracking import entries
from search.tracking.entries import distinct, legal


@settings(max_examples=200, derandomize=True, deadline=None)
@given(name=st.text(max_size=300) | st.text(alphabet="./_ a@", max_size=8))
@example(name="")
@example(name="/../a//b/")
@example(name="a" * 249 + "/b")
def test_mlflow_takes_every_name(name: str) -> None:
    """A trial whose metric is called `acc@5` would never be shown, nor its model registered."""
    _validate_metric_name(legal(name))
    _validate_param(legal(name), "1")
    assert len(legal(name)) <= 250


def test_usual_names_stay_and_different_ones_stay_different() -> None:
    """A metric would not be found by its name, or a parameter be shown with another's value."""
    for name in ("val_loss", "größe", "units.0", "a/b", "top 5: mean"):
        assert legal(name) == name
    assert distinct(["units[0]", "units(0)", "units_0_"]) == {
        "units[0]": "units_0_",
        "units(0)": "units_0__2",
        "units_0_": "units_0__3",
    }


@pytest.mark.parametrize("count", [995, 1000, 2500])
def test_more_than_one_request_holds_is_logged_whole(folder: Path, count: int) -> None:
    """A trial of 250 epochs with four metrics and a few tags would be refused, and never shown."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.create_run(client.create_experiment("long")).info.run_id
    metrics = [Metric("loss", 1 / (1 + step), step, step) for step in range(count)]
    tags = {f"tag {index}": index for index in range(130)} | {"empty": ""}
    entries.log(client, run, metrics, tags, {f"units_{index}": index for index in range(230)})
    data = client.get_run(run).data
    assert [each.step for each in client.get_metric_history(run, "loss")] == list(range(count))
    assert {name: text for name, text in data.tags.items() if name.startswith("tag ")} == {
        f"tag {index}": str(index) for index in range(130)
    }
    assert data.params == {f"units_{index}": str(index) for index in range(230)}
    assert "empty" not in data.tags
