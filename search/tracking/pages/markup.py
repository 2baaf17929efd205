"""HTML for notebooks and the report: what others wrote is escaped, and no colour hides on a light or dark ground."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

_ADDRESS = re.compile(r"https?://[^\s<>\"')]+")
GREY = "#888"  # of lines and letters in pictures: it reads on light and on dark ground


class Markup(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


def markup(value: object) -> Markup:
    """Return a value as HTML: a fraction with four significant digits, an address in a text as a link."""
    if isinstance(value, Markup):
        return value
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    found, end = "", 0
    for address in _ADDRESS.finditer(text):
        found += escape(text[end : address.start()]) + link(address[0], address[0])
        end = address.end()
    return Markup(found + escape(text[end:]))


def link(address: str, text: str) -> Markup:
    """Return a text that opens an address in a new tab."""
    return Markup(f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(text)}</a>')


def heading(text: str) -> Markup:
    """Return a text in bold letters, on a line of its own."""
    return Markup(f"<div><b>{markup(text)}</b></div>")


def paragraph(text: object) -> Markup:
    """Return a text as a paragraph; nothing for an empty one."""
    return Markup(f"<p>{markup(text)}</p>" if text else "")


def facts(rows: Mapping[str, object]) -> Markup:
    """Return names and values as a table of two columns; a name without a value, None, False or empty, is left out."""
    told = ((name, value) for name, value in rows.items() if value is not None and value is not False and value != "")
    cells = (f"<tr><th{_LEFT}>{markup(name)}</th><td{_LEFT}>{markup(value)}</td></tr>" for name, value in told)
    return Markup(f"<table>{''.join(cells)}</table>")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Return a table in a box that scrolls where the page is too narrow for it; no number is broken."""
    heads = "".join(f"<th>{markup(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    box = '<div class="wide" style="overflow-x:auto">'
    return Markup(f'{box}<table style="white-space:nowrap"><tr>{heads}</tr>{lines}</table></div>')


def _cell(value: object) -> str:
    wraps = isinstance(value, str) and not isinstance(value, Markup) and len(value) > _LONG
    return f"<td{_WRAPPED if wraps else ''}>{markup(value)}</td>"


def image(png: bytes, about: str) -> Markup:
    """Return a picture that lies in the page itself; nothing where there is none."""
    if not png:
        return Markup("")
    data = base64.b64encode(png).decode()
    return Markup(f'<img alt="{escape(about)}" style="max-width:100%" src="data:image/png;base64,{data}">')


_LONG = 12  # characters of a text that may be broken into lines
_WRAPPED = ' style="white-space:normal;overflow-wrap:anywhere;min-width:7em"'
_LEFT = ' style="text-align:left"'
