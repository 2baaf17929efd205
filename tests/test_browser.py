"""MLflow's pages and the report in a real browser: what the address that a search prints shows a person.

The saved view is nowhere documented by MLflow; these tests fail when a new version shows it otherwise. They skip
without Debian's chromium and chromium-driver, unless SEARCH_NEEDS_BROWSER says that both must be there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.conftest import TINY, command

# Python keeps the proxy that another test set when the first address was opened.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PATIENCE = 150.0  # seconds: `mlflow ui` imports for a minute where other tests run beside it


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("SEARCH_NEEDS_BROWSER"):
            pytest.fail("SEARCH_NEEDS_BROWSER is set, and there is no chromium or no chromedriver")
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    flags = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage"
    for flag in (*flags.split(), "--window-size=1600,1200", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@dataclass(frozen=True)
class Shown:
    """A search that ended, and the address that it printed, served."""

    folder: Path
    url: str

    @property
    def origin(self) -> str:
        return self.url.partition("/#/")[0]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlflow.db")


@pytest.fixture(scope="module")
def shown(browser: Any, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Six trials of a small study, seen by the command and at the address that the search printed."""
    folder = tmp_path_factory.mktemp("shown")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    (folder / "tiny.toml").write_text(TINY.format(name="tiny", build="mlp"))
    done = command("search.run", "tiny.toml", "--n-trials", "6", "--pruner", "none", "--workers", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (url,) = re.findall(r"^  (http://\S+)$", done.stdout, re.MULTILINE)
    assert url in done.stderr, "also said when the search begins"
    (serve,) = re.findall(r"^  mlflow (ui.*)$", done.stdout, re.MULTILINE)
    arguments = [sys.executable, "-m", "mlflow", *serve.split(), "--workers", "1"]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    found = Shown(folder, url)
    try:
        _until(lambda: _DIRECT.open(found.origin, timeout=5).status == 200)
        yield found
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def _until(condition: Callable[[], Any]) -> Any:
    """Return what a condition gives once that is true; errors until then count as not yet."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with suppress(Exception):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "the page does not show it"
        time.sleep(0.3)


@pytest.fixture(autouse=True)
def picture(browser: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave a picture of what each test saw in the folder that SEARCH_SCREENSHOTS names."""
    yield
    if folder := os.environ.get("SEARCH_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{request.node.name}.png"))


def _text(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def test_the_printed_address_lists_the_trials_best_first(browser: Any, shown: Shown) -> None:
    """A person would land on MLflow's empty page, or search a wall of runs for the best one."""
    browser.get(shown.url)
    _until(lambda: len(re.findall(r"trial-\d{5}", _text(browser))) >= 6)
    listed = list(dict.fromkeys(re.findall(r"trial-\d{5}", _text(browser))))
    experiment = shown.client.get_experiment_by_name("tiny")
    runs = shown.client.search_runs([experiment.experiment_id], "metrics.objective > 0", order_by=["metrics.objective"])
    assert listed == [run.info.run_name for run in runs]
    headers = _until(lambda: {"objective", "test_loss", "width"} <= set(_text(browser).splitlines()))
    assert headers, "columns of the value, the test metric and the study's parameters"


def test_the_saved_view_draws_the_studys_charts(browser: Any, shown: Shown) -> None:
    """Charts would show the first ten runs' training accuracy."""
    browser.get(shown.url.replace("/runs?", "/runs?compareRunsMode=CHART&"))
    _until(lambda: "Parameters and objective" in _text(browser))
    _until(lambda: "Training and validation" in _text(browser))
    _until(lambda: browser.execute_script("return document.querySelectorAll('canvas, svg.main-svg').length") > 0)


def test_the_searchs_page_shows_its_best_trial_and_its_picture(browser: Any, shown: Shown) -> None:
    """A search would be a page of numbers without a sentence."""
    experiment = shown.client.get_experiment_by_name("tiny")
    (run,) = shown.client.search_runs([experiment.experiment_id], "tags.kind = 'search'")
    browser.get(f"{shown.origin}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}")
    _until(lambda: "Best trial:" in _text(browser))
    script = "return [...document.images].filter(i => i.src.includes('get-artifact') && i.naturalWidth > 100).length"
    assert _until(lambda: browser.execute_script(script))
    links = browser.execute_script("return [...document.links].map(a => a.href)")
    assert any(
        f"/runs/{each.info.run_id}" in link
        for each in shown.client.search_runs([experiment.experiment_id], "metrics.objective > 0")
        for link in links
    )


def test_the_report_draws_without_a_network(browser: Any, shown: Shown) -> None:
    """A colleague who is sent the file would open an empty page."""
    done = command("search.report", "tiny.toml", cwd=shown.folder)
    assert done.returncode == 0, done.stderr
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    try:
        browser.get((shown.folder / "reports" / "tiny" / "report.html").as_uri())
        count = "return document.querySelectorAll('.js-plotly-plot .main-svg').length"
        assert _until(lambda: browser.execute_script(count) >= 5)
    finally:
        browser.execute_cdp_cmd("Network.disable", {})


def test_the_models_page_names_the_champion(browser: Any, shown: Shown) -> None:
    """Whoever deploys would not see which version was promoted, and what it takes."""
    done = command("search.promote", "tiny", cwd=shown.folder)
    assert done.returncode == 0, done.stderr
    browser.get(f"{shown.origin}/#/models/tiny")
    _until(lambda: "champion" in _text(browser))
    version = shown.client.get_model_version_by_alias("tiny", "champion").version
    browser.get(f"{shown.origin}/#/models/tiny/versions/{version}")
    _until(lambda: "Held-out test part" in _text(browser))
    _until(lambda: "Input: 2 numbers per row." in _text(browser))
