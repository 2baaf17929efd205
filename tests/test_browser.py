"""MLflow's pages and the report in a real browser: what the address that a search prints shows a person.

The saved view is nowhere documented by MLflow; these tests fail when a new version shows it otherwise. They skip
without Debian's chromium and chromium-driver, unless SEARCH_NEEDS_BROWSER says that both must be there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from search.reporting import interactive
from search.study import attributes
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from tests.browser import opened, served, text, until
from tests.conftest import TINY, command


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("SEARCH_NEEDS_BROWSER"):
            pytest.fail("SEARCH_NEEDS_BROWSER is set, and there is no chromium or no chromedriver")
        pytest.skip("needs Debian's chromium and chromium-driver")
    with opened(chromium, driver, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


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
    (serve,) = re.findall(r"^  (mlflow ui.*)$", done.stdout, re.MULTILINE)
    with served(serve, url, folder):
        yield Shown(folder, url)


@pytest.fixture(autouse=True)
def picture(browser: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave a picture of what each test saw in the folder that SEARCH_SCREENSHOTS names."""
    yield
    if folder := os.environ.get("SEARCH_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{request.node.name}.png"))


@pytest.mark.heavy
def test_the_printed_address_lists_the_trials_best_first(browser: Any, shown: Shown) -> None:
    """A person would land on MLflow's empty page, or search a wall of runs for the best one."""
    browser.get(shown.url)
    until(lambda: len(re.findall(r"trial-\d{5}", text(browser))) >= 6)
    listed = list(dict.fromkeys(re.findall(r"trial-\d{5}", text(browser))))
    experiment = shown.client.get_experiment_by_name("tiny")
    runs = shown.client.search_runs([experiment.experiment_id], "metrics.objective > 0", order_by=["metrics.objective"])
    assert listed == [run.info.run_name for run in runs]
    headers = until(lambda: {"objective", "test_loss", "width"} <= set(text(browser).splitlines()))
    assert headers, "columns of the value, the test metric and the study's parameters"


@pytest.mark.heavy
def test_the_saved_view_draws_the_studys_charts(browser: Any, shown: Shown) -> None:
    """Charts would show the first ten runs' training accuracy."""
    browser.get(shown.url.replace("/runs?", "/runs?compareRunsMode=CHART&"))
    until(lambda: "Parameters and objective" in text(browser))
    until(lambda: "Value by trial" in text(browser))
    until(lambda: "Training and validation" in text(browser))
    until(lambda: browser.execute_script("return document.querySelectorAll('canvas, svg.main-svg').length") > 0)


@pytest.mark.heavy
def test_the_searchs_page_shows_its_best_trial_and_its_picture(browser: Any, shown: Shown) -> None:
    """A search would be a page of numbers without a sentence."""
    experiment = shown.client.get_experiment_by_name("tiny")
    (run,) = shown.client.search_runs([experiment.experiment_id], "tags.kind = 'search'")
    browser.get(f"{shown.origin}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}")
    until(lambda: "Best trial:" in text(browser))
    script = "return [...document.images].filter(i => i.src.includes('get-artifact') && i.naturalWidth > 100).length"
    assert until(lambda: browser.execute_script(script))
    links = browser.execute_script("return [...document.links].map(a => a.href)")
    (best,) = shown.client.search_runs([experiment.experiment_id], order_by=["metrics.objective"], max_results=1)
    browser.get(next(link for link in links if f"/runs/{best.info.run_id}" in link))
    assert until(lambda: browser.execute_script(script.replace("get-artifact", "looks.png"))), "its errors are drawn"


@pytest.mark.heavy
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
        assert until(lambda: browser.execute_script(count) >= 5)
    finally:
        browser.execute_cdp_cmd("Network.disable", {})


@pytest.mark.heavy
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_reads_on_a_phone(browser: Any, scheme: str, tmp_path: Path) -> None:
    """A colleague who opens the mailed file on a phone would scroll sideways, and read numbers in two halves."""
    (tmp_path / "phone.html").write_text(interactive.page(*wide_study(tmp_path)), encoding="utf-8")
    screen = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        browser.get((tmp_path / "phone.html").as_uri())
        count = "return document.querySelectorAll('.js-plotly-plot .main-svg').length"
        until(lambda: browser.execute_script(count) >= 10)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= screen["width"]
        assert browser.execute_script(_WIDER) == []
        assert browser.execute_script(_BROKEN) == []
        light, ground = browser.execute_script(_GROUND)
        assert (light > ground) == (scheme == "dark")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# What stands out of the screen; numbers that are written in two lines; how light letters and ground are.
_WIDER = """return [...document.querySelectorAll('body *')].filter(each => !each.closest('svg')
    && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
_BROKEN = """return [...document.querySelectorAll('td')].filter(cell => {
    if (!/^[-+0-9.e]+$/.test(cell.textContent)) return false;
    const range = document.createRange(); range.selectNodeContents(cell);
    return range.getClientRects().length > 1 }).map(cell => cell.textContent)"""
_GROUND = """const light = (color) => color.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
    const probe = document.body.appendChild(document.createElement('div')); probe.style.color = 'canvas';
    return [light(getComputedStyle(document.body).color), light(getComputedStyle(probe).color)]"""


def wide_study(folder: Path) -> tuple[optuna.Study, Definition]:
    """Return a study of eight parameters and long metrics, and its study file."""
    space = {f"learning_rate_{at}": FloatDistribution(1e-6, 1e-1, log=True) for at in range(6)}
    space |= {"optimizer": CategoricalDistribution(["adam", "rmsprop", "sgd with momentum"])}
    path = folder / "phone.toml"
    path.write_text(TINY.format(name="phone", build="mlp"))
    study = optuna.create_study(study_name="phone")
    for number in range(12):
        params = {name: 1.23456e-6 * (number + 1) for name in space if name != "optimizer"}
        params["optimizer"] = ["adam", "rmsprop", "sgd with momentum"][number % 3]
        searched = {attributes.SEARCH_RUN: "s"}
        value = 1.23456e-5 * 3**number
        trial = create_trial(params=params, distributions=space, value=value, system_attrs=searched)
        study.add_trial(trial)
    attributes.set_search(study, "s", {"trivial": {"val_loss": 0.693147}})
    return study, load_definition(path)


@pytest.mark.heavy
def test_the_models_page_names_the_champion(browser: Any, shown: Shown) -> None:
    """Whoever deploys would not see which version was promoted, and what it takes."""
    done = command("search.promote", "tiny", cwd=shown.folder)
    assert done.returncode == 0, done.stderr
    browser.get(f"{shown.origin}/#/models/tiny")
    until(lambda: "champion" in text(browser))
    version = shown.client.get_model_version_by_alias("tiny", "champion").version
    browser.get(f"{shown.origin}/#/models/tiny/versions/{version}")
    until(lambda: "Held-out test part" in text(browser))
    until(lambda: "Input: 2 numbers per row." in text(browser))
