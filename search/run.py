"""`python -m search.run`: search, track, register."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from search.cli import Json, Study, main_of, print_json, settings_of, with_options
from search.errors import Interrupted
from search.studyfile.settings import OPTIONS
from search.workers import early
from search.workers.process import start_forkserver


@with_options(*OPTIONS)
def run_command(
    study: Study = "blobs",
    *,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    **options: Any,
) -> None:
    """Search: train trials of a study, record them in MLflow, and register the best model.

    Example: python -m search.run blobs -n 20
    """
    settings = settings_of(study, **options)
    early.check(settings)
    if settings.cluster is None:
        start_forkserver()  # first of all: it imports the framework while we import the rest
    from search.handover.outcome import Outcome
    from search.session import search
    from search.terminal import Display

    display = Display(settings.definition, silent=quiet or as_json, name=settings.study_name)
    try:
        with display:
            outcome = search(settings, display.progress, display.say)
    except Interrupted as error:
        if quiet or as_json or not isinstance(error.outcome, Outcome):
            raise
        display.outcome(error.outcome)  # it names the command that goes on
        sys.exit(error.exit_status)
    if as_json:
        print_json(outcome.as_json())
    else:
        display.outcome(outcome)


main = main_of(run_command)

if __name__ == "__main__":
    main()
