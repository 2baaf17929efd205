"""`python -m search.promote`: make a version champion when it is surely better, or take that back."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli import Json, TrackingUri, main_of, print_json, tell, with_fields
from search.errors import UsageError
from search.promotion.conditions import Conditions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.promotion import Promotion
    from search.tracking.history import Move


_HOW = {True: "surely better", False: "surely worse", None: "undecided"}


@with_fields(Conditions)
def promote_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The registered model.")],
    version: Annotated[
        str | None, typer.Option(metavar="V", help="The version to promote.  [default: the challenger]")
    ] = None,
    alias: Annotated[str, typer.Option(metavar="NAME", help="The alias to move.")] = "champion",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Move the alias back to the version that had it before.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="List which versions had the alias, when, and why.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the decision; change nothing.")] = False,
    to: Annotated[
        str | None, typer.Option(metavar="NAME", help="Copy the version to this registered model, and move its alias.")
    ] = None,
    *,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Promote: make the challenger champion when it is surely better on the held-out test rows.

    Example: python -m search.promote blobs --metric accuracy --max-loss 0.01
    """
    from search import promotion
    from search.tracking import store

    conditions = Conditions(metrics=tuple(options.pop("metric", None) or ()), **options)
    if (rollback or history) and (rollback is history or version or dry_run or to or conditions.asks):
        which = "--rollback" if rollback else "--history"
        raise UsageError(f"{which} with other options; it takes --alias, --reason, --json and --tracking-uri only")
    with store.existing_store(store.set_uri(tracking_uri)):
        if history:
            _print_history(promotion.moves(model, alias=alias), model, alias, as_json=as_json)
            return
        if rollback:
            told = promotion.rollback(model, alias=alias, reason=conditions.reason)
        else:
            told = promotion.promote(model, version=version, alias=alias, conditions=conditions, dry_run=dry_run, to=to)
    if as_json:
        print_json(told.as_json())
    else:
        _print_promotion(told, dry_run=dry_run)
    if told.refused:
        sys.exit(1)


def _print_promotion(told: Promotion, *, dry_run: bool) -> None:
    from search.comparison.verdict import gain

    what = f"{told.model} version {told.version}"
    if told.promoted:
        before = f" (before: version {told.previous})" if told.previous else ""
        tell(f"{what} is now {told.alias}{before}: {told.reason}")
    elif told.refused:
        tell(f"{what} {'would not be' if dry_run else 'was not'} promoted: {told.reason}", sys.stderr)
    elif dry_run and told.previous != told.version:
        tell(f"{what} would be promoted: {told.reason}")
    else:
        tell(f"nothing to do: {told.reason}")
    for each in told.others:
        how = "not a finite number" if each.difference is None else _HOW[each.better]
        print(f"  {each.metric}: {each.champion:.6g} -> {each.challenger:.6g}, {how}")
    for part in told.slices:
        sure = ", surely worse" if part.worse else ""
        print(f"  {part.name} ({part.rows} rows): {gain(part.difference)}{sure}")


def _print_history(found: Sequence[Move], model: str, alias: str, *, as_json: bool) -> None:
    if as_json:
        print_json([{**asdict(each), "at": each.when} for each in found])
    elif not found:
        tell(f"no version of {model} has been {alias}")
    else:
        for each in found:
            by = f" by {each.by}" if each.by else ""
            tell(f"{each.when}  version {each.version}  {each.kind}{by}: {each.reason}")


main = main_of(promote_command)

if __name__ == "__main__":
    main()
