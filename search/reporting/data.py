"""A picture of a study's data: classes, gaps, and where the rows lie. It reads the data and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.preprocessing import gaps
from search.figures import literal
from search.serving.rows import NUMERIC
from search.tracking.pages.pictures import Panel, side_by_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.data.dataset import Data

FILE = "data.png"
_ROWS = 500  # training rows that are drawn
_BARS = 20  # classes or columns in a panel


def draw(data: Data) -> bytes:
    """Return a PNG of the training rows; empty where there is nothing to draw, as of streams."""
    panels = [] if data.train.streamed else [each for each in (_rows(data), _targets(data), _gaps(data)) if each]
    return side_by_side(panels)


def _rows(data: Data) -> Panel | None:
    """Return the panel of the rows of data with two features."""
    x = data.x.get(NUMERIC) if isinstance(data.x, dict) else data.x
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        return None
    x = x[:_ROWS].reshape(min(_ROWS, len(x)), -1).astype("float64")
    if x.shape[1] != 2 or len(x) < 3:
        return None
    known = data.columns and [column.name for column in data.columns if column.numeric]
    names = known if known and len(known) == x.shape[1] else [f"feature {at}" for at in range(x.shape[1])]
    return lambda axes: _scatter(axes, x, names, data)


def _scatter(axes: Any, x: NDArray[Any], names: list[str], data: Data) -> None:
    axes.set(xlabel=literal(names[0]), ylabel=literal(names[1]), title=f"{len(x)} training rows")
    if data.task in ("binary", "multiclass"):
        indices = data.class_indices(data.train)[: len(x)]
        for index, label in enumerate(data.classes[:_BARS]):
            axes.scatter(*x[indices == index].T, s=10, label=literal(str(label)))
        if len(data.classes) <= 10:
            axes.legend(fontsize=7)
    elif data.task == "regression" and np.ndim(data.y) and np.size(data.y) == len(data.train):
        shown = axes.scatter(*x.T, s=10, c=np.asarray(data.y, "float64").reshape(-1)[: len(x)])
        axes.figure.colorbar(shown, ax=axes, label="target")
    else:
        axes.scatter(*x.T, s=10)


def _targets(data: Data) -> Panel | None:
    if data.task in ("binary", "multiclass"):
        counts = np.bincount(data.class_indices(data.train), minlength=len(data.classes))
        labels = [str(label) for label in data.classes][:_BARS]
        return lambda axes: _bars(axes, labels, counts[:_BARS].tolist(), "training rows of each class")
    if data.task == "regression" and isinstance(data.y, np.ndarray) and data.y.size == len(data.train):

        def histogram(axes: Any) -> None:
            axes.hist(np.asarray(data.y, "float64").reshape(-1), bins=30)
            axes.set(title="target", ylabel="training rows")

        return histogram
    return None


def _gaps(data: Data) -> Panel | None:
    counts = {name: int(gap.sum()) for name, gap in gaps(data.x, data.columns).items()} if data.columns else {}
    some = sorted(((count, name) for name, count in counts.items() if count), reverse=True)[:_BARS]
    return (lambda axes: _bars(axes, [n for _, n in some], [c for c, _ in some], "missing values")) if some else None


def _bars(axes: Any, names: list[str], counts: list[int], title: str) -> None:
    bars = axes.barh([literal(name[:24]) for name in names][::-1], counts[::-1])
    axes.bar_label(bars, padding=2, fontsize=8)
    axes.set_title(title)
    axes.margins(x=0.15)
