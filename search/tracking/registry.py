"""MLflow's model registry: a run's model becomes a version; aliases move, and move back.

It never trains and never looks at data: what it compares was recorded when the version was made.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from search.comparison.predictions import FILE as PREDICTIONS
from search.comparison.predictions import Predictions
from search.errors import RegistryError, UsageError, did_you_mean, one_line, printable
from search.tracking.logged_model import PREDICTIONS_DIGEST, digest_of

CHALLENGER, CHAMPION = "challenger", "champion"
REFUSED = "refused"  # why a version has no alias
EXCLUDED = "excluded"  # who left its trial out, when and why
TEST_METRIC, TEST_VALUE, TEST_DIRECTION, DIGEST = "test_metric", "test_value", "test_direction", "data_digest"
COPIED_FROM, MODEL_ID = "copied_from", "model_id"
_RULE = "\n\n---\n"  # between what the search said of a version and what a promotion says
_LONGEST = 5000  # characters of a description: MLflow's column on PostgreSQL
_LONGEST_KEY = 250  # characters of a tag's name
_NOT_FOUND, _INVALID = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        uri: What `mlflow.pyfunc.load_model` takes.
        refused: Why it has no alias: what happened when it was loaded outside the study's folder.
        champion: Whether it is champion already.
    """

    name: str
    version: str
    alias: str | None
    refused: str = ""
    champion: bool = False

    @property
    def uri(self) -> str:
        """The version's own URI."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Version:
    """A version of a registered model, as the registry has it.

    Attributes:
        name: The registered model.
        number: Its number there.
        run_id: The run that made it; empty when it names none.
        model_id: Its logged model; empty for a version of another origin.
        tags: Its tags.
        description: Its description, in Markdown.
    """

    name: str
    number: str
    run_id: str
    model_id: str
    tags: Mapping[str, str]
    description: str

    @property
    def uri(self) -> str:
        """The version's own URI."""
        return f"models:/{self.name}/{self.number}"

    @property
    def metric(self) -> str:
        """The test metric that it is judged by; empty when none was recorded."""
        return self.tags.get(TEST_METRIC, "")

    @property
    def maximize(self) -> bool:
        """Whether more of its test metric is better."""
        return self.tags.get(TEST_DIRECTION) == "maximize"

    def recorded(self, metric: str = "") -> float:
        """Return a metric that was recorded when it was registered, its test metric when left out; NaN for none."""
        text = self.tags.get(f"metric.{metric}") if metric else self.tags.get(TEST_VALUE)
        try:
            return float(text or "nan")
        except ValueError:
            return math.nan


def register(
    name: str, model_id: str, *, tags: Mapping[str, str], description: str, about: str, refused: str = ""
) -> Registered:
    """Make a logged model the newest version of a registered model, with alias `challenger`.

    The descriptions come last, and a registry that refuses them still has the version and its alias.

    Args:
        name: The registered model; created when new.
        model_id: The logged model's id.
        tags: Tags of the version.
        description: What the version is, in Markdown.
        about: What the registered model is, in Markdown; set when it is new.
        refused: Why it cannot be used; the version says so and gets no alias.
    """
    client = MlflowClient()
    if refused:
        tags = {**tags, REFUSED: refused}
        description = f"**It cannot be used: {refused}**\n\n{description}"
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what the command says itself
        kept = {MODEL_ID: model_id, **{key[:_LONGEST_KEY]: value for key, value in tags.items()}}
        version = mlflow.register_model(f"models:/{model_id}", name, tags=kept).version
    if not refused:
        client.set_registered_model_alias(name, CHALLENGER, version)
    with contextlib.suppress(MlflowException):
        client.update_model_version(name, version, description=printable(description, _LONGEST))
        if str(version) == "1":
            client.update_registered_model(name, description=printable(about, _LONGEST))
    return Registered(name, str(version), None if refused else CHALLENGER, refused)


def version_of_run(name: str, run_id: str) -> Registered | None:
    """Return the version made from a run, if there is one."""
    client = MlflowClient()
    if _model(client, name) is None:
        return None
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name != name:
            continue
        full = client.get_model_version(name, version.version)
        alias = CHALLENGER if CHALLENGER in full.aliases else next(iter(full.aliases), None)
        return Registered(name, str(version.version), alias, full.tags.get(REFUSED, ""), CHAMPION in full.aliases)
    return None


