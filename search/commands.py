"""The commands: they parse, call and print, and turn every error into one line and an exit status."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from search.definition import Pruner, Sampler, find_study, load_definition
from search.errors import Interrupted, SearchError, UsageError, did_you_mean, one_line
from search.workers import start_forkserver

if TYPE_CHECKING:
    from search.registry import Promotion
    from search.session import Outcome

# The root of typer's own errors; typer names it nowhere in public (it was click's until 0.25).
_TYPER_ERROR: Any = typer.BadParameter.__mro__[2]

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", metavar="URI", help="MLflow tracking store.  [default: MLflow's own]"),
]

Study = Annotated[str, typer.Argument(help="A study file, or the name of one in studies/.")]
Storage = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Optuna storage URL or journal path.  [default: studies/NAME.journal]"),
]


def _one_of(kind: Any) -> Callable[[str | None], str | None]:
    known = get_args(kind)

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(known)}{did_you_mean(value, known)}")
        return value

    return check


def _workers(value: str | None) -> str | None:
    if value is not None and value != "auto" and not (value.isdigit() and int(value) >= 1):
        raise typer.BadParameter(f"'{value}' is neither a number of at least 1 nor 'auto'")
    return value


def run_command(
    study: Study = "blobs",
    n_trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="Run N more trials.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Begin no trial after this time.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|auto", callback=_workers, help="Train N trials at a time.  [default: auto]"),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Train on this dask scheduler's workers.")
    ] = None,
    gpu_share: Annotated[
        float, typer.Option(min=0.01, max=1.0, metavar="SHARE", help="Share of a GPU that one worker uses.")
    ] = 1.0,
    study_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep the study under this name.  [default: the file's]")
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="|".join(get_args(Sampler)), callback=_one_of(Sampler), help="How to sample."),
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(metavar="|".join(get_args(Pruner)), callback=_one_of(Pruner), help="How to prune."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of the search.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the newest interrupted search; add nothing.")
    ] = False,
    no_register: Annotated[bool, typer.Option("--no-register", help="Register no model.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    debug: Debug = False,
) -> None:
    """Search: train trials of a study, record them in MLflow, and register the best model."""
    definition = load_definition(find_study(study))
    if resume and n_trials is not None:
        raise UsageError("--resume with --n-trials; --resume finishes what was begun, so leave one of the two out")
    if cluster is None:
        start_forkserver()  # first of all: it imports the framework while we import the rest
    from search.session import Request, search
    from search.terminal import Display

    request = Request(
        definition=definition,
        n_trials=n_trials,
        timeout=timeout,
        workers=int(workers) if workers and workers != "auto" else workers,
        cluster=cluster,
        gpu_share=gpu_share,
        study_name=study_name,
        storage=storage,
        tracking_uri=tracking_uri,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        resume=resume,
        register=not no_register,
    )
    display = Display(definition, silent=quiet or as_json)
    with display:
        outcome: Outcome = search(request, display.progress, display.say)
    if as_json:
        print(json.dumps(outcome.as_json()))
    else:
        display.outcome(outcome)


def promote_command(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    version: Annotated[
        str | None, typer.Option(metavar="V", help="The version to promote.  [default: the challenger]")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Promote even a version that is worse.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Give the alias back to who carried it before.")] = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Promote: make the challenger champion, unless it is worse on its recorded test metric."""
    from search import registry, store

    if rollback and (version is not None or force):
        raise UsageError("--rollback with --version or --force; --rollback knows the version by itself")
    with store.existing_store(store.set_uri(tracking_uri)):
        promotion = (
            registry.rollback(model, alias=alias)
            if rollback
            else registry.promote(model, version=version, alias=alias, force=force)
        )
    if as_json:
        shown = asdict(promotion)
        shown.pop("refused")
        print(json.dumps(shown))
    else:
        _print_promotion(promotion)
    if promotion.refused:
        sys.exit(1)


def _print_promotion(promotion: Promotion) -> None:
    what = f"{promotion.model} version {promotion.version}"
    if promotion.promoted:
        before = f" (before: version {promotion.previous})" if promotion.previous else ""
        print(f"{what} is now {promotion.alias}{before}: {promotion.reason}")
    elif promotion.refused:
        print(f"{what} was not promoted: {promotion.reason}", file=sys.stderr)
    else:
        print(f"nothing to do: {promotion.reason}")


def report_command(
    study: Study = "blobs",
    study_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study's name.  [default: the file's]")
    ] = None,
    storage: Storage = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where plots go.  [default: reports/NAME]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials to list.")] = 10,
    debug: Debug = False,
) -> None:
    """Report: list a study's best trials, and draw it as files."""
    from search import plots
    from search.study import default_storage, load

    definition = load_definition(find_study(study))
    name = study_name or definition.name
    loaded = load(name, storage or default_storage(name))
    folder = output or Path("reports") / name
    folder.mkdir(parents=True, exist_ok=True)
    written = plots.write(loaded, definition, folder)
    from search.terminal import print_study

    print_study(loaded, definition, top)
    for path in written:
        print(path)


def new_command(
    name: Annotated[str, typer.Argument(help="The new study's name.")],
    source: Annotated[str, typer.Option("--from", metavar="STUDY", help="The study to copy.")] = "blobs",
    debug: Debug = False,
) -> None:
    """New: copy a study, with the files it needs, to studies/NAME.toml."""
    from search.copies import copy_study

    for path in copy_study(name, find_study(source), Path("studies")):
        print(path)


def run() -> None:
    """Entry point of `python -m search.run`."""
    _execute(run_command, "python -m search.run")


def promote() -> None:
    """Entry point of `python -m search.promote`."""
    _execute(promote_command, "python -m search.promote")


def report() -> None:
    """Entry point of `python -m search.report`."""
    _execute(report_command, "python -m search.report")


def new() -> None:
    """Entry point of `python -m search.new`."""
    _execute(new_command, "python -m search.new")


def _execute(function: Callable[..., None], name: str) -> None:
    """Run a command; the one place where an error becomes a line and an exit status."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(prog_name=name, standalone_mode=False)
    except _TYPER_ERROR as error:
        status = _fail(error.format_message(), 2)
    except SearchError as error:
        status = _fail(str(error), error.exit_status, error)
    except (KeyboardInterrupt, typer.Abort):
        status = _fail("interrupted", Interrupted.exit_status)
    except BrokenPipeError:
        status = 0
    except Exception as error:
        status = _fail(f"{one_line(error)} (a defect, or a part that failed; --debug shows where)", 1, error)
    gc.freeze()  # nothing dies before the process does; collecting it all at exit takes 1.5 s
    sys.exit(status or 0)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, status: int, error: BaseException | None = None) -> int:
    if "--debug" in sys.argv and error is not None:
        import traceback

        traceback.print_exception(error)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
