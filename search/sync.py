"""`python -m search.sync`: make MLflow agree with the study, trial by trial."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from search.cli import Debug, Json, Storage, Study, StudyName, TrackingUri, execute, print_json, tell
from search.studyfile.load import find_study, load_definition
from search.studyfile.settings import resolve


def sync_command(
    study: Study = "blobs",
    study_name: StudyName = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    check: Annotated[bool, typer.Option("--check", help="Only look; exit 1 when they differ.")] = False,
    moved_from: Annotated[
        str | None,
        typer.Option("--moved-from", metavar="OLD", help="Mend MLflow's paths after the project's folder was moved."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sync: write to MLflow what the study says and MLflow does not show yet.

    Example: python -m search.sync blobs
    """
    settings = resolve(
        load_definition(find_study(study)), study_name=study_name, storage=storage, tracking_uri=tracking_uri
    )
    from search.handover.syncing import sync

    synced = sync(settings, lambda line: print(line, file=sys.stderr), only_check=check, moved_from=moved_from)
    if as_json:
        print_json(synced.as_json())
    else:
        for line in synced.differs:
            tell(line)
        tell(
            f"study {synced.study}: {synced.checked} trials checked, {synced.mended} written, {_differ(synced.differs)}"
        )
    if synced.differs:
        sys.exit(1)


def _differ(differs: tuple[str, ...]) -> str:
    return f"{len(differs)} difference{'s' * (len(differs) > 1)}" if differs else "MLflow agrees with the study"


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(sync_command, "python -m search.sync")


if __name__ == "__main__":
    main()
