"""`python -m search.exclude`: leave a trial out, so that it is shown and never counts."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli import Debug, Json, Storage, Study, StudyName, TrackingUri, execute, print_json, tell
from search.errors import UsageError
from search.studyfile.load import find_study, load_definition
from search.studyfile.settings import resolve


def exclude_command(
    study: Study,
    trial: Annotated[int, typer.Argument(metavar="N", min=0, help="The trial's number.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the study, required.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let the trial count again.")] = False,
    study_name: StudyName = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Exclude: leave a trial out of everything but the lists; it is never best, learned from or registered again.

    Example: python -m search.exclude blobs 17 --reason "leaked"
    """
    if not reason and not undo:
        raise UsageError('--reason is missing: say why, as in --reason "leaked"; it is kept with the study')
    settings = resolve(
        load_definition(find_study(study)), study_name=study_name, storage=storage, tracking_uri=tracking_uri
    )
    from search import steering

    told = steering.exclude(settings, trial, reason, undo=undo)
    if as_json:
        print_json({"study": settings.study_name, "trial": trial, "excluded": not undo, "reason": reason})
    else:
        tell(told)


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(exclude_command, "python -m search.exclude")


if __name__ == "__main__":
    main()
