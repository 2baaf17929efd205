"""MLflow's model registry: a run's model becomes a version; aliases move, and move back.

It never trains and never looks at data: what it compares was recorded when the version was made.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from search.errors import RegistryError, did_you_mean, printable

CHALLENGER, CHAMPION = "challenger", "champion"
TEST_METRIC, TEST_VALUE, TEST_DIRECTION, DIGEST = "test_metric", "test_value", "test_direction", "data_digest"
_LONGEST = 5000  # characters of a description: MLflow's column on PostgreSQL
_LONGEST_KEY = 250  # characters of a tag's name
_NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"


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

    The descriptions come last, and a registry that refuses them still has the version and its alias.

    Args:
        name: The registered model; created when new.
        model_id: The logged model's id.
        tags: Tags of the version.
        description: What the version is, in Markdown.
        about: What the registered model is, in Markdown; set when it is new.
    """
    client = MlflowClient()
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what the command says itself
        kept = {key[:_LONGEST_KEY]: value for key, value in tags.items()}
        version = mlflow.register_model(f"models:/{model_id}", name, tags=kept).version
    client.set_registered_model_alias(name, CHALLENGER, version)
    with contextlib.suppress(MlflowException):
        client.update_model_version(name, version, description=printable(description, _LONGEST))
        if str(version) == "1":
            client.update_registered_model(name, description=printable(about, _LONGEST))
    return Registered(name, str(version), CHALLENGER)


def version_of_run(name: str, run_id: str) -> Registered | None:
    """Return the version made from a run, if there is one."""
    client = MlflowClient()
    if _model(client, name) is None:
        return None
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        full = client.get_model_version(name, version.version)
        alias = CHALLENGER if CHALLENGER in full.aliases else next(iter(full.aliases), None)
        return Registered(name, str(version.version), alias)
    return None


def as_challenger(registered: Registered) -> Registered:
    """Give a version alias `challenger` where it has none: its registration may have ended before that."""
    if registered.alias is None:
        MlflowClient().set_registered_model_alias(registered.name, CHALLENGER, registered.version)
    return Registered(registered.name, registered.version, registered.alias or CHALLENGER)


def versions(name: str) -> tuple[int, str | None]:
    """Return how many versions a registered model has, and which is champion; none where there is no such model."""
    client = MlflowClient()
    champion = _holder(client, name, CHAMPION)
    count = len(client.search_model_versions(f"name = '{name}'", max_results=10_000))
    return count, None if champion is None else str(champion.version)


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


def _model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return a registered model; None when there is none of this name."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == _NOT_FOUND:
            return None
        raise


def _known(client: MlflowClient, model: str) -> None:
    if _model(client, model) is None:
        names = [each.name for each in client.search_registered_models()]
        have = f"; the registry has {', '.join(names)}" if names else "; the registry is empty"
        raise RegistryError(f"no registered model '{model}'{have}{did_you_mean(model, names)}")


def _find(client: MlflowClient, model: str, version: str | None) -> ModelVersion:
    _known(client, model)
    if version is None:
        candidate = _holder(client, model, CHALLENGER)
        if candidate is None:
            raise RegistryError(f"model '{model}' has no version with alias '{CHALLENGER}'; name one with --version")
        return candidate
    versions = client.search_model_versions(f"name = '{model}'")
    if version not in {str(each.version) for each in versions}:
        have = ", ".join(map(str, sorted(int(each.version) for each in versions)))
        raise RegistryError(f"model '{model}' has no version '{version}'; it has {have or 'none'}")
    return client.get_model_version(model, version)


def _holder(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version that carries an alias; None when none does.

    The model itself says which aliases it has, so an error of the registry is never taken for "none".
    """
    model = _model(client, name)
    version = (model.aliases if model is not None else {}).get(alias)
    return None if version is None else client.get_model_version(name, version)


def _compare(candidate: ModelVersion, current: ModelVersion | None) -> tuple[bool, str]:
    """Return whether `candidate` may take over from `current`, and why."""
    if current is None:
        return True, "first to carry the alias"
    metric = current.tags.get(TEST_METRIC, "")
    if candidate.tags.get(TEST_METRIC) != metric or not metric:
        return False, f"versions {candidate.version} and {current.version} recorded no common test metric"
    ours, theirs = _recorded(candidate), _recorded(current)
    for version, value in ((candidate, ours), (current, theirs)):
        if not math.isfinite(value):
            return False, f"version {version.version} recorded no finite {metric}, so nothing shows which is better"
    worse = ours > theirs if current.tags.get(TEST_DIRECTION) == "minimize" else ours < theirs
    other = "" if candidate.tags.get(DIGEST) == current.tags.get(DIGEST) else ", on other data"
    relation = "worse than" if worse else "as good as" if ours == theirs else "better than"
    return not worse, f"{metric} {ours:.6g} is {relation} version {current.version}'s {theirs:.6g}{other}"


def _recorded(version: ModelVersion) -> float:
    """Return the test value that a version was registered with; NaN where there is none."""
    try:
        return float(version.tags.get(TEST_VALUE) or "nan")
    except ValueError:
        return math.nan
