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
from dataclasses import dataclass, field, replace
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
NO_NUMBER = "its test value is no number"
EXCLUDED = "excluded"  # who left its trial out, when and why
TEST_METRIC, TEST_VALUE, TEST_DIRECTION, DIGEST = "test_metric", "test_value", "test_direction", "data_digest"
COPIED_FROM, MODEL_ID = "copied_from", "model_id"
# What people see of a version; MLflow's pages hide tags that begin with "mlflow.".
_SHOWN, _HIDDEN = {"study", "trial", TEST_VALUE, DIGEST, REFUSED, EXCLUDED}, "mlflow.search."
_RULE = "\n\n---\n"  # between what the search said of a version and what a promotion says
_LONGEST = 5000  # characters of a description: MLflow's column on PostgreSQL
_LONGEST_KEY = 250  # characters of a tag's name
_NOT_FOUND, _INVALID = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, as the registry has it; or another logged model that a person named.

    Attributes:
        name: The registered model; empty for a logged model that is no version.
        version: Its number there.
        aliases: The aliases that it carries.
        run_id: The run that made it; empty when it names none.
        model_id: Its logged model; empty for a version of another origin.
        tags: Its tags.
        description: Its description, in Markdown.
        source: What MLflow calls a logged model that is no version.
    """

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    run_id: str = field(default="", repr=False)
    model_id: str = field(default="", repr=False)
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    description: str = field(default="", repr=False)
    source: str = field(default="", repr=False)

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return self.source or f"models:/{self.name}/{self.version}"

    @property
    def alias(self) -> str | None:
        """The alias that a person knows it by: `challenger` before others."""
        return CHALLENGER if CHALLENGER in self.aliases else next(iter(self.aliases), None)

    @property
    def champion(self) -> bool:
        """Whether it is champion."""
        return CHAMPION in self.aliases

    @property
    def refused(self) -> str:
        """Why it has no alias: it cannot be loaded outside the study's folder, or its test value is no number."""
        return self.tags.get(REFUSED, "")

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
        what = "has no alias" if refused.startswith(NO_NUMBER) else "cannot be used"
        description = f"**It {what}: {refused}**\n\n{description}"
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what the command says itself
        kept = {_key(key): value for key, value in {MODEL_ID: model_id, **tags}.items()}
        version = mlflow.register_model(f"models:/{model_id}", name, tags=kept).version
    if not refused:
        client.set_registered_model_alias(name, CHALLENGER, version)
    made = Registered(name, str(version))
    _describe(made, description)
    if made.version == "1":
        with contextlib.suppress(MlflowException):
            client.update_registered_model(name, description=printable(about, _LONGEST))
    return find(name, made.version)


def version_of_run(name: str, run_id: str) -> Registered | None:
    """Return the version made from a run, if there is one."""
    return next((each for each in all_versions(name) if each.run_id == run_id), None)


def as_challenger(registered: Registered) -> Registered:
    """Give a version alias `challenger` where it has none: its registration may have ended before that."""
    if registered.refused or registered.aliases:
        return registered
    move(registered, CHALLENGER)
    return replace(registered, aliases=(CHALLENGER,))


def holder(name: str, alias: str) -> Registered | None:
    """Return the version that carries an alias; None when none does, or when it was deleted."""
    return next((each for each in all_versions(name) if alias in each.aliases), None)


def locate(model: str) -> Registered:
    """Return the model that a name stands for.

    Args:
        model: A registered model (its champion, else its challenger, else its newest version), `name@alias`,
            `name/version`, or a URI that begins with `models:/` or `runs:/`.

    Raises:
        RegistryError: There is no such model, version or alias.
    """
    if model.startswith("runs:/"):
        return Registered("", "", run_id=model.removeprefix("runs:/").partition("/")[0], source=model)
    plain = model.removeprefix("models:/").strip("/")
    if model.startswith("models:/") and plain.startswith("m-") and "/" not in plain and "@" not in plain:
        return Registered("", "", model_id=plain, source=model)
    if "@" in plain:
        name, _, alias = plain.rpartition("@")
        return find(name, alias=alias)
    name, _, version = plain.partition("/")
    if version and version != "latest":
        return find(name, version)
    check_known(name)
    known = all_versions(name)
    if not known:
        raise RegistryError(f"model '{name}' has no version; run a search first")
    aliases = {alias: each for each in known for alias in each.aliases} if not version else {}
    return aliases.get(CHAMPION) or aliases.get(CHALLENGER) or known[0]


def find(model: str, version: str | None = None, *, alias: str = CHALLENGER) -> Registered:
    """Return a version by its number, or where none is given by an alias.

    Raises:
        RegistryError: There is no such model, version or alias.
    """
    check_known(model)
    known = all_versions(model)
    if version is None:
        aliases = {each_alias: each for each in known for each_alias in each.aliases}
        if alias in aliases:
            return aliases[alias]
        have = ", ".join(sorted(aliases)) or "none"
        hint = "; name a version" if alias == CHALLENGER else did_you_mean(alias, aliases)
        raise RegistryError(f"model '{model}' has no version with alias '{alias}'; it has {have}{hint}")
    found = next((each for each in known if each.version == version), None)
    if found is None:
        have = ", ".join(each.version for each in reversed(known)) or "none"
        raise RegistryError(f"model '{model}' has no version '{version}'; it has {have}")
    return found


