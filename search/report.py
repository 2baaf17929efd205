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
    from search.study import create

    settings = settings_of(study, **options)
    definition = settings.definition
    loaded = create.load(settings.study_name, settings.storage)
    folder = output or Path("reports") / settings.study_name
    folder.mkdir(parents=True, exist_ok=True)
    written = plots.write(loaded, definition, folder)
    from search.reporting.findings import findings_of

    found = findings_of(loaded, definition, top)
    if as_json:
        print_json({**found.as_json(), "files": [str(path) for path in written]})
        return
    from search.terminal import print_findings

    print_findings(found, definition, written, _page(settings.study_name, settings.tracking_uri))


def _page(name: str, tracking_uri: str | None) -> list[str]:
    """Return how to open the study in MLflow's UI; nothing where MLflow does not have it."""
    from search.errors import TrackingError
    from search.tracking import store
    from search.tracking.pages import views

    uri = store.set_uri(tracking_uri)
    try:
        with store.existing_store(uri):
            page = views.page_of_study(uri, name)
    except TrackingError:
        return []
    return [] if page is None else [line for line in (page.serve, page.url) if line]


main = main_of(report_command)

if __name__ == "__main__":
    main()
