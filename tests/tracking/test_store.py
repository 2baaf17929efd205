"""What a person is told of an MLflow store that cannot be used: one line, with what is wrong and what mends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from search.errors import TrackingError
from search.tracking import store


class _Refuses(BaseHTTPRequestHandler):
    """Answers with the status that its path begins with, and a page."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.end_headers()
        self.wfile.write(b"<html>" + b"x" * 3000)

    do_POST = do_GET  # noqa: N815 - as the standard library calls it

    def log_message(self, *_: object) -> None:
        """Keep the terminal clean."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"//127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1:9", "connection refused: nothing listens there"),
        ("http:{}/401", "HTTP status 401; log in by MLFLOW_TRACKING_USERNAME"),
        ("http:{}/404", "what answers there is not an MLflow server"),
        ("http:{}/200", "what answers there is not an MLflow server"),
        ("http:{}/503", "HTTP status 503"),
        ("https:{}", "it does not speak https"),
        ("postgresql+psycopg://me:secret@127.0.0.1:9/x", "connection refused: nothing listens there"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_in_a_short_line(
    uri: str, said: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person would wait for minutes, and then read a page of HTML, or urllib3's objects with their addresses."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = uri.format(address)
    with pytest.raises(TrackingError, match=r"cannot be used") as told, store.existing_store(uri):
        pass
    line = str(told.value)
    assert f"({said}" in line
    assert line.startswith("MLflow tracking store ")
    assert len(line) < 250
    assert "secret" not in line
