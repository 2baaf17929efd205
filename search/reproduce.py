"""`python -m search.reproduce`: train a trial again from MLflow alone, and compare."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import Json, TrackingUri, main_of, print_json, tell
from search.errors import UsageError

if TYPE_CHECKING:
    from search.workers.reproduction import Reproduction


def reproduce_command(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN_ID", help="A trial's run, or a registered model such as models:/NAME@champion."),
    ],
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Reproduce: train a trial again from its runs in MLflow alone, and compare every epoch's metrics.

    Example: python -m search.reproduce models:/blobs@champion
    """
    from search.tracking import store

    with store.existing_store(store.set_uri(tracking_uri)):
        from search.workers.reproduction import reproduce

        run_id = _run_of(run)
        with redirect_stdout(sys.stderr):  # what the user's code prints
            found = reproduce(run_id)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    if not found.same:
        sys.exit(1)


def _run_of(run: str) -> str:
    if ":/" not in run and "@" not in run:
        return run
    from search.tracking.registry import locate

    located = locate(run)
    if not located.run_id:
        raise UsageError(f"model '{run}' does not say which run trained it; name the run")
    return located.run_id


def _print(found: Reproduction) -> None:
    from search.workers.reproduction import TOLERANCE

    what = f"{found.what} (run {found.run_id}), {found.epochs} epochs, {len(found.metrics)} metrics"
    if found.exact:
        tell(f"Same to the last bit: {what}.")
    elif found.same:
        tell(f"Same within {TOLERANCE:.0%}, as other versions, code or processor allow: {what}.")
    else:
        tell(f"Differs: {what}.")
    for each in found.differs:
        tell(f"  {each}")


main = main_of(reproduce_command)

if __name__ == "__main__":
    main()
