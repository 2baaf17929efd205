"""`python -m search.predict`: predict the rows of a file with a registered model, or export the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.cli import Json, TrackingUri, checked, main_of, print_json, tell
from search.errors import DataError, UsageError

if TYPE_CHECKING:
    from search.data.files import Chunk
    from search.data.profile import Outside
    from search.tracking.versions import Loaded

Export = Literal["onnx", "saved_model"]
_MOST_TOLD = 10


def predict_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A registered model (its champion, else its challenger, else its newest version), "
            "NAME@ALIAS, NAME/VERSION, or a models:/ or runs:/ URI.",
        ),
    ],
    input_file: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="Rows to predict: CSV, Parquet or NPZ.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where predictions go: CSV, Parquet or NPZ.")
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="onnx|saved_model", callback=checked(Export), help="Write the model itself to --output, by Keras."
        ),
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, metavar="N", help="Rows in memory at a time.")] = 10_000,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Predict: write a model's predictions for each row of a file, and tell how the rows differ from training.

    Example: python -m search.predict blobs --input rows.csv --output predictions.csv
    """
    if output is None:
        raise UsageError("--output: missing; name the file to write")
    from search.data import files  # NumPy alone: a wrong name is told at once

    if export is None:
        _check_files(input_file, output)
    elif input_file is not None:
        raise UsageError("--export with --input; the model is exported without any rows, so leave one of the two out")
    from search.tracking import registry, store, versions

    with store.existing_store(store.set_uri(tracking_uri)):
        located = registry.locate(model)
        loaded = versions.load(located)
    told: dict[str, Any] = {"model": located.name or model, "version": located.version, "uri": located.uri}
    if export is not None:
        versions.export(loaded, output, export)
        told |= {"output": str(output), "export": export}
        line = f"{located.uri} is exported to {output} ({export})."
        if centers := loaded.described.get("centers"):  # what serves the version subtracts them itself
            line += (
                f" Subtract from its numeric inputs before: {', '.join(f'{k} {v:.17g}' for k, v in centers.items())}."
            )
    else:
        assert input_file is not None  # noqa: S101 - for the type checker: the files were checked
        with files.output(output, "--output") as place:
            rows, columns, outside = _predict(loaded, input_file, place, chunk, quiet=as_json)
        told |= {"input": str(input_file), "output": str(output), "rows": rows, "columns": columns}
        told["outside"] = [_as_json(each) for each in outside]
        _tell(outside)
        line = f"{rows} rows predicted by {located.uri}, written to {output}."
    if as_json:
        print_json(told)
    else:
        tell(line)


def _check_files(input_file: Path | None, output: Path) -> None:
    from search.data import files

    if input_file is None:
        raise UsageError("--input: missing; name the file with the rows to predict")
    files.check_suffix(output, "--output")
    files.check(input_file, "--input")
    if not output.parent.is_dir():
        raise DataError(f"--output: no folder {output.parent}")


def _predict(
    loaded: Loaded, input_file: Path, place: Path, size: int, *, quiet: bool
) -> tuple[int, list[str], list[Outside]]:
    """Predict chunk by chunk; returns how many rows, the names written, and the columns unlike training's."""
    from search.data import files
    from search.data.profile import Comparison

    comparison, written, rows, names = Comparison(loaded.profile), files.Output(place), 0, list[str]()
    elsewhere: set[str] | None = None  # the columns that have a value in any row of the file
    with _bar(quiet) as show:
        for chunk in files.read(input_file, size, loaded.form):
            model, empty = loaded, loaded.empty(chunk.rows)
            if empty:
                elsewhere = _with_values(loaded, input_file, size) if elsewhere is None else elsewhere
                model = loaded.without(empty & elsewhere)
            predicted = _predicted(model, chunk, comparison, input_file)
            written.add(predicted, loaded.classes)
            names = list(predicted)
            rows += len(predicted[names[0]])
            show(chunk.done, rows)
    written.close()
    return rows, names, comparison.outside()


def _with_values(loaded: Loaded, input_file: Path, size: int) -> set[str]:
    """Return the columns of a file that have a value in any row."""
    from search.data import files

    chunks = files.read(input_file, size, loaded.form)
    return {str(name) for chunk in chunks for name in chunk.rows.columns if chunk.rows[name].notna().any()}


def _predicted(loaded: Loaded, chunk: Chunk, comparison: Any, input_file: Path) -> dict[str, Any]:
    try:
        rows = loaded.as_trained(chunk.rows)
        if loaded.described:
            comparison.add(loaded.prepare(rows), loaded.numeric, loaded.texts)
        return loaded.predict(rows)
    except DataError as error:
        raise DataError(f"--input: {input_file}: {error}") from error


def _tell(outside: list[Outside]) -> None:
    """Tell how the rows differ from training; columns with a few rows beyond their range share a line."""
    few = [each for each in outside if each.few_beyond]
    rest = [each for each in outside if not each.few_beyond]
    lines = [f"column '{each.column}': {'; '.join(each.told)}" for each in rest[:_MOST_TOLD]]
    if len(rest) > _MOST_TOLD:
        lines.append(f"{len(rest) - _MOST_TOLD} more columns; --json has them")
    if few:
        names = ", ".join(f"'{each.column}'" for each in few[:3]) + (", …" if len(few) > 3 else "")
        lines.append(f"fewer than 1% of the rows beyond what it saw in {len(few)} column(s): {names}")
    for line in lines:
        tell(f"unlike the training data: {line}", sys.stderr)


def _as_json(outside: Outside) -> dict[str, Any]:
    return {
        "column": outside.column,
        "beyond_range": outside.beyond,
        "new_categories": outside.new,
        "categories": list(outside.categories),
        "missing": outside.missing,
        "missing_in_training": outside.was_missing,
        "told": list(outside.told),
    }


@contextmanager
def _bar(quiet: bool) -> Iterator[Any]:
    """Yield a function that shows how much is done, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    parts = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=1.0)
        yield lambda done, rows: bar.update(task, completed=done, description=f"{rows} rows predicted")


main = main_of(predict_command)

if __name__ == "__main__":
    main()
