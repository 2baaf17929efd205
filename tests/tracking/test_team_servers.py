"""What teams run: MLflow's server on PostgreSQL, with passwords, its artifacts on S3. All commands work on each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.budget import Progress
from search.errors import TrackingError
from search.handover.syncing import sync
from search.session import search
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve
from search.tracking.runs import SearchRun
from tests.conftest import TINY, begin, command
from tests.faults.mlflow_server import MlflowServer, mlflow_server
from tests.serving import served

KINDS = ("postgresql", "passwords", "s3")
_KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-central-1"}
_ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "password-of-tests"}

pytestmark = pytest.mark.timeout(900)


class Bucket:
    """An S3 of this machine with one bucket; a test may take it away and bring it back."""

    def __init__(self) -> None:
        self._server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.environment = {**_KEYS, "MLFLOW_S3_ENDPOINT_URL": "http://{}:{}".format(*self._server.get_host_and_port())}
        self.create()

    @property
    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.environment["MLFLOW_S3_ENDPOINT_URL"],
            aws_access_key_id="me",
            aws_secret_access_key="secret",
            region_name="eu-central-1",
        )

    def create(self) -> None:
        """Create the bucket."""
        self._client.create_bucket(Bucket="team", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    def delete(self) -> None:
        """Delete the bucket with all that it holds."""
        for each in self._client.list_objects_v2(Bucket="team").get("Contents", ()):
            self._client.delete_object(Bucket="team", Key=each["Key"])
        self._client.delete_bucket(Bucket="team")

    def close(self) -> None:
        """End it."""
        self._server.stop()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """An S3 with a bucket `team`."""
    made = Bucket()
    yield made
    made.close()


@contextmanager
def postgresql() -> Iterator[Callable[[str], str]]:
    """A PostgreSQL; yields a function that makes a database and returns its URL."""
    import pgserver
    import psycopg

    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # its socket's path must be short
        server = pgserver.get_server(folder, cleanup_mode="stop")

        def made(name: str) -> str:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            url = server.get_uri(name) if "/postgres?" not in server.get_uri() else server.get_uri()
            return url.replace("/postgres?", f"/{name}?").replace("postgresql://", "postgresql+psycopg://")

        yield made
        server.cleanup()


@contextmanager
def team(kind: str, folder: Path) -> Iterator[tuple[MlflowServer, dict[str, str], str]]:
    """A team's server; yields it, what its users have in their environment, and a storage for Optuna."""
    with ExitStack() as stack:
        database = stack.enter_context(postgresql())
        options, environment, own = [], dict[str, str](), dict[str, str]()
        if kind == "passwords":
            options = ["--app-name", "basic-auth", "--artifacts-destination", str(folder / "artifacts")]
            own = {
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-tests",
                "MLFLOW_AUTH_ADMIN_PASSWORD": _ADMIN["MLFLOW_TRACKING_PASSWORD"],
            }
            environment = _ADMIN
        elif kind == "s3":
            bucket = Bucket()
            stack.callback(bucket.close)
            options = ["--default-artifact-root", "s3://team/artifacts", "--no-serve-artifacts"]
            own = environment = bucket.environment
        mlflow = database("mlflow")
        server = stack.enter_context(mlflow_server(folder, *options, database=mlflow, environment=own))
        yield server, {**environment, "MLFLOW_TRACKING_URI": server.uri}, database("optuna")


def a_study(folder: Path, name: str) -> None:
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    text = TINY.format(name=name, build="mlp") + '\n[search]\npruner = "none"\n'
    (folder / "studies" / f"{name}.toml").write_text(text)


