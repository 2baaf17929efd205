"""`python -m search.stop`: end a running search, or one of its trials, from elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli import Debug, Json, Storage, Study, StudyName, execute, print_json, tell
from search.errors import UsageError
from search.studyfile.load import find_study, load_definition
from search.studyfile.settings import resolve


def stop_command(
    study: Study = "blobs",
    trial: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Stop this trial only; it counts as pruned.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="End running trials at once; else they finish first.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="End the search so that search.run --resume goes on.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the study.")] = "",
    study_name: StudyName = None,
    storage: Storage = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop: end a running search early and register its best trial, from any machine that reaches its storage.

    Example: python -m search.stop blobs --reason "good enough"
    """
    if pause and trial is not None:
        raise UsageError("--pause is for a search; a trial that is stopped is not resumed")
    settings = resolve(load_definition(find_study(study)), study_name=study_name, storage=storage)
    from search import steering

    told = steering.stop(settings, trial, now=now, pause=pause, reason=reason)
    if as_json:
        print_json({"study": settings.study_name, "trial": trial, "pause": pause, "now": now, "reason": reason})
    else:
        tell(told)


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(stop_command, "python -m search.stop")


if __name__ == "__main__":
    main()