def all_versions(model: str) -> list[Registered]:
    """Return every version of a registered model, the newest first; none where there is no such model.

    The model itself says which aliases it has, so an error of the registry is never taken for "none".
    """
    client = MlflowClient()
    registered = _model(client, model)
    if registered is None:
        return []
    found: list[Registered] = []
    token = None
    while True:
        page = client.search_model_versions(named(model), page_token=token)
        found += [_registered(each, registered.aliases) for each in page if each.name == model]
        token = page.token
        if not token:
            return sorted(found, key=lambda each: -int(each.version))


def named(model: str) -> str | None:
    """Return MLflow's filter for the versions of a model; None where its language cannot spell the name."""
    quote = next((each for each in "'\"" if each not in model), None)
    return None if quote is None else f"name = {quote}{model}{quote}"


def check_known(model: str) -> None:
    """Raise unless there is a registered model of this name.

    Raises:
        RegistryError: There is none.
    """
    client = MlflowClient()
    if _model(client, model) is None:
        names = [each.name for each in client.search_registered_models()]
        have = f"; the registry has {', '.join(names)}" if names else "; the registry is empty"
        raise RegistryError(f"no registered model '{model}'{have}{did_you_mean(model, names)}")


def check_alias(alias: str) -> None:
    """Refuse an alias that MLflow does not take.

    Raises:
        UsageError: It does not.
    """
    if not re.fullmatch(r"[\w-]{1,200}", alias) or re.fullmatch(r"(?i)latest|v\d+", alias):
        raise UsageError(f"--alias '{alias}': use at most 200 letters, digits, - and _, but neither 'latest' nor 'v1'")


def check_name(model: str) -> None:
    """Refuse a name that MLflow does not take for a new registered model.

    Raises:
        UsageError: It does not.
    """
    if not model.strip() or set("/:") & set(model) or model.strip(".") == "":
        raise UsageError(f"--to '{model}': a registered model's name is not empty and has neither '/' nor ':'")


def move(version: Registered, alias: str) -> None:
    """Give a version an alias, whoever carries it now."""
    MlflowClient().set_registered_model_alias(version.name, alias, version.version)


def tag(version: Registered, tags: Mapping[str, str]) -> None:
    """Write tags to a version."""
    for key, value in tags.items():
        MlflowClient().set_model_version_tag(version.name, version.version, _key(key), value)


def _key(name: str) -> str:
    """Return what MLflow calls a tag: people see who, what, how good and since when, the program reads the rest."""
    shown = name in _SHOWN or name.endswith(".since")
    return name if shown else f"{_HIDDEN}{name}"[:_LONGEST_KEY]


def untag(version: Registered, key: str) -> None:
    """Remove a tag from a version, if it is there."""
    for name in (_key(key), key):  # earlier releases hid none
        with contextlib.suppress(MlflowException):
            MlflowClient().delete_model_version_tag(version.name, version.version, name)


def describe(version: Registered, paragraph: str) -> None:
    """Add a paragraph to a version's description, in place of an earlier one of this kind."""
    _describe(version, f"{version.description.partition(_RULE)[0][: _LONGEST // 2]}{_RULE}{paragraph}")


def _describe(version: Registered, text: str) -> None:
    with contextlib.suppress(MlflowException):
        MlflowClient().update_model_version(version.name, version.version, description=printable(text, _LONGEST))


def mark_excluded(version: Registered, text: str) -> None:
    """Say on a version that its trial is excluded, so that it is nobody's challenger; an empty text takes that back."""
    told = re.sub(r"\A\*\*Its trial is excluded:.*\n\n", "", version.description)
    if text:
        told = f"**Its trial is excluded: {text}.**\n\n{told}"
        tag(version, {EXCLUDED: text})
        holding = holder(version.name, CHALLENGER)
        if holding is not None and holding.version == version.version:
            MlflowClient().delete_registered_model_alias(version.name, CHALLENGER)
    else:
        untag(version, EXCLUDED)
    _describe(version, told)


def attach(version: Registered, folder: str, place: str) -> str:
    """Add files to the run that made a version, and return the run; empty where they cannot be added."""
    with contextlib.suppress(MlflowException, OSError):  # they explain a decision that is made already
        MlflowClient().log_artifacts(version.run_id, folder, place)
        return version.run_id
    return ""


def copy(version: Registered, name: str) -> Registered:
    """Return a version of another registered model with the same logged model, copied there unless it is there."""
    for each in all_versions(name):
        if each.tags.get(COPIED_FROM) == version.uri:
            return each
    client = MlflowClient()
    with contextlib.redirect_stderr(io.StringIO()):
        copied = find(name, str(client.copy_model_version(version.uri, name).version))
    tag(copied, {COPIED_FROM: version.uri})
    return find(name, copied.version)


def predictions_of(version: Registered) -> Predictions | None:
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


def size_mb(version: Registered) -> float:
    """Return the size of a version's Keras archive in megabytes; NaN when it is not known."""
    if not version.model_id:
        return math.nan
    try:
        files = MlflowClient().list_logged_model_artifacts(version.model_id, "data")
    except (MlflowException, OSError):  # the logged model was deleted
        return math.nan
    sizes = [each.file_size for each in files if each.path.endswith(".keras") and each.file_size is not None]
    return sum(sizes) / 1e6 if sizes else math.nan


def _registered(version: ModelVersion, aliases: Mapping[str, Any]) -> Registered:
    tags = {key.removeprefix(_HIDDEN): value for key, value in (version.tags or {}).items()}
    return Registered(
        version.name,
        str(version.version),
        tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))),
        version.run_id or "",
        version.model_id or tags.get(MODEL_ID, "") or _logged_model(version.source or ""),
        tags,
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
