"""`python -m search.studies`: which studies are here."""

from __future__ import annotations

import sys
from typing import Annotated

from search.cli import Debug, Json, TrackingUri, declared, execute, print_json


def studies_command(
    storage: Annotated[str | None, declared("storage", "studies/*.journal")] = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Studies: list the studies kept here, with their trials, best value, versions and champion.

    Example: python -m search.studies
    """
    from search.reporting.overview import overview

    found = overview(storage, tracking_uri, lambda line: print(line, file=sys.stderr))
    if as_json:
        print_json([each.as_json() for each in found])
        return
    from search.terminal import print_studies

    print_studies(found)


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(studies_command, "python -m search.studies")


if __name__ == "__main__":
    main()
