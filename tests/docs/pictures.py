"""Draws the pictures of MLflow's pages, of the report and of a notebook: `python -m tests.docs.pictures`.

It searches `digits`, promotes the best model, serves `mlflow ui` and photographs pages in Debian's chromium; then it
runs a notebook. `--folder` takes a folder with a search that is there already, or keeps the new one.
"""

from __future__ import annotations

import argparse
import html
import io
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nbformat
from mlflow import MlflowClient
from nbclient import NotebookClient
from PIL import Image

from tests.browser import opened, served, text, until
from tests.conftest import command

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
STUDY = "digits"
_SIZES = {  # of the browser's window
    "runs": (1360, 1290),
    "search": (1360, 1290),
    "model": (1360, 800),
    "experiments": (1360, 520),
    "report": (1100, 1500),
    "report-dark": (1100, 1500),
    "report-phone": (420, 1400),
    "notebook": (1000, 1500),
    "notebook-dark": (1000, 1500),
}
_SHRINK = 0.75  # readable in a README that is 900 pixels wide
_COLOURS = 96
_MOST = 150_000  # bytes


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the search is, or is to be kept")
    parser.add_argument("--n-trials", default="20", help="trials of a new search (default: 20)")
    parser.add_argument("--pages", action="store_true", help="only MLflow's pages")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            _must("search.run", STUDY, "--n-trials", asked.n_trials, cwd=folder)
            _must("search.promote", STUDY, cwd=folder)
        page = _must("search.report", STUDY, cwd=folder)
        (serve,) = re.findall(r"^  (mlflow ui.*)$", page, re.MULTILINE)
        (url,) = re.findall(r"^  (http://\S+)$", page, re.MULTILINE)
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            raise SystemExit("needs Debian's chromium and chromium-driver")
        stack.enter_context(served(serve, url, folder))
        browser = stack.enter_context(opened(chromium, driver, profile))
        PICTURES.mkdir(exist_ok=True)
        for name in _pages(browser, url, MlflowClient(f"sqlite:///{folder}/mlflow.db")):
            _save(browser, name)
        if asked.pages:
            return
        report = folder / "reports" / STUDY / "report.html"
        for name in ("report", "report-dark", "report-phone"):
            with _screen(browser, name):
                browser.get(report.as_uri())
                until(lambda: browser.execute_script("return document.querySelectorAll('.main-svg').length") > 5)
                _save(browser, name)
        notebook = folder / "notebook.html"
        notebook.write_text(_notebook(folder), encoding="utf-8")
        for name in ("notebook", "notebook-dark"):
            with _screen(browser, name):
                browser.get(notebook.as_uri())
                _save(browser, name)


def _must(module: str, *args: str, cwd: Path) -> str:
    done = command(module, *args, cwd=cwd, limit=1800)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def _pages(browser: Any, url: str, client: MlflowClient) -> Iterator[str]:
    """Open each page and yield its name once it is drawn."""
    origin = url.partition("/#/")[0]
    browser.get(url)
    until(lambda: "Runs" in text(browser))  # the assistant opens at the first visit only
    browser.execute_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    with _window(browser, "runs"):
        browser.get(url.replace("/runs?", "/runs?compareRunsMode=CHART&"))
        browser.refresh()
        until(lambda: "Value by trial" in text(browser))
        until(lambda: browser.execute_script("return document.querySelectorAll('canvas, svg.main-svg').length > 2"))
        yield "runs"
    experiment = client.get_experiment_by_name(STUDY)
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'search'", max_results=1)
    with _window(browser, "search"):
        runs = f"{origin}/#/experiments/{experiment.experiment_id}/runs"
        browser.get(f"{runs}/{run.info.run_id}?workflowType=machine_learning")
        until(lambda: "Best trial:" in text(browser))
        until(lambda: _click(browser, "Show more"))
        drawn = "return [...document.images].filter(i => i.src.includes('get-artifact') && i.naturalWidth > 100).length"
        until(lambda: browser.execute_script(drawn) >= 2)
        yield "search"
    with _window(browser, "model"):
        version = client.get_model_version_by_alias(STUDY, "champion").version
        browser.get(f"{origin}/#/models/{STUDY}/versions/{version}?workflowType=machine_learning")
        until(lambda: "Held-out test part" in text(browser))
        yield "model"
    with _window(browser, "experiments"):
        browser.get(f"{origin}/#/experiments?workflowType=machine_learning")
        until(lambda: browser.execute_script("return document.querySelectorAll('[role=row] a, tr a').length > 0"))
        yield "experiments"


