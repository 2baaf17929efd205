"""A registered model behind a real `mlflow models serve`, on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Ask = Callable[[str, str], Any]


@contextmanager
def served(model: str, folder: Path, uri: str = "") -> Iterator[Ask]:
    """Serve a model of the folder's registry, or of that at `uri`; yields a function of a body and its content type."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)]
    log = folder / "server.log"
    output = log.open("w")
    server = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": uri or f"sqlite:///{folder}/mlflow.db",
        },
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    # No proxy: urllib's shared opener keeps the one it first saw, in whichever test that was.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(body: str, content_type: str = "application/json") -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body.encode(), {"Content-Type": content_type}
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and server.poll() is None:
            try:
                with direct.open(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                raise AssertionError(error.read().decode()) from error
            except (urllib.error.URLError, ConnectionError):  # not up yet
                time.sleep(0.5)
        raise AssertionError(f"the server did not answer: {log.read_text()[-3000:]}")

    try:
        yield ask
    finally:
        with suppress(ProcessLookupError):  # it ended by itself; its log says why
            os.killpg(server.pid, 15)
        server.wait(30)
        output.close()
