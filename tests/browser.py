"""Debian's chromium without a window, and what a search's page needs to be served."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Python keeps the proxy that another test set when the first address was opened.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PATIENCE = 150.0  # seconds: `mlflow ui` imports for a minute where other tests run beside it


@contextmanager
def opened(chromium: str, driver: str, profile: Path) -> Iterator[Any]:
    """Open a browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    flags = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage"
    for flag in (*flags.split(), "--window-size=1600,1200", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


@contextmanager
def served(command: str, url: str, folder: Path) -> Iterator[None]:
    """Run the command that a search printed, `mlflow ui …`, until the block ends; begins when the address answers."""
    arguments = [sys.executable, "-m", *shlex.split(command), "--workers", "1"]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: DIRECT.open(url.partition("/#/")[0], timeout=5).status == 200)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def until(condition: Callable[[], Any]) -> Any:
    """Return what a condition gives once that is true; errors until then count as not yet."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with suppress(Exception):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "the page does not show it"
        time.sleep(0.3)


def text(browser: Any) -> str:
    """Return what a person can read on the page."""
    return str(browser.execute_script("return document.body.innerText"))
