"""MLflow's model registry: a run's model becomes a version; aliases move, and move back.

It never trains and never looks at data: what it compares was recorded when the version was made.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from search.errors import RegistryError, did_you_mean

CHALLENGER, CHAMPION = "challenger", "champion"
TEST_METRIC, TEST_VALUE, TEST_DIRECTION, DIGEST = "test_metric", "test_value", "test_direction", "data_digest"


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        uri: What `mlflow.pyfunc.load_model` takes.
    """

    name: str
    version: str
    alias: str | None

    @property
    def uri(self) -> str:
        """The version's own URI."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Promotion:
    """What became of a promotion.

    Attributes:
        previous: The version that carried the alias before, if any.
        promoted: Whether the alias moved.
        refused: Whether the gate was not passed.
        reason: Why, in one line.
    """

    model: str
    version: str
    alias: str
    previous: str | None
    promoted: bool
    refused: bool
    reason: str


def register(name: str, model_id: str, *, tags: Mapping[str, str], description: str, about: str) -> Registered:
    """Make a logged model the newest version of a registered model, with alias `challenger`.

    Args:
        name: The registered model; created when new.
        model_id: The logged model's id.
        tags: Tags of the version.
        description: What the version is, in Markdown.
        about: What the registered model is, in Markdown; set when it is new.
    """
    client = MlflowClient()
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what the command says itself
        version = mlflow.register_model(f"models:/{model_id}", name, tags=dict(tags)).version
    client.update_model_version(name, version, description=description)
    if str(version) == "1":
        client.update_registered_model(name, description=about)
    client.set_registered_model_alias(name, CHALLENGER, version)
    return Registered(name, str(version), CHALLENGER)


def version_of_run(name: str, run_id: str) -> Registered | None:
    """Return the version made from a run, if there is one."""
    client = MlflowClient()
    try:
        client.get_registered_model(name)
    except MlflowException:
        return None
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        full = client.get_model_version(name, version.version)
        alias = CHALLENGER if CHALLENGER in full.aliases else next(iter(full.aliases), None)
        return Registered(name, str(version.version), alias)
    return None


def load_keras(uri: str) -> Any:
    """Return the Keras model of a version."""
    return mlflow.pyfunc.load_model(uri).get_raw_model()


def challenger(name: str) -> ModelVersion | None:
    """Return the version with alias `challenger`; None when there is no such model or version."""
    return _holder(MlflowClient(), name, CHALLENGER)


def promote(model: str, *, version: str | None = None, alias: str = CHAMPION, force: bool = False) -> Promotion:
    """Move an alias to a version, unless that version is worse on its recorded test metric.

    Args:
        model: The registered model.
        version: The version; the `challenger` when left out.
        alias: The alias to move.
        force: Move it even to a worse version.

    Raises:
        RegistryError: There is no such model or version.
    """
    client = MlflowClient()
    candidate = _find(client, model, version)
    current = _holder(client, model, alias)
    previous = str(current.version) if current else None
    number = str(candidate.version)

    def outcome(promoted: bool, reason: str, refused: bool = False) -> Promotion:
        return Promotion(model, number, alias, previous, promoted, refused, reason)

    if previous == number:
        return outcome(False, f"version {number} is {alias} already")
    better, reason = _compare(candidate, current)
    if not better and not force:
        return outcome(False, f"{reason}; --force promotes it all the same", refused=True)
    if not better:
        reason = f"forced: {reason}"
    _move(client, model, alias, number, previous, reason)
    return outcome(True, reason)


def rollback(model: str, *, alias: str = CHAMPION) -> Promotion:
    """Give an alias back to the version that carried it before; again goes back further.

    Raises:
        RegistryError: There is no such model, or nobody carried the alias before.
    """
    client = MlflowClient()
    _known(client, model)
    current = _holder(client, model, alias)
    if current is None:
        raise RegistryError(f"model '{model}' has no {alias} to roll back; promote a version first")
    before = current.tags.get(f"{alias}.previous", "")
    if not before:
        raise RegistryError(
            f"version {current.version} of model '{model}' is its first {alias}; nothing to roll back to"
        )
    restored = _find(client, model, before)
    client.set_registered_model_alias(model, alias, before)
    reason = f"rolled back from version {current.version}"
    client.set_model_version_tag(model, before, f"{alias}.reason", reason)
    return Promotion(model, str(restored.version), alias, str(current.version), True, False, reason)


def _move(client: MlflowClient, model: str, alias: str, version: str, previous: str | None, reason: str) -> None:
    client.set_model_version_tag(model, version, f"{alias}.previous", previous or "")
    client.set_model_version_tag(model, version, f"{alias}.reason", reason)
    client.set_model_version_tag(model, version, f"{alias}.since", datetime.now(UTC).isoformat(timespec="seconds"))
    client.set_registered_model_alias(model, alias, version)


def _known(client: MlflowClient, model: str) -> None:
    try:
        client.get_registered_model(model)
    except MlflowException:
        names = [each.name for each in client.search_registered_models()]
        have = f"; the registry has {', '.join(names)}" if names else "; the registry is empty"
        raise RegistryError(f"no registered model '{model}'{have}{did_you_mean(model, names)}") from None


def _find(client: MlflowClient, model: str, version: str | None) -> ModelVersion:
    _known(client, model)
    if version is None:
        candidate = _holder(client, model, CHALLENGER)
        if candidate is None:
            raise RegistryError(f"model '{model}' has no version with alias '{CHALLENGER}'; name one with --version")
        return candidate
    try:
        return client.get_model_version(model, version)
    except MlflowException:
        have = sorted(int(each.version) for each in client.search_model_versions(f"name = '{model}'"))
        raise RegistryError(
            f"model '{model}' has no version '{version}'; it has {', '.join(map(str, have)) or 'none'}"
        ) from None


def _holder(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException:
        return None


def _compare(candidate: ModelVersion, current: ModelVersion | None) -> tuple[bool, str]:
    """Return whether `candidate` may take over from `current`, and why."""
    if current is None:
        return True, "first to carry the alias"
    metric = current.tags.get(TEST_METRIC, "")
    values = [version.tags.get(TEST_VALUE) for version in (candidate, current)]
    if candidate.tags.get(TEST_METRIC) != metric or None in values or not metric:
        return False, f"versions {candidate.version} and {current.version} recorded no common test metric"
    ours, theirs = (float(value) for value in values if value is not None)
    worse = ours > theirs if current.tags.get(TEST_DIRECTION) == "minimize" else ours < theirs
    other = "" if candidate.tags.get(DIGEST) == current.tags.get(DIGEST) else ", on other data"
    relation = "worse than" if worse else "as good as" if ours == theirs else "better than"
    return not worse, f"{metric} {ours:.6g} is {relation} version {current.version}'s {theirs:.6g}{other}"
