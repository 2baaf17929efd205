"""`python -m search.run`: search, track, register."""

from __future__ import annotations

import sys
from typing import Annotated, Any, get_args

import typer

from search.cli import Debug, Json, Storage, Study, TrackingUri, execute, one_of, print_json
from search.errors import Interrupted, UsageError
from search.studyfile.load import find_study, load_definition
from search.studyfile.schema import Pruner, Sampler
from search.studyfile.settings import resolve
from search.workers.local import start_forkserver


def _workers(value: str | None) -> str | None:
    if value is not None and value != "auto" and not (value.isdigit() and int(value) >= 1):
        raise typer.BadParameter(f"'{value}' is neither a number of at least 1 nor 'auto'")
    return value


def _choice(what: str, kind: Any, default: str) -> str:
    return _else(f"{what}: {', '.join(get_args(kind))}.", default)


def _else(what: str, default: str) -> str:
    """Return the help of an option that the study file may set."""
    return f"{what}  [default: the file's, else {default}]"


def run_command(
    study: Study = "blobs",
    n_trials: Annotated[
        int | None,
        typer.Option("--n-trials", "-n", min=1, metavar="N", help=_else("Run N more trials.", "20")),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help=_else("Start no new trial after this time.", "no limit"),
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|auto", callback=_workers, help=_else("Train N trials at a time.", "auto")),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Train on this dask scheduler's workers."),
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
        typer.Option(metavar="NAME", callback=one_of(Sampler), help=_choice("How to sample", Sampler, "tpe")),
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=one_of(Pruner), help=_choice("How to prune", Pruner, "percentile")),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, metavar="N", help=_else("Seed of the search.", "0")),
    ] = None,
    trial_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help=_else("Stop a trial after this time; it counts as failed.", "no limit"),
        ),
    ] = None,
    accept_new_data: Annotated[
        bool,
        typer.Option("--accept-new-data", help="Allow changed data; earlier trials are not compared."),
    ] = False,
    confirm: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=10.0,
            metavar="SHARE",
            help=_else("Share of the training time for training the best again.", "0"),
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not write to MLflow now; python -m search.sync does it later.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Run only the trials an interrupted search still owes.")
    ] = False,
    no_register: Annotated[bool, typer.Option("--no-register", help="Register no model.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    debug: Debug = False,
) -> None:
    """Search: train trials of a study, record them in MLflow, and register the best model.

    Example: python -m search.run blobs -n 20
    """
    definition = load_definition(find_study(study))
    if resume and n_trials is not None:
        raise UsageError("--resume with --n-trials; --resume finishes an interrupted search; leave one of the two out")
    if cluster is None:
        start_forkserver()  # first of all: it imports the framework while we import the rest
    from search.handover.outcome import Outcome
    from search.session import search
    from search.terminal import Display

    settings = resolve(
        definition,
        n_trials=n_trials,
        timeout=timeout,
        trial_timeout=trial_timeout,
        offline=offline,
        accept_new_data=accept_new_data,
        confirm=confirm,
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
    display = Display(definition, silent=quiet or as_json, name=settings.study_name)
    try:
        with display:
            outcome = search(settings, display.progress, display.say)
    except Interrupted as error:
        if quiet or as_json or not isinstance(error.outcome, Outcome):
            raise
        display.outcome(error.outcome)  # it names the command that goes on
        sys.exit(error.exit_status)
    if as_json:
        print_json(outcome.as_json())
    else:
        display.outcome(outcome)


def main() -> None:
    """Run the command with the arguments it was called with."""
    execute(run_command, "python -m search.run")


if __name__ == "__main__":
    main()