def as_challenger(registered: Registered) -> Registered:
    """Give a version alias `challenger` where it has none: its registration may have ended before that."""
    if registered.refused:
        return registered
    if registered.alias is None:
        MlflowClient().set_registered_model_alias(registered.name, CHALLENGER, registered.version)
    return replace(registered, alias=registered.alias or CHALLENGER)


def versions(name: str) -> tuple[int, str | None]:
    """Return how many versions a registered model has, and which is champion; none where there is no such model."""
    champion = holder(name, CHAMPION)
    return len(all_versions(name)), None if champion is None else champion.number


def load_keras(uri: str) -> Any:
    """Return the Keras model of a version."""
    return mlflow.pyfunc.load_model(uri).get_raw_model()


def challenger(name: str) -> Version | None:
    """Return the version with alias `challenger`; None when there is no such model or version."""
    return holder(name, CHALLENGER)


def holder(name: str, alias: str) -> Version | None:
    """Return the version that carries an alias; None when none does.

    The model itself says which aliases it has, so an error of the registry is never taken for "none".
    """
    model = _model(MlflowClient(), name)
    number = (model.aliases if model is not None else {}).get(alias)
    return None if number is None else _full(name, str(number))


def _full(name: str, number: str) -> Version | None:
    """Return a version with its tags; None where it was deleted, which some stores leave the alias of."""
    try:
        return _version(MlflowClient().get_model_version(name, number))
    except MlflowException as error:
        if error.error_code == _NOT_FOUND:
            return None
        raise


def find(model: str, version: str | None = None) -> Version:
    """Return a version, by default the challenger.

    Raises:
        RegistryError: There is no such model or version.
    """
    check_known(model)
    if version is None:
        candidate = challenger(model)
        if candidate is None:
            raise RegistryError(f"model '{model}' has no version with alias '{CHALLENGER}'; name one with --version")
        return candidate
    known = {each.number: each for each in all_versions(model)}
    if version not in known:
        have = ", ".join(sorted(known, key=int))
        raise RegistryError(f"model '{model}' has no version '{version}'; it has {have or 'none'}")
    return known[version]


def all_versions(model: str) -> list[Version]:
    """Return every version of a registered model, the newest first; none where there is no such model."""
    client = MlflowClient()
    if _model(client, model) is None:
        return []
    found: list[Version] = []
    token = None
    while True:
        page = client.search_model_versions(named(model), page_token=token)
        found += [_version(each) for each in page if each.name == model]
        token = page.token
        if not token:
            return sorted(found, key=lambda each: -int(each.number))


def named(model: str) -> str | None:
    """Return MLflow's filter for the versions of a model; None where its language cannot spell the name."""
    quote = next((each for each in "'\"" if each not in model), None)
    return None if quote is None else f"name = {quote}{model}{quote}"


def check_known(model: str) -> None:
    """See that there is a registered model of this name.

    Raises:
        RegistryError: There is none.
    """
    client = MlflowClient()
    if _model(client, model) is None:
        names = [each.name for each in client.search_registered_models()]
        have = f"; the registry has {', '.join(names)}" if names else "; the registry is empty"
        raise RegistryError(f"no registered model '{model}'{have}{did_you_mean(model, names)}")


def check_alias(alias: str) -> None:
    """See that MLflow takes an alias.

    Raises:
        UsageError: It does not.
    """
    if not re.fullmatch(r"[\w-]{1,200}", alias) or re.fullmatch(r"(?i)latest|v\d+", alias):
        raise UsageError(f"--alias '{alias}': use at most 200 letters, digits, - and _, but neither 'latest' nor 'v1'")


def check_name(model: str) -> None:
    """See that MLflow takes a name for a new registered model.

    Raises:
        UsageError: It does not.
    """
    if not model.strip() or set("/:") & set(model) or model.strip(".") == "":
        raise UsageError(f"--to '{model}': a registered model's name is not empty and has neither '/' nor ':'")


def move(version: Version, alias: str) -> None:
    """Give a version an alias, whoever carries it now."""
    MlflowClient().set_registered_model_alias(version.name, alias, version.number)


