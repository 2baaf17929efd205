"""Where trials run and where studies live: the same search on every real part."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from search import promotion
from search.errors import RegistryError
from search.study.storage import open_storage
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.workers import cluster
from search.workers.cluster import ClusterPool
from search.workers.worker import Job, shipped_folder
from tests.conftest import TINY, Searcher, begin, command
from tests.test_session import trial_runs

Tiny = Callable[..., Definition]
SCRIPTS = Path(sys.executable).parent

KILLS_ITS_WORKER = """
import os
import signal
from pathlib import Path

import keras
from neighbour import double

from search.training.model import mlp


class Kill(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        mark = Path("{mark}")
        if epoch == double(0) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def build(trial, data):
    return mlp(trial, data)
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A real PostgreSQL, without root or Debian packages."""
    import pgserver
    import psycopg

    # Its socket's path must be short, so not under pytest's folder.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE optuna")
            connection.execute("CREATE DATABASE mlflow")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real dask scheduler with two worker processes, started by its own command line."""
    folder = tmp_path_factory.mktemp("dask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = str(SCRIPTS / "dask")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "start_new_session": True}
    port = address.rpartition(":")[2]
    servers = [
        subprocess.Popen([dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"], **quiet),
        subprocess.Popen([dask, "worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"], **quiet),
    ]
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    yield address
    for server in reversed(servers):
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.fixture
def proxy(folder: Path) -> Iterator[str]:
    """Optuna's own gRPC proxy before a journal, for workers that cannot reach the storage itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import optuna; from search.study.storage import open_storage; "
        f"optuna.storages.run_grpc_proxy_server(open_storage('proxied.journal'), host='127.0.0.1', port={port})"
    )
    server = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.DEVNULL)
    yield f"grpc://127.0.0.1:{port}"
    server.kill()
    server.wait(30)


def storage_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "postgresql":
        return str(request.getfixturevalue("postgres")).replace("@/postgres", "@/optuna")
    if kind == "grpc":
        return str(request.getfixturevalue("proxy"))
    return {"journal": str(folder / "kept" / "s.journal"), "sqlite": f"sqlite:///{folder}/s.db"}[kind]


@pytest.mark.parametrize(
    "kind", ["journal", "postgresql", *(pytest.param(kind, marks=pytest.mark.heavy) for kind in ("sqlite", "grpc"))]
)
def test_a_study_lives_in_any_storage(
    kind: str, tiny: Tiny, run_search: Searcher, folder: Path, request: pytest.FixtureRequest
) -> None:
    """If this fails, a team's database, or a laptop's file, is not where the study is."""
    url = storage_url(kind, request, folder)
    definition = tiny("stored", more="\n[search]\npruner_options = { n_startup_trials = 2 }\n")
    first = run_search(definition, n_trials=6, workers=2, storage=url)
    second = run_search(definition, n_trials=2, workers=2, storage=url)
    study = optuna.load_study(study_name="stored", storage=open_storage(url))
    states = Counter(trial.state.name for trial in study.get_trials())
    runs = [*trial_runs(first.search_run_id).values(), *trial_runs(second.search_run_id).values()]
    assert sum(states.values()) == 8
    assert states == Counter(run.data.tags["state"] for run in runs)
    assert study.best_value == second.best.values[0]


def test_a_search_that_died_elsewhere_is_found_by_its_silence(
    tiny: Tiny, run_search: Searcher, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, trials of a machine that was switched off stay RUNNING in the team's database for ever."""
    from search import resume
    from search.study import attributes
    from search.study.files import StudyFiles

    monkeypatch.setattr(resume, "_WATCH_SECONDS", 1)
    url = postgres.replace("@/postgres", "@/optuna")
    definition = tiny("beats")
    run_search(definition, n_trials=2, storage=url)
    storage = open_storage(url)
    kept = optuna.load_study(study_name="beats", storage=storage)
    beat = time.time() - 600
    kept.set_user_attr(
        "search:elsewhere",
        {"n_trials": 3, "state": "running", "host": "elsewhere", "pid": 1, "began": "2126-01-01", "beat": beat},
    )
    running = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, system_attrs={attributes.SEARCH_RUN: "elsewhere"}
    )
    trial_id = storage.create_new_trial(storage.get_study_id_from_name("beats"), template_trial=running)
    files = StudyFiles(kept, resolve(definition, storage=url))
    resume.recover_killed_searches(kept, storage, files)
    assert [record.state for record in resume.search_records(kept)] == ["finished", "interrupted"]
    assert storage.get_trial(trial_id).state == optuna.trial.TrialState.FAIL
    resumed = run_search(definition, resume=True, storage=url)
    assert resumed.n_trials["complete"] + resumed.n_trials["pruned"] == 3


def test_mlflow_and_optuna_in_postgresql(tiny: Tiny, folder: Path, postgres: str) -> None:
    """If this fails, a team cannot keep both in its own database, or finds its password in a tag."""
    tiny("team")
    url = postgres.replace("postgres:@", "postgres:secret@")  # any password is let in
    done = command(
        "search.run",
        *("team", "--n-trials", "3", "--workers", "2", "--json"),
        *("--storage", url.replace("@/postgres", "@/optuna"), "--tracking-uri", url.replace("@/postgres", "@/mlflow")),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["model"]["version"] == "1"
    client = MlflowClient(url.replace("@/postgres", "@/mlflow"))
    runs = client.search_runs([printed["experiment_id"]])
    assert len(runs) == 4
    assert "secret" not in json.dumps([run.to_dictionary() for run in runs]) + done.stderr + done.stdout
    mlflow.set_tracking_uri(url.replace("@/postgres", "@/mlflow"))  # the fixture puts it back
    why = "as long as people write " * 300
    assert promotion.promote("team", conditions=promotion.Conditions(force=True, reason=why)).promoted
    assert [(move.version, why in move.reason) for move in promotion.moves("team")] == [("1", True)]
    with pytest.raises(RegistryError, match="is its first champion"):
        promotion.rollback("team")
    assert "secret" not in json.dumps(client.get_model_version("team", "1").tags)


def test_the_cluster_trains_the_same_trials(tiny: Tiny, run_search: Searcher, scheduler: str) -> None:
    """If this fails, moving from the laptop to the cluster changes the results."""
    definition = tiny("moved")
    here = run_search(definition, n_trials=4, study_name="here", pruner="none")
    there = run_search(definition, n_trials=4, study_name="there", pruner="none", workers=1, cluster=scheduler)
    values = [
        [run.data.metrics["objective"] for _, run in sorted(trial_runs(each.search_run_id).items())]
        for each in (here, there)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert there.model is not None
    assert there.n_trials == {"complete": 4, "pruned": 0, "failed": 0}


ROWS = """
import numpy as np
from parts.scale import FACTOR


def load(path):
    x = np.loadtxt(path, delimiter=",") * FACTOR
    return x, np.arange(len(x)) % 2
"""


def test_a_cluster_worker_forgets_the_files_of_an_earlier_search(
    tiny: Tiny, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Trials on a cluster that stays up would learn yesterday's rows by yesterday's code, under today's name.

    The data function reads a file of the machines' own, and its package exists on no worker: it is shipped.
    """
    table = tmp_path_factory.mktemp("elsewhere") / "rows.csv"
    definition = tiny("again", "own.py:build", "from search.training.model import mlp as build\n")
    (definition.folder / "rows.py").write_text(ROWS)
    (definition.folder / "parts").mkdir()
    text = definition.path.read_text().replace("sklearn:make_blobs", "rows.py:load")
    text = re.sub("options = .*", f'options = {{ path = "{table}" }}', text)
    definition.path.write_text(text)

    def digest_there(factor: int, first: float) -> str:
        (definition.folder / "parts" / "scale.py").write_text(f"FACTOR = {factor}\n")
        np.savetxt(table, np.arange(60.0).reshape(30, 2) + first, delimiter=",")
        pool = ClusterPool(scheduler, 1, 1, 1.0)
        try:
            job = pool.reach(Job(resolve(load_definition(definition.path), storage="grpc://nowhere:1")))
            assert shipped_folder(job.shipped).is_dir()
            return pool.dry_run(job).data.digest
        finally:
            pool.close()
            assert not shipped_folder(job.shipped).exists(), "the files are removed with the search"

    found = [digest_there(*each) for each in ((1, 0.0), (1, 0.5), (2, 0.5))]
    assert len(set(found)) == 3


def test_workers_are_not_lost_while_they_are_there(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, running trials are told as died, their worker gone, at random moments of a long search."""
    import dask

    monkeypatch.setattr(cluster, "_KNOWN_SECONDS", 0.0)
    with dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}):  # by default each two seconds
        pool = ClusterPool(scheduler, 1, 1, 1.0)
        try:
            assert {len(pool.workers()) for _ in range(500)} == {2}
        finally:
            pool.close()


def test_a_worker_that_still_trains_gets_no_other_trial(scheduler: str) -> None:
    """If this fails, trials behind one that hangs are told as too long without having begun, or two share a process."""
    pool = ClusterPool(scheduler, 1, 1, 1.0)
    try:
        (slot,) = pool.slots
        given_up = slot.submit(time.sleep, 3)
        slot.stop()
        slot.submit(time.sleep, 0).result(30)
        assert not given_up.done(), "the other worker was free"
        assert len(pool._taken) == 2
        given_up.result(30)
        deadline = time.monotonic() + 10
        while len(pool._taken) == 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        pool.close()


@pytest.mark.heavy
def test_a_killed_cluster_worker_costs_one_trial(
    tiny: Tiny, run_search: Searcher, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """If this fails, a lost node ends the search, or dask runs finished trials a second time.

    The study's Python files, one importing its neighbour, exist on no worker: they are shipped.
    """
    mark = tmp_path_factory.mktemp("mark") / "killed"
    code = KILLS_ITS_WORKER.format(mark=mark)
    definition = tiny("node", "node.py:build", code)
    (definition.folder / "neighbour.py").write_text("def double(x):\n    return 2 * x\n")
    path = definition.path
    path.write_text(path.read_text().replace("epochs = 2", 'epochs = 2\ncallbacks = ["node.py:Kill"]'))
    outcome = run_search(load_definition(path), n_trials=6, workers=2, cluster=scheduler, pruner="none")
    assert mark.exists()
    assert outcome.died == 1
    assert outcome.n_trials == {"complete": 6, "pruned": 0, "failed": 1}
    runs = trial_runs(outcome.search_run_id)
    assert len(runs) == 7
    dead = [run for run in runs.values() if run.info.status == "FAILED"]
    assert len(dead) == 1
    assert dead[0].data.tags["reason"].startswith("its worker died")
    widths = Counter(run.data.params["width"] for run in runs.values())
    assert widths[dead[0].data.params["width"]] == 2, "its configuration is tried once more"
    assert max(count for width, count in widths.items() if width != dead[0].data.params["width"]) == 1


@pytest.mark.heavy
def test_three_searches_begin_at_the_same_moment(tmp_path: Path) -> None:
    """If this fails, a fresh folder ends in 'database is locked', or runs land in a wrong experiment."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "race.toml").write_text(TINY.format(name="race", build="mlp"))
    asked = ("race", "--n-trials", "4", "--workers", "1", "--json", "--seed")
    started = [
        begin("search.run", *asked, str(seed), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for seed in range(3)
    ]
    ended = [(process, *process.communicate(timeout=200)) for process in started]
    assert [process.returncode for process, _, _ in ended] == [0, 0, 0], [stderr for _, _, stderr in ended]
    printed = [json.loads(stdout) for _, stdout, _ in ended]
    assert len({each["experiment_id"] for each in printed}) == 1
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()], max_results=100)
    assert len(runs) == 3 + 12
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs)
    study = optuna.load_study(study_name="race", storage=open_storage(str(tmp_path / "studies" / "race.journal")))
    assert len(study.trials) == 12
    leftovers = {path.name for path in tmp_path.iterdir()} - {"mlflow.db", "mlruns", "studies"}
    assert not leftovers, "no half-made store stays behind"


@pytest.mark.heavy
def test_a_grown_worker_is_replaced(tiny: Tiny, run_search: Searcher) -> None:
    """If this fails, memory grows with every trial until the night's search dies."""
    code = (
        "from search.training.model import mlp\n\nHELD = []\n\n\ndef build(trial, data):\n"
        "    HELD.append(bytearray(250_000_000))\n    return mlp(trial, data)\n"
    )
    started = time.monotonic()
    outcome = run_search(tiny("grows", "grows.py:build", code), n_trials=12, pruner="none")
    workers = {run.data.tags["worker"] for run in trial_runs(outcome.search_run_id).values()}
    assert len(workers) >= 3, "no process trained more than a few of these"
    assert outcome.n_trials == {"complete": 12, "pruned": 0, "failed": 0}
    assert time.monotonic() - started < 120
