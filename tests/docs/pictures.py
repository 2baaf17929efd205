"""Draws the README's pictures of MLflow's pages: `python -m tests.docs.pictures`.

It searches `digits`, promotes the best model, serves `mlflow ui` and photographs three pages in Debian's chromium.
`--folder` takes a folder with a search that is there already, or keeps the new one.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from PIL import Image

from tests.browser import opened, served, text, until
from tests.conftest import command

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
STUDY = "digits"
_SIZES = {"runs": (1360, 1290), "search": (1360, 1290), "model": (1360, 800)}  # of the browser's window
_SHRINK = 0.75  # readable in a README that is 900 pixels wide
_COLOURS = 96
_MOST = 150_000  # bytes


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the search is, or is to be kept")
    parser.add_argument("--n-trials", default="20", help="trials of a new search (default: 20)")
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


@contextmanager
def _window(browser: Any, name: str) -> Iterator[None]:
    browser.set_window_size(*_SIZES[name])
    yield


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
    shot.resize(size, Image.Resampling.LANCZOS).quantize(_COLOURS).save(path, optimize=True)
    print(f"{path.name}: {size[0]} × {size[1]}, {path.stat().st_size} bytes")
    if path.stat().st_size > _MOST:
        raise SystemExit(f"{path} is larger than {_MOST} bytes")


if __name__ == "__main__":
    main()