def tag(version: Version, tags: Mapping[str, str]) -> None:
    """Write tags to a version."""
    for key, value in tags.items():
        MlflowClient().set_model_version_tag(version.name, version.number, key, value)


def untag(version: Version, key: str) -> None:
    """Remove a tag from a version, if it is there."""
    with contextlib.suppress(MlflowException):
        MlflowClient().delete_model_version_tag(version.name, version.number, key)


def describe(version: Version, paragraph: str) -> None:
    """Add a paragraph to a version's description, in place of an earlier one of this kind."""
    text = f"{version.description.partition(_RULE)[0][: _LONGEST // 2]}{_RULE}{paragraph}"
    with contextlib.suppress(MlflowException):
        MlflowClient().update_model_version(version.name, version.number, description=printable(text, _LONGEST))


def mark_excluded(version: Version, text: str) -> None:
    """Say on a version that its trial is excluded, so that it is nobody's challenger; an empty text takes that back."""
    client, told = MlflowClient(), re.sub(r"\A\*\*Its trial is excluded:.*\n\n", "", version.description)
    if text:
        told = f"**Its trial is excluded: {text}.**\n\n{told}"
        tag(version, {EXCLUDED: text})
        holding = challenger(version.name)
        if holding is not None and holding.number == version.number:
            client.delete_registered_model_alias(version.name, CHALLENGER)
    else:
        untag(version, EXCLUDED)
    with contextlib.suppress(MlflowException):
        client.update_model_version(version.name, version.number, description=printable(told, _LONGEST))


def attach(version: Version, folder: str, place: str) -> str:
    """Add files to the run that made a version, and return the run; empty where they cannot be added."""
    with contextlib.suppress(MlflowException, OSError):  # they explain a decision that is made already
        MlflowClient().log_artifacts(version.run_id, folder, place)
        return version.run_id
    return ""


def copy(version: Version, name: str) -> Version:
    """Return a version of another registered model with the same logged model, copied there unless it is there."""
    for each in all_versions(name):
        if each.tags.get(COPIED_FROM) == version.uri:
            return each
    client = MlflowClient()
    with contextlib.redirect_stderr(io.StringIO()):
        made = client.copy_model_version(version.uri, name)
    copied = _version(made)
    tag(copied, {COPIED_FROM: version.uri})
    return find(name, copied.number)


def predictions_of(version: Version) -> Predictions | None:
    """Return a version's predictions for the test rows; None when it was registered without them.

    Raises:
        RegistryError: They are not there any more, or not those that it was registered with.
    """
    if not version.model_id:
        return None
    try:
        known = MlflowClient().get_logged_model(version.model_id).tags.get(PREDICTIONS_DIGEST)
        if known is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            uri = f"{version.uri}/{PREDICTIONS}"
            content = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder)).read_bytes()
        if digest_of(content) != known:
            raise ValueError("they are not those that it was registered with")
        return Predictions.from_bytes(content)
    except (MlflowException, OSError, ValueError) as error:
        raise RegistryError(
            f"the test predictions of {version.uri} cannot be used ({one_line(error)}); compare with --data FILE"
        ) from error


def size_mb(version: Version) -> float:
    """Return the size of a version's Keras archive in megabytes; NaN when it is not known."""
    if not version.model_id:
        return math.nan
    try:
        files = MlflowClient().list_logged_model_artifacts(version.model_id, "data")
    except (MlflowException, OSError):  # the logged model was deleted
        return math.nan
    sizes = [each.file_size for each in files if each.path.endswith(".keras") and each.file_size is not None]
    return sum(sizes) / 1e6 if sizes else math.nan


def _version(version: ModelVersion) -> Version:
    return Version(
        version.name,
        str(version.version),
        version.run_id or "",
        version.model_id or (version.tags or {}).get(MODEL_ID, "") or _logged_model(version.source or ""),
        dict(version.tags or {}),
        version.description or "",
    )


def _logged_model(source: str) -> str:
    """Return the logged model that a version's source names; MLflow's own store keeps it nowhere else."""
    found = re.fullmatch(r"models:/(m-[0-9a-f]+)", source)
    return found[1] if found else ""


def _model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return a registered model; None when there is none of this name, or there cannot be."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in (_NOT_FOUND, _INVALID):
            return None
        raise
