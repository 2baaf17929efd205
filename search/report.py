"""`python -m search.report`: a study as text in the terminal, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli import Debug, Json, Storage, Study, StudyName, TrackingUri, execute, print_json
from search.studyfile.load import find_study, load_definition


def report_command(
    study: Study = "blobs",
    study_name: StudyName = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the files go.  [default: reports/NAME]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many of the best trials to list.")] = 5,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Report: print what a study found, and write report.html, plots and trials.csv.

    Example: python -m search.report blobs
    """
    from search.reporting import plots
    from search.study import create
    from search.studyfile.settings import resolve

    definition = load_definition(find_study(study))
    settings = resolve(definition, study_name=study_name, storage=storage, tracking_uri=tracking_uri)
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

    print_findings(found, definition, written, _page(settings.study_name, tracking_uri))


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


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(report_command, "python -m search.report")


if __name__ == "__main__":
    main()
