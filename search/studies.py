"""`python -m search.studies`: which studies are here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from search.cli import Json, TrackingUri, declared, main_of, print_json, tell
from search.errors import UsageError
from search.studyfile.settings import default_storage


def studies_command(
    studies: Annotated[
        list[str] | None, typer.Argument(metavar="[STUDY]...", help="With --compare: the studies' names.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put the named studies side by side, and draw reports/compare.png.")
    ] = False,
    storage: Annotated[str | None, declared("storage", "studies/*.journal")] = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Studies: list the studies kept here, with their trials, best value, versions and champion, or compare some.

    Example: python -m search.studies
    """
    if bool(studies) != compare:
        raise UsageError("--compare takes the names of two studies or more, and names need --compare")
    if studies:
        _compare(studies, storage, tracking_uri, as_json=as_json)
        return
    from search.reporting.overview import overview

    found = overview(storage, tracking_uri, lambda line: print(line, file=sys.stderr))
    if as_json:
        print_json([each.as_json() for each in found])
        return
    from search.terminal import print_studies

    print_studies(found)


def _compare(names: list[str], storage: str | None, tracking_uri: str | None, *, as_json: bool) -> None:
    from search.reporting.side_by_side import draw, side_by_side
    from search.study import attributes, create
    from search.tracking import store

    found = [create.load(name, storage or default_storage(name)) for name in names]
    store.set_uri(tracking_uri)
    sides = side_by_side(found)
    metric = attributes.metrics_of(found[0])[0]
    file = draw(sides, metric, Path("reports"))
    if as_json:
        print_json([side.as_json() for side in sides])
        return
    from search.terminal import print_sides

    print_sides(sides, metric)
    tell(f"{file} shows the best value by trials and by seconds.")


main = main_of(studies_command)

if __name__ == "__main__":
    main()
