"""Names of the user's own, as MLflow takes them."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param

import tests.studyfiles  # noqa: F401 - keeps hypothesis's files out of the checkout
from search.tracking.names import distinct, legal


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
