"""What MLflow keeps of a run, under names that it takes: a metric may be `acc@5` here, a parameter `units[0]`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from search.errors import redact

_ILLEGAL = re.compile(r"[^/\w.\- :]")
_LONGEST = 250  # characters of a name
_LONGEST_TAG = 5000  # characters of its value
_MOST, _MOST_PARAMS, _MOST_TAGS = 1000, 100, 100  # in one request: of all, of parameters, of tags


def legal(name: str) -> str:
    """Return a name with each character that MLflow refuses replaced by `_`; most names stay as they are."""
    # MLflow takes a name for a path, which must lead downwards and be written in one way.
    path = posixpath.normpath(_ILLEGAL.sub("_", name)[:_LONGEST]).lstrip("/")
    path = f"_{path.lstrip('.')}" if path.startswith("..") or path == "." else path
    return path or "_"


def distinct(names: Iterable[str]) -> dict[str, str]:
    """Return the legal name of each of these, no two alike."""
    taken: dict[str, str] = {}
    for name in names:
        wanted = legal(name)
        number = 1
        while wanted in taken.values():
            number += 1
            wanted = f"{legal(name)[: _LONGEST - 4]}_{number}"
        taken[name] = wanted
    return taken


def renamed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by the names that they have in MLflow."""
    names = distinct(params)
    return {names[name]: value for name, value in params.items()}


def milliseconds(seconds: float) -> int:
    """Return a time since 1970 as MLflow takes it."""
    return int(seconds * 1000)


def runs(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    """Yield every run of an experiment that a query finds."""
    token = None
    while True:
        page = client.search_runs([experiment], query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def log(
    client: MlflowClient,
    run_id: str,
    metrics: Iterable[Metric] = (),
    tags: Mapping[str, object] | None = None,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Log to a run, in as few requests as MLflow's limits allow; empty tags are left out.

    Args:
        metrics: Under any name; it is made legal.
        tags: Likewise; secrets are left out, and what is too long is cut.
        params: By legal names.

    Raises:
        MlflowException: MLflow is away or refuses something.
    """
    left = [_legal(each) for each in metrics]
    texts = {legal(name): redact(str(value))[:_LONGEST_TAG] for name, value in (tags or {}).items()}
    tagged = [RunTag(name, text) for name, text in texts.items() if text]
    given = [Param(name, str(value)) for name, value in (params or {}).items()]
    while left or tagged or given:
        some_params, some_tags = given[:_MOST_PARAMS], tagged[:_MOST_TAGS]
        room = _MOST - len(some_params) - len(some_tags)
        client.log_batch(run_id, metrics=left[:room], params=some_params, tags=some_tags)
        left, given, tagged = left[room:], given[_MOST_PARAMS:], tagged[_MOST_TAGS:]


def _legal(metric: Metric) -> Metric:
    about = (metric.model_id, metric.dataset_name, metric.dataset_digest)
    return Metric(legal(metric.key), metric.value, metric.timestamp, metric.step, *about)
