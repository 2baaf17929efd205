"""`python -m search.stop`: end a running search, or one of its trials, from elsewhere."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from search.cli import Json, Study, main_of, print_json, settings_of, tell, with_options
from search.errors import UsageError


@with_options("study_name", "storage")
def stop_command(
    study: Study = "blobs",
    trial: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Stop this trial only; it counts as pruned.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="End running trials at once; else they finish first.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="End the search so that search.run --resume goes on.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the study.")] = "",
    *,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Stop: end a running search early and register its best trial, from any machine that reaches its storage.

    Example: python -m search.stop blobs --reason "good enough"
    """
    if pause and trial is not None:
        raise UsageError("--pause is for a search; a trial that is stopped is not resumed")
    settings = settings_of(study, **options)
    from search import steering

    told = steering.stop(settings, trial, now=now, pause=pause, reason=reason)
    if as_json:
        print_json({"study": settings.study_name, "trial": trial, "pause": pause, "now": now, "reason": reason})
    else:
        tell(told)


main = main_of(stop_command)

if __name__ == "__main__":
    main()