@contextmanager
def _window(browser: Any, name: str) -> Iterator[None]:
    browser.set_window_size(*_SIZES[name])
    yield


@contextmanager
def _screen(browser: Any, name: str) -> Iterator[None]:
    """Look through a screen of a picture's size, on light or dark ground."""
    width, height = _SIZES[name]
    scheme = "dark" if name.endswith(("dark", "phone")) else "light"
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


_CELLS = """
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_digits
import search

pixels, digits = load_digits(return_X_y=True)
study = search.Study(
    "pixels",
    data=((pixels / 16).astype("float32"), digits),
    metric="val_accuracy",
    direction="maximize",
    fit={"epochs": 5},
    space={"width": IntDistribution(8, 128, log=True), "learning_rate": FloatDistribution(1e-4, 1e-1, log=True)},
)
#%%
result = study.optimize(n_trials=12, workers=2)
#%%
result
#%%
study.promote()
"""
_LOOK = """
:root { color-scheme: light dark } body { font: 13px/1.4 system-ui, sans-serif; margin: 1em }
.source { background: #8881; border: 1px solid #8884; padding: .5em; white-space: pre-wrap; font: 12px monospace }
.output { padding: .5em 1em } table { border-collapse: collapse; font-size: 12px }
td, th { padding: .2em .6em; text-align: right }
tr:nth-child(even) { background: #8881 }
"""


class _Watched(NotebookClient):
    """Runs a notebook and remembers what its moving outputs showed."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.moments: list[dict[str, Any]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take a message of the kernel's."""
        if msg["msg_type"] == "update_display_data":
            self.moments.append(msg["content"]["data"])
        return super().process_message(msg, cell, cell_index)


def _notebook(folder: Path) -> str:
    """Run a notebook, and return it as a page: the search in the midst, and what it came to."""
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in _CELLS.split("#%%")]
    run = nbformat.v4.new_notebook(cells=cells)
    client = _Watched(run, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    training = [each for each in client.moments if "epoch" in each["text/plain"]] or client.moments
    midst = training[len(training) // 2]
    parts = []
    for cell in run.cells:
        parts.append(f"<div class='source'>{html.escape(cell['source'])}</div>")
        shown = [each["data"]["text/html"] for each in cell["outputs"] if "text/html" in each.get("data", {})]
        moving = cell["outputs"] and cell["outputs"][0]["output_type"] == "display_data"
        parts += [f"<div class='output'>{each}</div>" for each in ([midst["text/html"]] if moving else shown)]
    return f"<!doctype html><meta charset='utf-8'><style>{_LOOK}</style>{''.join(parts)}"


def _click(browser: Any, label: str) -> bool:
    found = browser.find_elements("xpath", f"//*[text()='{label}']")
    for each in found:
        each.click()
    return bool(found)


def _save(browser: Any, name: str) -> None:
    time.sleep(3.0)  # the page comes to rest: charts are laid out after they are there
    shot = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    size = (round(shot.width * _SHRINK), round(shot.height * _SHRINK))
    path = PICTURES / f"{name}.png"
    shot.resize(size, Image.Resampling.LANCZOS).quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"{path.name}: {size[0]} × {size[1]}, {path.stat().st_size} bytes")
    if path.stat().st_size > _MOST:
        raise SystemExit(f"{path} is larger than {_MOST} bytes")


if __name__ == "__main__":
    main()
