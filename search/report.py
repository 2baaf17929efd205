"""`python -m search.report`: a study as text in the terminal, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli import Json, Study, main_of, print_json, settings_of, with_options


@with_options("study_name", "storage", "tracking_uri")
def report_command(
    study: Study = "blobs",
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the files go.  [default: reports/NAME]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many of the best trials to list.")] = 5,
    *,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Report: print what a study found, and write report.html, plots and trials.csv.

    Example: python -m search.report blobs
    """
    from search.reporting import plots
    from search.reporting.address import address_of
    from search.reporting.findings import findings_of
    from search.study import create

    settings = settings_of(study, **options)
    definition = settings.definition
    loaded = create.load(settings.study_name, settings.storage)
    folder = output or Path("reports") / settings.study_name
    folder.mkdir(parents=True, exist_ok=True)
    address = address_of(loaded, definition, settings.tracking_uri)
    written = plots.write(loaded, definition, folder, address)

    found = findings_of(loaded, definition, top)
    if as_json:
        print_json({**found.as_json(), "files": [str(path) for path in written]})
        return
    from search.terminal import print_findings

    print_findings(found, definition, written, [line for line in (address.serve, address.url) if line])


main = main_of(report_command)

if __name__ == "__main__":
    main()
