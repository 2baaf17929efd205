"""Numbers, durations and tables as text, whole: a number is never cut, a column is shown or named as left out."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

_GAP = "  "
_BAR = 24
_WIDE = 70  # columns that have room for the whole bar
_SPACE = "&ensp;"  # in Markdown


def number(value: object) -> str:
    """Return a value with five significant digits, or as it is when it is no fraction."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def finite(value: float | None) -> float | None:
    """Return a number as JSON knows it: none for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def duration(seconds: float) -> str:
    """Return a duration as `0:07` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(seconds: float | None) -> str:
    """Return `0:07 left`; nothing where it is not known."""
    return "" if seconds is None else f"{duration(seconds)} left"


def counts(of: Mapping[str, int]) -> str:
    """Return `18 complete, 2 pruned`."""
    return ", ".join(f"{count} {what}" for what, count in of.items())


def some(numbers: Sequence[int]) -> str:
    """Return the first five numbers in brackets."""
    shown = ", ".join(map(str, numbers[:5]))
    return f"({shown}, …)" if len(numbers) > 5 else f"({shown})"


def bar(done: int, total: int, width: int) -> str:
    """Return a bar for lines of so many columns."""
    length = _BAR if width >= _WIDE else _BAR // 2
    filled = min(length, round(length * done / max(1, total)))
    return f"{'━' * filled}{'╌' * (length - filled)}"


def plural(count: int, noun: str) -> str:
    """Return `1 trial` or `2 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def spans(numbers: Iterable[int]) -> str:
    """Return whole numbers in increasing order as `0 to 49, 52`."""
    found: list[list[int]] = []
    for each in numbers:
        if found and each == found[-1][-1] + 1:
            found[-1] = [found[-1][0], each]
        else:
            found.append([each])
    return ", ".join(" to ".join(map(str, each)) for each in found)


def fitting(pieces: Sequence[str], width: int | None, separator: str = ", ") -> str:
    """Return as many of the pieces, from the first on, as fit a width; the first is always whole."""
    line = ""
    for piece in filter(None, pieces):
        longer = f"{line}{separator}{piece}" if line else piece
        if line and width is not None and len(longer) > width:
            break
        line = longer
    return line


def block(entries: Sequence[tuple[str, object]], indent: str = "  ") -> list[str]:
    """Return names and values, a line each, the values below one another."""
    widest = max((len(name) for name, _ in entries), default=0)
    return [f"{indent}{name.ljust(widest)}  {number(value)}" for name, value in entries]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> tuple[list[str], list[str]]:
    """Return a table's lines, and the names of the columns that do not fit.

    Args:
        header: The columns' names; the first is always shown.
        rows: A text for each column.
        width: The longest line; None for no limit.
    """
    columns = [[name, *(row[index] for row in rows)] for index, name in enumerate(header)]
    shown, left_out, used = [], [], 0
    for index, column in enumerate(columns):
        wide = max(map(len, column)) + (len(_GAP) if index else 0)
        if index and width is not None and used + wide > width:
            left_out.append(header[index])
            continue
        used += wide
        names = not index and any(not cell.isdigit() for cell in column[1:])
        widest = max(map(len, column))
        shown.append([cell.ljust(widest) if names else cell.rjust(widest) for cell in column])
    return [_GAP.join(cells).rstrip() for cells in zip(*shown, strict=True)], left_out


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; its cells are set apart by spaces, as MLflow's pages leave none between columns."""
    spaced = [[f"{_SPACE}{cell}{_SPACE}" for cell in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(each)} |" for each in (spaced[0], ["---:"] * len(head), *spaced[1:]))


def paragraph(text: str, width: int | None, indent: str = "") -> list[str]:
    """Return a text in lines of a width, broken between words only; in one line without a width."""
    if width is None:
        return [indent + text]
    wrapped = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [indent]


def width_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has; None where there is no terminal, or none that says so."""
    try:
        return (os.get_terminal_size(stream.fileno()).columns or None) if stream.isatty() else None
    except (OSError, ValueError):  # closed, or without a file
        return None


def literal(text: str) -> str:
    """Return a text that matplotlib shows as it is: two dollar signs would begin and end a formula."""
    return text.replace("$", r"\$")
