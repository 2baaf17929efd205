"""Writes the README's table of flags from the command itself: `python -m tests.docs.flags`."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from search.cli import application
from search.run import run_command

PAGE = Path(__file__).parents[2] / "README.md"
_OF_ALL = ("as_json", "debug")  # which every command has
_HEAD = "| flag of `search.run` | meaning |\n| --- | --- |\n"


def written() -> str:
    """Return the README with the table as the command has it."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(_HEAD)
    return f"{before}{_HEAD}{''.join(_rows())}{after[after.index(chr(10) * 2) + 1 :]}"


def _rows() -> list[str]:
    parameters = typer.main.get_command(application(run_command)).params
    return [
        f"| `{' '.join(filter(None, [*each.opts[:1], _value(each)]))}` | {_escaped(each.help)} |\n"
        for each in parameters
        if each.param_type_name == "option" and each.name not in _OF_ALL
    ]


def _value(parameter: typer.core.TyperOption) -> str:
    """Return what stands for an option's value; nothing for a switch."""
    return _escaped(parameter.metavar or "")


def _escaped(text: str | None) -> str:
    told = re.sub(r"\.  \[(default: .*)\]$", r" (\1).", text or "")
    return told.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
