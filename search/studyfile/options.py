"""The options of a search that the study file may set too, as keys of `[search]`; `settings` has the command's others.

An option is declared once: its type and bounds, its default and its sentence. The command line, `Study.optimize`, the
study file, the command that resumes a search and the README's table are made of the declaration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from search.studyfile.parameters import Count, Seed, Table
from search.studyfile.registry import PRUNERS, SAMPLERS, PrunerName, SamplerName

Seconds = Annotated[float, Field(gt=0)]


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
