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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("./mlruns", "in a database now, not in a folder; use sqlite:///mlflow.db"),
        ("databricks", "set DATABRICKS_HOST and DATABRICKS_TOKEN"),
        ("databricks-uc", "the tracking store is `databricks`"),
        ("ftp://host/x", "MLflow knows no such store; use sqlite:///FILE"),
    ],
)
def test_a_store_of_another_kind_is_told_with_what_would_be_right(
    uri: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person would be asked whether a folder is running."""
    for variable in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(TrackingError) as told, store.fresh_store(uri):
        pass
    assert said in str(told.value)
    assert "is it running" not in str(told.value)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "403 Client Error: Forbidden for url: http://h/api. Response text: x",
            "HTTP status 403: this user may not do it",
        ),
        ("500 Server Error: Internal Server Error for url: http://h/api", "HTTP status 500"),
        ("Unable to locate credentials", "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (
            "Failed to upload /tmp/x to b/x: An error occurred (NoSuchBucket) when calling PutObject: There is none",
            "NoSuchBucket: There is none",
        ),
        ("4 of 5 things are wrong", "OSError: 4 of 5 things are wrong"),
    ],
)
def test_why_artifacts_cannot_be_written_is_told_in_few_words(text: str, said: str) -> None:
    """A person would read a server's address and the path of a temporary file, and not the reason."""
    assert store.reason_of(OSError(text)) == said
