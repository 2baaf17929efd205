"""`python -m search.sync`: make MLflow agree with the study, trial by trial."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli import Json, Study, main_of, print_json, settings_of, tell, with_options
from search.figures import plural, spans

if TYPE_CHECKING:
    from search.handover.syncing import Synced


@with_options("study_name", "storage", "tracking_uri")
def sync_command(
    study: Study = "blobs",
    check: Annotated[bool, typer.Option("--check", help="Only look; exit 1 when they differ.")] = False,
    moved_from: Annotated[
        str | None,
        typer.Option("--moved-from", metavar="OLD", help="Mend MLflow's paths after the project's folder was moved."),
    ] = None,
    *,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Sync: write to MLflow what the study says and MLflow does not show yet.

    Example: python -m search.sync blobs
    """
    settings = settings_of(study, **options)
    from search.handover.syncing import sync

    synced = sync(settings, lambda line: print(line, file=sys.stderr), only_check=check, moved_from=moved_from)
    if as_json:
        print_json(synced.as_json())
    else:
        for line in synced.differs:
            tell(line)
        found = _found(synced, check=check)
        tell(f"study {synced.study}: {synced.checked} trials checked, {synced.mended} written, {found}")
    if synced.differs:
        sys.exit(1)


def _found(synced: Synced, *, check: bool) -> str:
    others = f"{plural(len(synced.no_run), 'trial')} of other programs ({spans(synced.no_run)})"
    without = f"; {others} {'has' if len(synced.no_run) == 1 else 'have'} no run in MLflow" if synced.no_run else ""
    if synced.differs:
        mend = "; without --check, search.sync writes what is missing" if check else ""
        return f"{plural(len(synced.differs), 'difference')}{without}{mend}"
    return f"MLflow agrees with the study{' in all others' if without else ''}{without}"


main = main_of(sync_command)

if __name__ == "__main__":
    main()
