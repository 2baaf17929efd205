"""Where MLflow shows a study, and which version of the registered model its best trial is."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from search.errors import RegistryError, TrackingError
from search.study import ranking
from search.studyfile.schema import Definition


@dataclass(frozen=True)
class Address:
    """Where a study's trials and its model are.

    Attributes:
        url: The address of the study's page in MLflow's UI; empty where MLflow does not show the study.
        serve: The command that serves that page; empty when a server is up.
        version: The URI of the version that the best trial's model is; empty where it is none.
        aliases: The aliases that the version carries.
        version_url: The address of its page.
    """

    url: str = ""
    serve: str = ""
    version: str = ""
    aliases: tuple[str, ...] = ()
    version_url: str = ""


NO_ADDRESS = Address()


def address_of(study: optuna.Study, definition: Definition, tracking_uri: str | None) -> Address:
    """Ask MLflow where a study is; nowhere, where it has none of it or cannot be asked.

    Args:
        study: The study.
        definition: Its study file.
        tracking_uri: MLflow's tracking store; None for MLflow's own.
    """
    from search.tracking import agreement, store
    from search.tracking.pages import views

    name, uri = study.study_name, store.set_uri(tracking_uri)
    best = next(iter(ranking.leading_trials(definition, study)), None)
    try:
        with store.existing_store(uri):
            page = views.page_of_study(uri, name)
            versions = [] if best is None else agreement.versions_of(definition, study, best)
    except (TrackingError, RegistryError):
        return NO_ADDRESS
    if page is None:
        return NO_ADDRESS
    if not versions:
        return Address(page.url, page.serve)
    mine = versions[0]
    address = f"{page.url.partition('/#/')[0]}/#/models/{name}/versions/{mine.version}"
    return Address(page.url, page.serve, mine.uri, mine.aliases, address)
