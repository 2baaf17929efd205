"""Optuna's samplers and pruners, and the user's own, made with the options that the study file gives them."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search.errors import UsageError, did_you_mean, one_line
from search.study import space
from search.studyfile.parameters import CategoricalParameter, written
from search.studyfile.references import load_object
from search.studyfile.registry import PRUNERS, SAMPLERS, alternatives, choice
from search.studyfile.schema import Definition

_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a table",
}
_OURS = ("self", "seed", "search_space", "wrapped_pruner")  # arguments that this module gives itself
_START_UP = 10  # complete trials before one is compared with them
_LEAST_COMPARED = 5  # complete trials that have come as far as the one that is compared with them
_WARM_UP = 5  # epochs; the first ones' values say little of the last one's


def make_sampler(definition: Definition, name: str, seed: int, finished: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """Return the sampler of this name, seeded.

    Args:
        definition: The study file, for its space and, when it names this sampler, its options.
        name: A name of the registry, or a reference to the user's own code.
        seed: Seed of the sampler.
        finished: Trials the study already has; they move the seed on, so that a later search does
            not repeat the random draws of the first.

    Raises:
        UsageError: The sampler's package is missing, or it does not suit the study.
    """
    entry = choice(SAMPLERS, name)
    if len(definition.metrics) > 1 and not entry.several:
        able = [each for each, other in SAMPLERS.items() if other.several]
        raise UsageError(f"sampler '{name}' takes one metric; use {alternatives(able)}")
    if entry.needs and importlib.util.find_spec(entry.needs) is None:
        raise UsageError(f"sampler '{name}' needs {entry.needs}; pip install 'search[{name}]'")
    options = definition.search.sampler_options if name == definition.search.sampler else {}
    make = load_object(entry.code, definition.folder, "search.sampler")
    of_study: dict[str, Any] = {"seed": (seed + len(finished)) % 2**32}
    if "search_space" in inspect.signature(make).parameters:
        of_study["search_space"] = space.grid(definition)
    sampler: BaseSampler = _made(definition, "sampler", make, {**of_study, **entry.defaults}, options, BaseSampler)
    return sampler


def make_pruner(definition: Definition, name: str) -> BasePruner:
    """Return the pruner of this name; studies with several metrics are never pruned.

    Raises:
        StudyFileError: The pruner does not take the options.
    """
    if len(definition.metrics) > 1:
        return optuna.pruners.NopPruner()
    options = definition.search.pruner_options if name == definition.search.pruner else {}
    entry = choice(PRUNERS, name)
    given = options.get("n_startup_trials")
    of_study = _of_epochs(definition, given if type(given) is int else _START_UP)
    make = load_object(entry.code, definition.folder, "search.pruner")
    pruner: BasePruner = _made(definition, "pruner", make, {**of_study, **entry.defaults}, options, BasePruner)
    return pruner


def _of_epochs(definition: Definition, start_up: int) -> dict[str, Any]:
    """Return options that depend on how long a trial trains, by the names that Optuna's pruners have for them.

    What a pruner calls a step is an epoch; with folds or repeats it is a whole training, which needs no warm-up.
    """
    trainings = definition.trainings
    steps = trainings if trainings > 1 else _most_epochs(definition)
    compared = {
        "n_startup_trials": start_up,
        "n_warmup_steps": 0 if trainings > 1 else min(_WARM_UP, steps // 4),
        "n_min_trials": max(1, min(_LEAST_COMPARED, start_up)),
    }
    return {**compared, "max_resource": steps, "wrapped_pruner": optuna.pruners.MedianPruner(**compared)}


def _most_epochs(definition: Definition) -> int:
    """Return for how many epochs a trial trains at most."""
    searched = definition.space.get("epochs")
    if searched is None:
        return definition.fit.epochs or 1
    highest = max(searched.choices) if isinstance(searched, CategoricalParameter) else searched.high
    return int(highest)


def _made(
    definition: Definition, what: str, make: Any, defaults: Mapping[str, Any], options: Mapping[str, Any], kind: Any
) -> Any:
    """Return what a class or function makes of the study file's options, and of the defaults that it takes.

    Raises:
        StudyFileError: It does not take the options, or makes something else than a sampler or pruner.
    """
    key = f"search.{what}_options"
    takes = inspect.signature(make).parameters
    given = {name: value for name, value in defaults.items() if name in takes}
    known = SAMPLERS if what == "sampler" else PRUNERS
    own = getattr(definition.search, what) not in known
    given |= _checked(definition, key, make, takes, options, own=own)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # an option that Optuna will remove
            made = make(**given)
    except Exception as error:  # code of the user's own may raise anything
        right = f"see the documentation of the {what}'s options"
        raise definition.wrong(key, one_line(error), right) from None
    if not isinstance(made, kind):
        right = f"name what makes one of optuna.{what}s"
        raise definition.wrong(f"search.{what}", f"makes a {type(made).__name__}", right)
    return made


def _checked(
    definition: Definition,
    key: str,
    make: Any,
    takes: Mapping[str, inspect.Parameter],
    given: Mapping[str, Any],
    *,
    own: bool,
) -> dict[str, Any]:
    """Return the options, once each is known to be one and of its type; Optuna checks neither.

    Args:
        own: Whether they are for code of the user's, which may take more than numbers, texts and tables.
    """
    if own and any(each.kind is each.VAR_KEYWORD for each in takes.values()) and "seed" not in given:
        return dict(given)
    known = {
        name: types
        for name, each in takes.items()
        if name not in _OURS and (types := _types(each) or ({type(given.get(name))} if own else set()))
    }
    for name, value in given.items():
        if name == "seed":
            raise definition.wrong(f"{key}.seed", "set elsewhere", "use search.seed")
        if name not in known:
            right = f"{make.__name__} takes {', '.join(known) or 'none'}{did_you_mean(name, known)}"
            raise definition.wrong(f"{key}.{name}", "no option of a study file", right)
        if type(value) not in known[name]:
            taken = known[name] - {int} if float in known[name] else known[name]
            words = [word for each, word in _WORDS.items() if each in taken]
            raise definition.wrong(f"{key}.{name}", written(value), f"use {' or '.join(words)}")
    return dict(given)


def _types(parameter: inspect.Parameter) -> set[type]:
    """Return which types of a study file the parameter takes; none when it takes code, all when it does not say."""
    if parameter.annotation is parameter.empty:
        return {*_WORDS}
    annotation = inspect.formatannotation(parameter.annotation).strip("'")
    named = {part.partition("[")[0].strip() for part in annotation.split("|")}
    types = {each for each in _WORDS if each.__name__ in named}
    return types | {int} if float in types else types
