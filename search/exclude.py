"""`python -m search.exclude`: leave a trial out, so that it is shown and never counts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from search.cli import Json, Study, main_of, print_json, settings_of, tell, with_options
from search.errors import UsageError


@with_options("study_name", "storage", "tracking_uri")
def exclude_command(
    study: Study,
    trial: Annotated[int, typer.Argument(metavar="N", min=0, help="The trial's number.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the study, required.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let the trial count again.")] = False,
    *,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Exclude: leave a trial out of everything but the lists; it is never best, learned from or registered again.

    Example: python -m search.exclude blobs 17 --reason "leaked"
    """
    if not reason and not undo:
        raise UsageError('--reason is missing: say why, as in --reason "leaked"; it is kept with the study')
    settings = settings_of(study, **options)
    from search import steering

    told = steering.exclude(settings, trial, reason, undo=undo)
    if as_json:
        print_json({"study": settings.study_name, "trial": trial, "excluded": not undo, "reason": reason})
    else:
        tell(told)


main = main_of(exclude_command)

if __name__ == "__main__":
    main()
