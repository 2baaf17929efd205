"""The notebook of the guides runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"

# jupyter_client's and ipykernel's own; the kernel is another process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nbclient.*"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq.*"),
]


def test_the_tour_runs_in_a_notebook(tmp_path: Path) -> None:
    """What is defined in a notebook would not reach the workers, or a running event loop would stop the search."""
    tour = nbformat.read(TOUR, as_version=4)
    NotebookClient(tour, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {
        cell["source"]: output["data"] for cell in tour.cells for output in cell.get("outputs", ()) if "data" in output
    }
    (table,) = [data for source, data in shown.items() if source.startswith("result = study.optimize")]
    assert "<table" in table["text/html"]
    (model,) = [data for source, data in shown.items() if source.startswith("result.model.uri")]
    assert model["text/plain"] == "('models:/tour/1', 'challenger')"
    (promotion,) = [data for source, data in shown.items() if source == "study.promote()"]
    assert "promoted=True" in promotion["text/plain"]
