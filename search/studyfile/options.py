"""The options of a search that the study file may set too, as keys of `[search]`; `settings` has the command's others.

An option is declared once: its type and bounds, its default and its sentence. The command line, `Study.optimize`, the
study file, the command that resumes a search and the README's table are made of the declaration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import Field

from search.studyfile.parameters import Count, Seed, Table
from search.studyfile.registry import PRUNERS, SAMPLERS, PrunerName, SamplerName

Seconds = Annotated[float, Field(gt=0)]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """What a person reads of an option.

    Attributes:
        help: What it does, a sentence.
        value: What stands for its value in the help; empty for a switch.
        unset: What holds when it has no value, in words.
        flags: Its flags, where they are not the name's; a switch `--no-…` turns the option off.
        everywhere: Whether it says where a study is kept, so that every command of a study takes it.
    """

    help: str
    value: str = ""
    unset: str = ""
    flags: tuple[str, ...] = ()
    everywhere: bool = False

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """Return the JSON Schema of the option's type, with the sentence."""
        return {**handler(core), "description": self.help}


class SearchOptions(Table):
    """Options that the study file gives defaults for."""

    n_trials: Annotated[Count, Option("Run N more trials.", "N", flags=("--n-trials", "-n"))] = 20
    timeout: Annotated[
        Seconds | None,
        Option(
            "Start no new trial after this time; running ones get the same time again, at most 60 s.",
            "SECONDS",
            "no limit",
        ),
    ] = None
    workers: Annotated[
        Annotated[int, Field(ge=1, le=10**6)] | Literal["auto"],
        Option("Train N trials at a time; auto is one for each core, or each share of a GPU.", "N|auto"),
    ] = "auto"
    sampler: Annotated[SamplerName, Option(f"How to sample: {', '.join(SAMPLERS)}, or code of yours.", "NAME")] = "tpe"
    pruner: Annotated[PrunerName, Option(f"How to prune: {', '.join(PRUNERS)}, or code of yours.", "NAME")] = (
        "percentile"
    )
    seed: Annotated[Seed, Option("Seed of the sampler and of every trial.", "N")] = 0
    trial_timeout: Annotated[
        Seconds | None, Option("Stop a trial after this time; it counts as failed.", "SECONDS", "no limit")
    ] = None
    confirm: Annotated[
        float,
        Field(ge=0, le=10),
        Option("Extra training time, as a share, to retrain the leaders under new seeds.", "SHARE"),
    ] = 0.0
    ensemble: Annotated[
        int,
        Field(ge=0, le=100),
        Option("Average up to N trainings into one model, where that is surely better than the best alone.", "N"),
    ] = 0
    wait: Annotated[
        float,
        Field(ge=0),
        Option("At the end wait this long for MLflow to show all trials, while it makes progress.", "SECONDS"),
    ] = 60.0


def noted(kind: type) -> dict[str, tuple[Any, Any, Option]]:
    """Return the type, the default and the declaration of each field of a dataclass, by the name of its option."""
    hints, plain = get_type_hints(kind, include_extras=True), get_type_hints(kind)
    return {
        (*note.flags, each.name)[0].lstrip("-"): (plain[each.name], each.default, note)
        for each in fields(kind)
        for note in getattr(hints[each.name], "__metadata__", ())
        if isinstance(note, Option)
    }


def keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """Return a parameter that is given by its name."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_keywords(
    function: F,
    parameters: Iterable[inspect.Parameter],
    told: Mapping[str, str] | None = None,
    *,
    evaluated: bool = False,
) -> F:
    """Give a function that takes `**options` the signature and the documentation of these parameters.

    Args:
        function: It says `**options: The options.` where the documentation of the parameters goes.
        parameters: Those that are the function's own already are left out.
        told: A sentence for each, by name.
        evaluated: Whether annotations are needed as types, not as texts.
    """
    signature = inspect.signature(function, eval_str=evaluated)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    new = [each for each in parameters if each.name not in signature.parameters]
    first = [each for each in own if each.kind is not each.KEYWORD_ONLY]
    function.__signature__ = signature.replace(parameters=[*first, *new, *own[len(first) :]])  # type: ignore[attr-defined]
    lines = [f"{each.name}: {(told or {}).get(each.name, '')}" for each in new]
    function.__doc__ = (function.__doc__ or "").replace("**options: The options.", f"\n{' ' * 12}".join(lines))
    return function
