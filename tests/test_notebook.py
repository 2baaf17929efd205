"""What a notebook shows; the notebook of the guides runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import optuna
import pytest
from nbclient import NotebookClient
from optuna.trial import create_trial

from search.register import Best
from search.reporting import notebook
from search.studyfile.load import load_definition
from search.tracking.pages.outcomes import Failures
from tests.test_terminal import outcome

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"

# jupyter_client's and ipykernel's own; the kernel is another process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nbclient.*"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq.*"),
]

# An error in code of the notebook's own, and its traceback on request.
MISTAKES = (
    """def slip(trial, data):
    return trial.params["widht"]

space = {"width": IntDistribution(2, 8)}
fit = {"epochs": 1}
study = search.Study("slip", data=(x, y), build=slip, metric="val_loss", direction="minimize", space=space, fit=fit)
study.optimize(progress=False)""",
    "%tb",
)


@pytest.mark.heavy
def test_the_tour_runs_in_a_notebook(tmp_path: Path) -> None:
    """What is defined in a notebook would not reach the workers, or a running event loop would stop the search."""
    tour = nbformat.read(TOUR, as_version=4)
    tour.cells += [nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]}) for source in MISTAKES]
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
    (slip,), (whole,) = [
        [output["traceback"] for output in cell["outputs"] if output["output_type"] == "error"]
        for cell in tour.cells[-len(MISTAKES) :]
    ]
    (line,) = slip
    assert line == (
        "ModelError: model.build: a notebook's cell, line 2, in slip: KeyError: 'widht'; did you mean 'width'? "
        "trial.params has width; 4 configurations in a row failed for this reason (%tb shows the traceback)"
    )
    assert "in slip\n" in "\n".join(whole), "the worker's part is missing"
    assert len(whole) > 20


SEARCH = """
import numpy as np, search, os
from optuna.distributions import IntDistribution
x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
study = search.Study("cells", data=(x, (x.sum(axis=1) > 0).astype("float32")), metric="val_loss", direction="minimize",
                     fit={"epochs": 1}, space={"width": IntDistribution(2, 8)})
before = dict(os.environ)
#%%
result = study.optimize(3, workers=1)
#%%
result
#%%
model = result.load_model()
#%%
study
#%%
study.promote()
#%%
dict(os.environ) == before
"""


@pytest.mark.heavy
def test_a_search_in_a_notebook_is_one_output_that_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of 200 trials would be 200 outputs, below warnings of libraries that the person never named."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in SEARCH.split("#%%")]
    shown = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(shown, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell["outputs"] for cell in shown.cells]
    assert [[each["output_type"] for each in cell] for cell in outputs] == [
        [],
        ["display_data"],
        ["execute_result"],
        [],
        ["execute_result"],
        ["execute_result"],
        ["execute_result"],
    ]
    moved, result, study, promotion = (outputs[at][0]["data"] for at in (1, 2, 4, 5))
    assert '<a href="http://127.0.0.1:' in moved["text/html"]
    assert "3/3" in moved["text/html"]
    assert "3 complete, 0 pruned, 0 failed; best " in moved["text/plain"]
    assert "<th>val_loss</th>" in result["text/html"]
    assert " (trivial answer: 0." in result["text/html"]
    assert "3 complete" in study["text/html"]
    assert "cells version 1 is " in promotion["text/html"]
    assert outputs[6][0]["data"]["text/plain"] == "True", "nothing is left in the environment"


def test_names_and_reasons_are_texts_and_no_html(tmp_path: Path) -> None:
    """A column named `<b>`, or a message with a tag, would change the page, or run."""
    path = tmp_path / "tags.toml"
    path.write_text(
        "name = 'eight'\nmetric = 'val_<i>'\ndirection = 'minimize'\n[data]\nsource = 'sklearn:load_wine'\n"
        "[fit]\nepochs = 1\n[space]\nwidth = { type = 'int', low = 1, high = 300 }\n"
    )
    definition, study = load_definition(path), optuna.create_study()
    study.add_trial(create_trial(value=1.0))
    first = Best(0, (1.23456789,), {"<script>": 1}, "", {"test_<i>": 0.987654321}, trivial=1.0)
    told = outcome(best=first, table=(first, first), failures=(Failures("<img src=x onerror=alert(1)>", (3,)),))
    shown = notebook.of_result(study, definition, told) + notebook.of_study(definition, "a.journal", None)
    assert set(re.findall(r"</?([a-z]+)", shown)) == {"div", "b", "table", "tr", "th", "td", "a", "p", "img", "code"}
    assert shown.count("<img") == 1
    assert ">1.235 (trivial answer: 1)<" in shown, "four digits"
    assert "0.9877<" in shown
    assert "Trial 0 is not better than the trivial answer" in shown
    assert "on the front" not in shown, "of one metric there is no front"
    assert "color:" not in shown, "it reads on light and on dark ground"


def test_an_error_is_one_line_and_its_traceback_is_there_on_request() -> None:
    """A misspelt word would be below 200 lines of this package's own frames."""
    misspelt = "import search\nsearch.Study('a', data=([[0.0]] * 9, [0, 1, 0] * 3), metric='val_los', "
    misspelt += "direction='minimize', fit={'epochs': 1}, space={'width': search_space}).optimize()"
    begun = "from optuna.distributions import IntDistribution\nsearch_space = IntDistribution(2, 8)"
    cells = [begun, misspelt, "%tb", "raise search.UsageError('mine')"]
    tags = {"tags": ["raises-exception"]}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each, metadata=tags) for each in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    _, (slip,), whole, (mine,) = (
        [line for output in cell["outputs"] for line in output.get("traceback", ())] for cell in notebook.cells
    )
    assert slip.startswith(
        "StudyFileError: study 'a': metric: 'val_los' is not among the metrics of this model; did you"
    )
    assert slip.endswith("(%tb shows the traceback)")
    assert whole[0] == "Traceback (most recent call last):"
    assert any("in optimize" in line for line in whole)
    assert mine == "UsageError: mine (%tb shows the traceback)"
