"""The picture on a kept trial's page: how its model errs on validation rows, and where two features decide."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from search.figures import literal
from search.training.result import TrialResult

_NUMBERED = 12  # classes whose counts are written into the matrix

Panel = Callable[[Any], None]


def of_trial(result: TrialResult) -> bytes:
    """Return the picture of a trial as a PNG; empty where there is nothing to draw."""
    return side_by_side([*_looks(result.looks)])


def prepare() -> None:
    """Import what draws, and let it find its fonts: a second of processor time, best spent while nothing trains."""
    with suppress(Exception):  # as where a picture is drawn: a page does without
        side_by_side([lambda _: None])


def side_by_side(panels: Sequence[Panel]) -> bytes:
    """Return panels beside each other as a PNG; empty when there are none."""
    if not panels:
        return b""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        panel(axes)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    return drawn.getvalue()


def _looks(looks: dict[str, Any]) -> Iterator[Panel]:
    for kind, panel in (("confusion", _confusion), ("residuals", _residuals), ("regions", _regions)):
        if looks.get(kind):
            yield partial(panel, looks=looks)


def _confusion(axes: Any, looks: dict[str, Any]) -> None:
    counts, classes = looks["confusion"], [literal(each) for each in looks["classes"]]
    axes.imshow(counts, cmap="Blues")
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(places, classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{sum(map(sum, counts))} validation rows")
    half = max(map(max, counts)) / 2
    for row, column in ((row, column) for row in places for column in places if len(classes) <= _NUMBERED):
        count = counts[row][column]
        axes.text(column, row, count, ha="center", va="center", fontsize=8, color="w" if count > half else "k")


def _residuals(axes: Any, looks: dict[str, Any]) -> None:
    pairs = looks["residuals"]
    axes.scatter([true for true, _ in pairs], [given - true for true, given in pairs], s=10)
    axes.axhline(0, color="0.5", linestyle="--")
    axes.set(xlabel="true value", ylabel="predicted − true", title=f"{len(pairs)} validation rows")


def _regions(axes: Any, looks: dict[str, Any]) -> None:
    highest = max(1, len(looks["classes"]) - 1)
    style = {"cmap": "viridis", "vmin": 0, "vmax": highest}
    axes.imshow(looks["regions"], origin="lower", extent=looks["extent"], aspect="auto", alpha=0.4, **style)
    first, second, labels = zip(*looks["points"], strict=True)
    axes.scatter(first, second, c=labels, s=10, edgecolors="w", linewidths=0.3, **style)
    axes.set(xlabel="feature 0", ylabel="feature 1", title="decision regions and training rows")
