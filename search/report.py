"""`python -m search.report`: a study as tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli import Debug, Storage, Study, StudyName, execute
from search.studyfile.load import find_study, load_definition


def report_command(
    study: Study = "blobs",
    study_name: StudyName = None,
    storage: Storage = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where plots go.  [default: reports/NAME]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials to list.")] = 10,
    debug: Debug = False,
) -> None:
    """Report: list a study's best trials, and draw it as files."""
    from search.study import plots
    from search.study.create import load
    from search.studyfile.settings import resolve

    definition = load_definition(find_study(study))
    settings = resolve(definition, study_name=study_name, storage=storage)
    name = settings.study_name
    loaded = load(name, settings.storage)
    folder = output or Path("reports") / name
    folder.mkdir(parents=True, exist_ok=True)
    written = plots.write(loaded, definition, folder)
    from search.terminal import print_study

    print_study(loaded, definition, top)
    for path in written:
        print(path)


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(report_command, "python -m search.report")


if __name__ == "__main__":
    main()
