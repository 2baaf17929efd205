"""`python -m search.promote`: make a version champion, or roll back."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import Debug, Json, TrackingUri, execute
from search.errors import UsageError

if TYPE_CHECKING:
    from search.tracking.registry import Promotion


def promote_command(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    version: Annotated[
        str | None, typer.Option(metavar="V", help="The version to promote.  [default: the challenger]")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Promote even a version that is worse.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Give the alias back to who carried it before.")] = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Promote: make the challenger champion, unless it is worse on its recorded test metric.

    Example: python -m search.promote blobs
    """
    from search.tracking import registry, store

    if rollback and (version is not None or force):
        raise UsageError("--rollback with --version or --force; --rollback knows the version by itself")
    with store.existing_store(store.set_uri(tracking_uri)):
        promotion = (
            registry.rollback(model, alias=alias)
            if rollback
            else registry.promote(model, version=version, alias=alias, force=force)
        )
    if as_json:
        shown = asdict(promotion)
        shown.pop("refused")
        print(json.dumps(shown))
    else:
        _print_promotion(promotion)
    if promotion.refused:
        sys.exit(1)


def _print_promotion(promotion: Promotion) -> None:
    what = f"{promotion.model} version {promotion.version}"
    if promotion.promoted:
        before = f" (before: version {promotion.previous})" if promotion.previous else ""
        print(f"{what} is now {promotion.alias}{before}: {promotion.reason}")
    elif promotion.refused:
        print(f"{what} was not promoted: {promotion.reason}", file=sys.stderr)
    else:
        print(f"nothing to do: {promotion.reason}")


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(promote_command, "python -m search.promote")


if __name__ == "__main__":
    main()