def succeeds(module: str, *args: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    done = command(module, *args, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_all_commands_work_on_a_teams_server(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A team would train a night, and then not promote, serve, sync or reproduce what its server holds."""
    with team(kind, tmp_path) as (server, environment, storage):
        options = ("--workers", "1", "--storage", storage)
        people = [tmp_path / "ann", tmp_path / "bob"]
        for person in people:
            a_study(person, "team")
            a_study(person, person.name)
        done = succeeds("search.run", "team", "-n", "3", "--json", *options, cwd=people[0], env=environment)
        best = json.loads(done.stdout)["best"]
        assert json.loads(done.stdout)["model"]["version"] == "1"

        # Two at once, on one study and on two.
        for names in (("team", "team"), ("ann", "bob")):
            running = [
                begin(
                    "search.run",
                    name,
                    "-n",
                    "2",
                    "--json",
                    *options,
                    cwd=person,
                    env={**os.environ, **environment},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                for name, person in zip(names, people, strict=True)
            ]
            for each in running:
                printed, errors = each.communicate(timeout=400)
                assert each.returncode == 0, errors
                assert json.loads(printed)["n_trials"]["complete"] == 2
        for name in ("team", "ann", "bob"):
            place = {"cwd": people[name == "bob"], "env": environment}
            succeeds("search.sync", name, "--storage", storage, **place)  # a server of two cores lags behind
            succeeds("search.sync", name, "--check", "--storage", storage, **place)

        succeeds("search.promote", "team", cwd=people[1], env=environment)
        again = succeeds("search.reproduce", best["run_id"], "--json", cwd=people[1], env=environment)
        assert json.loads(again.stdout)["same"]
        np.savez(people[1] / "rows.npz", x=np.zeros((3, 2), "float32"))
        succeeds("search.predict", "team", "--input", "rows.npz", "--output", "out.csv", cwd=people[1], env=environment)
        assert len((people[1] / "out.csv").read_text().splitlines()) == 4
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        with served("models:/team@champion", people[1], server.uri) as ask:
            answer = ask(json.dumps({"inputs": [[0.0, 0.0]]}), "application/json")
        assert np.asarray(answer["predictions"]).shape == (1, 1)


@pytest.mark.heavy
def test_wrong_or_missing_passwords_are_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would wait for the import of TensorFlow, or for a night, and then read a page of HTML."""
    a_study(tmp_path, "team")
    with team("passwords", tmp_path) as (_, environment, _):
        uri = {"MLFLOW_TRACKING_URI": environment["MLFLOW_TRACKING_URI"]}
        for given, said in (
            ({}, "log in by MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"),
            ({**_ADMIN, "MLFLOW_TRACKING_PASSWORD": "wrong"}, "HTTP status 401"),
        ):
            done = command("search.run", "team", "-n", "1", "--workers", "1", cwd=tmp_path, env={**uri, **given})
            assert done.returncode == 2
            assert said in done.stderr.strip().splitlines()[-1]
            assert not list((tmp_path / "studies").glob("*.journal"))


@pytest.mark.heavy
def test_a_server_may_have_a_prefix_and_a_certificate_of_its_own(
    tiny: Callable[..., Definition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server behind a team's gateway could not be used, or the message would not say how."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *names], check=True, capture_output=True)
    options = ("--static-prefix", "/team", "--artifacts-destination", str(tmp_path / "artifacts"))
    tls = ("--uvicorn-opts", f"--ssl-keyfile {key} --ssl-certfile {certificate}")
    server = MlflowServer(tmp_path, *options, *tls)
    try:
        server.begin()
        until(lambda: reachable(server.direct))
        uri = server.direct.replace("http:", "https:") + "/team"
        with pytest.raises(TrackingError, match="not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH"):
            shown(tiny("team"), uri)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-token")
        assert shown(tiny("team"), uri)
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert shown(tiny("grün und blau"), uri)
    finally:
        server.close()


def shown(definition: Definition, uri: str) -> str:
    """Show a search without trials in an MLflow store, as a search begins and ends; return its run."""
    from search.tracking import store

    chosen = store.set_uri(uri)
    with store.fresh_store(chosen), store.store_errors(chosen):
        run = SearchRun(definition, definition.name, "abc", {}, {}, "2026-01-01T00:00:00+00:00")
        run.open()
        run.end("FINISHED", {}, {})
    return run.run_id


def reachable(uri: str) -> bool:
    """Return whether something listens there."""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", int(uri.rpartition(":")[2])), 1).close()
        return True
    return False


def until(met: Callable[[], bool]) -> None:
    """Wait until something holds, two minutes at most."""
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_artifacts_on_s3_may_be_away_for_a_while(
    tiny: Callable[..., Definition], folder: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that fails for a minute would cost the trials of that minute, or their models."""
    from mlflow import MlflowClient

    for variable, value in bucket.environment.items():
        monkeypatch.setenv(variable, value)
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(uri).create_experiment("team", "s3://team/artifacts")
    settings = resolve(tiny("team", more='\n[search]\npruner = "none"\n'), n_trials=4, workers=1, tracking_uri=uri)
    said = list[str]()

    def disturb(progress: Progress) -> None:
        if progress.state == "complete" and progress.done == 1:
            bucket.delete()
        elif progress.state == "complete" and progress.done == 3:
            bucket.create()

    outcome = search(settings, disturb, said.append)
    assert outcome.n_trials["complete"] == 4
    assert outcome.not_mirrored.numbers == (), said
    assert outcome.model is not None, said
    assert sync(settings, said.append, only_check=True).differs == ()


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://misspelt/artifacts", "NoSuchBucket: The specified bucket does not exist"),
        ("/proc/nothing", "No such file or directory"),
        ("mlflow-artifacts:/1", "mlflow-artifacts"),
    ],
)
def test_artifacts_that_cannot_be_written_are_told_before_anything_is_there(
    location: str,
    said: str,
    tiny: Callable[..., Definition],
    folder: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search would train, and then end in botocore's traceback; its run would stay RUNNING."""
    from mlflow import MlflowClient

    for variable, value in bucket.environment.items():
        monkeypatch.setenv(variable, value)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("team", location)
    run = SearchRun(tiny("team"), "team", "abc", {}, {}, "2026-01-01T00:00:00+00:00")
    with pytest.raises(TrackingError, match="artifacts of MLflow experiment 'team' cannot be written to") as told:
        run.open()
    assert said in str(told.value)
    assert len(str(told.value)) < 350
    assert client.search_runs([experiment]) == []
