"""`python -m search.new`: a study of one's own, as a copy of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli import main_of
from search.errors import UsageError
from search.studyfile.load import find_study


def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new study's name.", show_default=False)] = "",
    source: Annotated[str, typer.Option("--from", metavar="STUDY", help="The study to copy.")] = "blobs",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a study file instead.")] = False,
) -> None:
    """New: copy a study, with the files it needs, to studies/NAME.toml.

    Example: python -m search.new mine --from breast_cancer
    """
    from search.studyfile import json_schema
    from search.studyfile.copy import copy_study
    from search.tracking.user_code import collect

    if schema:
        print(json_schema.as_text(), end="")
        return
    if not name:
        raise UsageError("NAME is missing; give the new study a name, as in: search.new mine --from blobs")
    for path in copy_study(name, find_study(source), Path("studies"), lambda files: collect(files).files.values()):
        print(path)
    json_schema.write(Path("studies"))  # named by the copy's first line


main = main_of(new_command)

if __name__ == "__main__":
    main()
