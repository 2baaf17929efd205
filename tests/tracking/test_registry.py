"""The registry: which version carries an alias, who carried it before, and what is never better."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search import promotion
from search.errors import RegistryError, TrackingError
from search.tracking import registry, store


def version_of(client: MlflowClient, folder: Path, value: str | None, *, direction: str = "minimize") -> str:
    """Add a version of model `m` that recorded this test value, and return its number."""
    tags = {registry.TEST_METRIC: "test_loss", registry.TEST_DIRECTION: direction, registry.DIGEST: "0123abcd"}
    tags |= {} if value is None else {registry.TEST_VALUE: value}
    version = client.create_model_version("m", str(folder), tags=tags).version
    client.set_registered_model_alias("m", registry.CHALLENGER, version)
    return str(version)


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    """A registry with a model that has no version."""
    client = MlflowClient()
    client.create_registered_model("m")
    return client


@pytest.mark.parametrize("value", ["nan", "", None, "inf", "none"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_is_no_number_is_never_better(
    client: MlflowClient, folder: Path, value: str | None, direction: str
) -> None:
    """A model whose test value is NaN, or was never measured, would become champion."""
    version_of(client, folder, "0.5", direction=direction)
    promotion.promote("m")
    version_of(client, folder, value, direction=direction)
    told = promotion.promote("m")
    assert (told.promoted, told.refused) == (False, True)
    assert "version 2 recorded no finite test_loss" in told.reason
    assert client.get_model_version_by_alias("m", "champion").version == 1


def test_an_error_of_the_registry_is_not_an_absent_champion(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that fails for a moment would let any version pass as the first."""
    version_of(client, folder, "0.1")
    promotion.promote("m")
    version_of(client, folder, "0.9")
    uri = store.uri()

    def failing(*_: object, **__: object) -> None:
        raise MlflowException("the database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "get_registered_model", failing)
        with pytest.raises(TrackingError, match="the database is locked"), store.store_errors(uri):
            promotion.promote("m")
        with pytest.raises(MlflowException, match="the database is locked"):
            registry.holder("m", registry.CHALLENGER)
        with pytest.raises(MlflowException, match="the database is locked"):
            registry.version_of_run("m", "0" * 32)
    assert client.get_model_version_by_alias("m", "champion").version == 1


def test_what_is_not_there_is_named(client: MlflowClient, folder: Path) -> None:
    """A person who mistypes a name would not learn which names there are."""
    with pytest.raises(RegistryError, match="no registered model 'n'; the registry has m"):
        promotion.promote("n")
    with pytest.raises(RegistryError, match="no version with alias 'challenger'"):
        promotion.promote("m")
    version_of(client, folder, "0.5")
    with pytest.raises(RegistryError, match="no version '7'; it has 1"):
        promotion.promote("m", version="7")
    with pytest.raises(RegistryError, match="no version 'first'; it has 1"):
        promotion.promote("m", version="first")


@pytest.fixture
def model_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A logged model that holds nothing."""
    with mlflow.start_run():
        return str(mlflow.initialize_logged_model("model").model_id)


def test_long_descriptions_are_cut(folder: Path, model_id: str) -> None:
    """A study of 300 columns would end, after all its trials, with a version that has no alias."""
    registered = registry.register(
        "wide", model_id, tags={"metric." + 300 * "x": "1"}, description=9000 * "ä", about="\0"
    )
    client = MlflowClient()
    version = client.get_model_version_by_alias("wide", "challenger")
    assert (str(version.version), len(version.description)) == (registered.version, 5000)


def test_prose_that_fails_leaves_the_version_with_its_alias(
    folder: Path, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version would stay without alias because a text could not be written."""

    def failing(*_: object, **__: object) -> None:
        raise MlflowException("value too long for type character varying(5000)")

    monkeypatch.setattr(MlflowClient, "update_model_version", failing)
    registry.register("m", model_id, tags={}, description="text", about="text")
    assert MlflowClient().get_model_version_by_alias("m", "challenger").version == 1


def test_a_registration_that_ended_before_the_alias_is_completed(client: MlflowClient, folder: Path) -> None:
    """A crash between version and alias would leave a best model that promotion does not find."""
    with mlflow.start_run() as run:
        client.create_model_version("m", str(folder), run.info.run_id)
    known = registry.version_of_run("m", run.info.run_id)
    assert known is not None
    assert known.alias is None
    assert registry.as_challenger(known).alias == "challenger"
    assert client.get_model_version_by_alias("m", "challenger").version == 1
    client.set_registered_model_alias("m", "champion", "1")
    promoted = registry.version_of_run("m", run.info.run_id)
    assert promoted is not None
    assert registry.as_challenger(promoted).champion, "else it would be offered for promotion once more"
