"""A trial's curves as a picture: training and validation together, the kept epoch marked.

Every trial gets one, so it is written as SVG in a millisecond; matplotlib takes a sixth of a second for the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from search.figures import number
from search.training.result import TrialResult

_MOST = 2  # panels
_WIDE, _HIGH = 350, 280  # a panel, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 30, 44  # around the axes
_TICKS = 6  # at most
_TRAINING, _VALIDATION, _KEPT = "#1f77b4", "#ff7f0e", "#777777"

_Points = list[tuple[int, float]]


@dataclass(frozen=True)
class _Scale:
    """From values to pixels.

    Attributes:
        low: The lowest value.
        high: The highest value.
        start: The pixel of the lowest.
        end: The pixel of the highest.
        whole: Whether values are whole numbers.
    """

    low: float
    high: float
    start: int
    end: int
    whole: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value; a margin of one twentieth is left at both ends."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + (self.end - self.start) * (0.05 + 0.9 * share)

    def ticks(self) -> Iterator[float]:
        """Yield round values between the lowest and the highest."""
        if self.high <= self.low:
            yield self.low
            return
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / _TICKS))
        step *= next(times for times in (1, 2, 5, 10) if (self.high - self.low) / (step * times) <= _TICKS)
        step = max(1.0, step) if self.whole else step
        for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield round(index * step) if self.whole else round(index * step, 12)


def of_trial(result: TrialResult) -> str:
    """Return the curves of a trial's first two metrics as SVG; empty where no metric has a validation value."""
    names = list(dict.fromkeys(name for epoch in result.epochs for name in epoch.logs))
    both = [name for name in names if "/" not in name and f"val_{name}" in names]
    panels = [_panel(result, name, _WIDE * index) for index, name in enumerate(both[:_MOST])]
    if not panels:
        return ""
    size = f'width="{_WIDE * len(panels)}" height="{_HIGH}"'
    style = 'font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(panels)}</svg>\n'


def _panel(result: TrialResult, name: str, left: int) -> str:
    training, validation = _points(result, name), _points(result, f"val_{name}")
    if not training and not validation:
        return _text(left + _WIDE / 2, _HIGH / 2, f"{name} has no finite value")
    steps = [step for step, _ in (*training, *validation)]
    values = [value for _, value in (*training, *validation)]
    across = _Scale(min(steps), max(steps), left + _LEFT, left + _WIDE - _RIGHT, whole=True)
    up = _Scale(min(values), max(values), _HIGH - _BOTTOM, _TOP)
    size = f'width="{across.end - across.start}" height="{up.start - up.end}"'
    parts = [f'<rect x="{across.start}" y="{_TOP}" {size} fill="white" stroke="#333333"/>']
    parts += [_text(across.at(tick), up.start + 15, number(tick)) for tick in across.ticks()]
    parts += [_text(across.start - 5, up.at(tick) + 4, number(tick), "end") for tick in up.ticks()]
    parts.append(_text((across.start + across.end) / 2, _HIGH - 8, "epoch"))
    kept = _kept(result)
    if kept is not None and across.low <= kept <= across.high:
        x = f"{across.at(kept):.1f}"
        parts.append(f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{up.start}" stroke="{_KEPT}" stroke-dasharray="4 3"/>')
    parts += [
        _line(points, across, up, colour) for points, colour in ((training, _TRAINING), (validation, _VALIDATION))
    ]
    parts.append(_title(name, across.start, kept is not None))
    return "".join(parts)


def _points(result: TrialResult, name: str) -> _Points:
    """Return a metric's finite values by epoch, from 1."""
    found = ((epoch.step + 1, epoch.logs.get(name, math.nan)) for epoch in result.epochs)
    return [(step, value) for step, value in found if math.isfinite(value)]


def _kept(result: TrialResult) -> float | None:
    """Return the epoch, from 1, whose model a complete trial has."""
    if result.fate != "complete":
        return None
    return result.metrics.get("best_epoch", float(result.epochs[-1].step)) + 1


def _title(name: str, left: float, kept: bool) -> str:
    """Return the metric's name and what each line stands for, in its colour."""
    meaning = [("training", _TRAINING), ("validation", _VALIDATION), *([("kept epoch", _KEPT)] if kept else [])]
    shown = "".join(f'<tspan dx="9" fill="{colour}">{label}</tspan>' for label, colour in meaning)
    return f'<text x="{left}" y="{_TOP - 10}"><tspan font-weight="bold">{escape(name[:24])}</tspan>{shown}</text>'


def _line(points: _Points, across: _Scale, up: _Scale, colour: str) -> str:
    places = [(across.at(step), up.at(value)) for step, value in points]
    if len(places) == 1:
        return f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" fill="{colour}"/>'
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'
