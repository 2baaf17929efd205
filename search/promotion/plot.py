"""Draws a verdict: how much better the challenger is, in each metric with its interval, and on each slice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.comparison.verdict import Slice, Verdict
from search.tracking import registry

if TYPE_CHECKING:
    from search.promotion.promote import Promotion
    from search.tracking.registry import Registered

_COLORS = {True: "tab:green", False: "tab:red", None: "tab:gray"}
_MOST_SLICES = 30


def keep(version: Registered, told: Promotion) -> str:
    """Keep a verdict's figures and picture with the run of the version; return Markdown that shows the picture."""
    verdicts = [each for each in (told.verdict, *told.others) if each is not None]
    figures = {"verdicts": [each.as_json() for each in verdicts], "slices": [vars(each) for each in told.slices]}
    drawn = any(each.interval is not None for each in verdicts)
    place = f"promotion/{told.alias}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "verdict.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
        if drawn:
            draw(verdicts, told.slices, Path(folder, "verdict.png"))
        run_id = registry.attach(version, folder, place)
    return f"\n\n![verdict](get-artifact?path={place}/verdict.png&run_uuid={run_id})" if drawn and run_id else ""


def draw(verdicts: Sequence[Verdict], slices: Sequence[Slice], path: Path) -> None:
    """Write a PNG file with one axis for each metric, and one for the slices.

    Args:
        verdicts: The verdicts; those without an interval are left out.
        slices: The slices, those most surely worse first.
    """
    from matplotlib.figure import Figure

    drawn = [each for each in verdicts if each.interval is not None and each.difference is not None]
    shown = slices[:_MOST_SLICES]
    heights = [1.0] * len(drawn) + ([0.5 + 0.25 * len(shown)] if shown else [])
    figure = Figure(figsize=(7, 0.8 + 1.1 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, verdict in zip(axes, drawn, strict=False):
        low, high = verdict.interval or (0.0, 0.0)
        axis.plot([low, high], [0, 0], color=_COLORS[verdict.better], linewidth=4, solid_capstyle="butt")
        axis.plot([verdict.difference], [0], "o", color="black")
        axis.set_title(f"{verdict.metric}: better by (95 % interval, {verdict.rows} rows)", fontsize="medium")
        axis.set_yticks([])
    if shown:
        colors = [_COLORS[False] if each.worse else _COLORS[None] for each in shown]
        axes[-1].barh(
            [f"{each.name} ({each.rows})" for each in shown], [each.difference for each in shown], color=colors
        )
        axes[-1].invert_yaxis()
        axes[-1].set_title("better by, in each slice (rows)", fontsize="medium")
    for axis in axes:
        axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    figure.savefig(path, dpi=100)
