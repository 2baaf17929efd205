"""A real MLflow server behind a proxy that answers in its place: with errors, slowly, or not at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_START_SECONDS = 300
_HTML = b"<html><body>Bad gateway</body></html>"
_NOT_NOW = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "not now"}'
_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "keep-alive", "content-length", "server", "date"}

Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, body


class MlflowServer:
    """An MLflow server whose death, silence and errors a test decides.

    Args:
        folder: Where its database and artifacts are, unless told otherwise.
        options: Further options of `mlflow server`.
        database: The URI of its database.
        environment: Variables of the server.

    Attributes:
        uri: The tracking URI that clients use: the proxy's.
        answer: What the proxy does: `pass`, `drop` the connection, `html`, or a status to answer with, such as `503`.
        delay: Seconds that each answer waits.
        requests: How many requests came.
        answered: How many of them were dealt with.
        seen: What they asked, as `POST runs/create`.
    """

    def __init__(
        self, folder: Path, *options: str, database: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._database = folder, database or f"sqlite:///{folder}/server.db"
        self._options = options or ("--artifacts-destination", str(folder / "artifacts"))
        self._environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.answer, self.delay = "pass", 0.0
        self.requests = self.answered = 0
        self.seen: list[str] = []
        self._port = _free_port()
        self._proxy = _Proxy(self)
        self.uri = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    @property
    def direct(self) -> str:
        """The tracking URI without the proxy."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start the server, which takes seconds."""
        options = [
            *("--host", "127.0.0.1", "--port", self._port, "--workers", 1),
            *("--backend-store-uri", self._database),
            *self._options,
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *map(str, options)],
            env={**os.environ, **self._environment},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until the server answers."""
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError):
                connection = HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.2)
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Stop its processes: connections are accepted, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End everything."""
        self.kill()
        self._proxy.shutdown()
        self._proxy.server_close()

    def forwarded(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return what the server answers to a request."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=300)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, mlflow: MlflowServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mlflow = mlflow


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy

    def _handle(self) -> None:
        self.server.mlflow.requests += 1
        endpoint = self.path.partition("?")[0].rpartition("/2.0/mlflow/")[2]
        self.server.mlflow.seen.append(f"{self.command} {endpoint}")
        try:
            self._answer()
        finally:
            self.server.mlflow.answered += 1

    def _answer(self) -> None:
        mlflow, body = self.server.mlflow, self._body()
        time.sleep(mlflow.delay)
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has given up
            if mlflow.answer == "pass":
                self._forward(body)
            elif mlflow.answer == "drop":
                self.close_connection = True
            elif mlflow.answer == "html":
                self._send(200, [], _HTML)
            else:
                self._send(int(mlflow.answer), [], _NOT_NOW)

    def _forward(self, body: bytes) -> None:
        try:
            answer = self.server.mlflow.forwarded(self.command, self.path, dict(self.headers), body)
        except (OSError, HTTPException):  # as without a proxy: the connection ends without an answer
            self.close_connection = True
            return
        self._send(*answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        read = b""
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return read

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler._handle)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, *options: str, **further: Any) -> Iterator[MlflowServer]:
    """A running MLflow server inside this block; see `MlflowServer`."""
    server = MlflowServer(folder, *options, **further)
    try:
        server.start()
        yield server
    finally:
        server.close()
