"""What the tests share: a folder of its own with a real MLflow store, real studies, real commands."""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from search.budget import Progress
from search.handover.outcome import Outcome
from search.reporting import plots
from search.session import search
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from tests import warm

Command = Callable[..., subprocess.CompletedProcess[str]]
Searcher = Callable[..., Outcome]

TINY = """
name = "{name}"
metric = "val_loss"
direction = "minimize"

[data]
source = "sklearn:make_blobs"
options = {{ n_samples = 60, n_features = 2, centers = 2, random_state = 0 }}
test_size = 0.3
validation_size = 0.2

[model]
build = "{build}"

[fit]
epochs = 2
batch_size = 16

[space]
width = {{ type = "int", low = 2, high = 200 }}
"""


_AT_FIRST: set[str] = set()  # names of the variables of the session


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the heavy tests run on request."""
    parser.addoption("--heavy", action="store_true", help="run the tests marked `heavy`, and no others")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the frameworks' start-up noise out of every process the tests start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    _AT_FIRST.update(os.environ)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the heavy tests, or all others."""
    chosen = {item: (item.get_closest_marker("heavy") is not None) == config.getoption("heavy") for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not chosen[item]])
    items[:] = [item for item in items if chosen[item]]


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the server that commands were forked from."""
    warm.close()


@pytest.fixture(autouse=True)
def nothing_is_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches in this process draw no plots, 1 s each, but for tests that are marked `draws`."""
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(plots, "DRAWINGS", ())


@pytest.fixture(autouse=True)
def mlflow_is_unset() -> Iterator[None]:
    """MLflow keeps a test's store and experiment in variables, of the process and its own; the next test has others."""
    yield
    for name in {name for name in os.environ if name.startswith("MLFLOW_")} - _AT_FIRST:
        del os.environ[name]
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        fluent._active_experiment_id = None  # type: ignore[attr-defined]  # nothing public forgets it


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database, made once: making one takes 2 s."""
    from search.tracking import store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with store.fresh_store(f"sqlite:///{path}") as publish:
        publish()
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with an MLflow store of its own; MLflow looks there."""
    import mlflow

    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_CONTEXT", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path
    mlflow.set_tracking_uri(None)


@pytest.fixture
def tiny(folder: Path) -> Callable[..., Definition]:
    """Writes a study whose trials take a tenth of a second, and reads it."""

    def write(name: str = "tiny", build: str = "mlp", code: str = "", more: str = "") -> Definition:
        (folder / "studies").mkdir(exist_ok=True)
        if code:
            (folder / "studies" / build.partition(":")[0]).write_text(code)
        path = folder / "studies" / f"{name}.toml"
        path.write_text(TINY.format(name=name, build=build) + more)
        return load_definition(path)

    return write


@pytest.fixture
def run_search(folder: Path) -> Searcher:
    """Runs a search in this process, in the test's folder; returns its outcome."""

    def run(definition: Definition, hook: Callable[[Progress], None] = lambda _: None, **request: Any) -> Outcome:
        request = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "workers": 1, **request}
        return search(resolve(definition, **request), hook)

    return run


def begin(module: str, *args: str, cold: bool = False, **options: Any) -> subprocess.Popen[str]:
    """Start `python -m MODULE ARGS`, or `python -c CODE`, as a person would; options are `subprocess.Popen`'s.

    Args:
        cold: Start an interpreter of its own, 4 to 10 s until it trains. Needed where the folder holds a module that
            is imported already, or the environment something that imports read; otherwise the process is forked from
            `warm`'s server.
    """
    kind = subprocess.Popen[str] if cold or not warm.POSSIBLE else warm.Forked
    return kind([sys.executable, *(["-m"] * (module != "-c")), module, *args], text=True, **options)


def command(
    module: str, *args: str, cwd: Path, env: Mapping[str, str] | None = None, limit: float = 240, cold: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGS` as a person would, and return what it printed; see `begin` for `cold`."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with begin(module, *args, cold=cold, cwd=cwd, env={**os.environ, **(env or {})}, **streams) as process:
        try:
            printed, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command as `command` does, in this process: its workers are forked from what is imported already."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(module: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [module, *args])
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(module).main()
        finally:
            gc.unfreeze()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        printed = capfd.readouterr()
        return subprocess.CompletedProcess([module, *args], int(ended.value.code or 0), printed.out, printed.err)

    return run


def run_json(*args: str, cwd: Path) -> dict[str, Any]:
    """Run `python -m search.run … --json`, which must succeed, and return its object."""
    done = command("search.run", *args, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed
