"""Optuna's samplers and pruners by name, with the options that the study file gives them."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search.errors import StudyFileError, UsageError, did_you_mean, one_line
from search.study import space
from search.study.brackets import HyperbandPruner
from search.studyfile.parameters import CategoricalParameter, written
from search.studyfile.schema import Definition

_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a table",
}
T = TypeVar("T")
_NEEDED = {"gp": "torch", "cmaes": "cmaes"}
_SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "grid": optuna.samplers.GridSampler,
}
_PRUNERS: dict[str, type[BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "hyperband": HyperbandPruner,
    "asha": optuna.pruners.SuccessiveHalvingPruner,
    "patient": optuna.pruners.PatientPruner,
    "wilcoxon": optuna.pruners.WilcoxonPruner,
}
_OURS = ("self", "seed", "search_space", "wrapped_pruner")  # arguments that this module gives itself
_DEFAULTS: dict[str, dict[str, Any]] = {
    "tpe": {"constant_liar": True},  # trials run side by side
    "qmc": {"scramble": True, "warn_independent_sampling": False},
    "patient": {"patience": 5},
}
_START_UP = 10  # complete trials before one is compared with them
_LEAST_COMPARED = 5  # complete trials that have come as far as the one that is compared with them
_WARM_UP = 5  # epochs; the first ones' values say little of the last one's


def make_sampler(definition: Definition, name: str, seed: int, finished: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """Return the sampler of this name, seeded.

    Args:
        definition: The study file, for its space and, when it names this sampler, its options.
        name: One of `tpe`, `random`, `gp`, `cmaes`, `qmc`, `grid`, `nsga2`.
        seed: Seed of the sampler.
        finished: Trials the study already has; they move the seed on, so that a later search does
            not repeat the random draws of the first.

    Raises:
        UsageError: The sampler's package is missing, or it does not suit the study.
    """
    if len(definition.metrics) > 1 and name in ("cmaes", "gp"):
        raise UsageError(f"sampler '{name}' takes one metric; use tpe, nsga2, random, qmc or grid")
    if name in _NEEDED and importlib.util.find_spec(_NEEDED[name]) is None:
        raise UsageError(f"sampler '{name}' needs {_NEEDED[name]}; pip install 'search[{name}]'")
    given = definition.search.sampler_options if name == definition.search.sampler else {}
    options = _checked(definition, "search.sampler_options", _SAMPLERS[name], given)
    options = {**_DEFAULTS.get(name, {}), **options, "seed": (seed + len(finished)) % 2**32}
    if name == "grid":
        options["search_space"] = space.grid(definition)
    return _made(definition, "search.sampler_options", lambda: _SAMPLERS[name](**options))


def make_pruner(definition: Definition, name: str) -> BasePruner:
    """Return the pruner of this name; studies with several metrics are never pruned.

    Raises:
        StudyFileError: The pruner does not take the options.
    """
    if len(definition.metrics) > 1:
        return optuna.pruners.NopPruner()
    given = definition.search.pruner_options if name == definition.search.pruner else {}
    options = _checked(definition, "search.pruner_options", _PRUNERS[name], given)
    options = {**_DEFAULTS.get(name, {}), **_pruner_defaults(definition, name, options), **options}
    return _made(definition, "search.pruner_options", lambda: _PRUNERS[name](**options))


def _pruner_defaults(definition: Definition, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that depend on the study.

    What a pruner calls a step is an epoch; with folds or repeats it is a whole training, which needs no warm-up.
    """
    trainings = definition.data.folds or definition.search.repeats
    if name == "patient":
        return {"wrapped_pruner": optuna.pruners.MedianPruner(**_pruner_defaults(definition, "median", {}))}
    if name == "hyperband":
        return {"max_resource": trainings if trainings > 1 else _most_epochs(definition)}
    if name not in ("median", "percentile"):
        return {}
    start_up = given.get("n_startup_trials", _START_UP)
    return {
        **({"percentile": 75.0} if name == "percentile" else {}),
        "n_startup_trials": start_up,
        "n_warmup_steps": 0 if trainings > 1 else min(_WARM_UP, _most_epochs(definition) // 4),
        "n_min_trials": max(1, min(_LEAST_COMPARED, start_up)),
    }


def _most_epochs(definition: Definition) -> int:
    """Return for how many epochs a trial trains at most."""
    searched = definition.space.get("epochs")
    if searched is None:
        return definition.fit.epochs or 1
    highest = max(searched.choices) if isinstance(searched, CategoricalParameter) else searched.high
    return int(highest)


def _made(definition: Definition, key: str, make: Callable[[], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # an option that Optuna will remove
            return make()
    except (TypeError, ValueError, FutureWarning) as error:
        raise StudyFileError(
            str(definition.path), key, one_line(error), "see Optuna's documentation of its options"
        ) from None


def _checked(definition: Definition, key: str, kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, once each is known to be one and of its type; Optuna checks neither."""
    known = {
        name: types
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in _OURS and (types := _types(parameter))
    }
    for name, value in given.items():
        if name == "seed":
            raise StudyFileError(str(definition.path), f"{key}.seed", "set elsewhere", "use search.seed")
        if name not in known:
            takes = f"{kind.__name__} takes {', '.join(known) or 'none'}{did_you_mean(name, known)}"
            raise StudyFileError(str(definition.path), f"{key}.{name}", "no option of a study file", takes)
        if type(value) not in known[name]:
            taken = known[name] - {int} if float in known[name] else known[name]
            words = [word for each, word in _WORDS.items() if each in taken]
            raise StudyFileError(str(definition.path), f"{key}.{name}", written(value), f"use {' or '.join(words)}")
    return dict(given)


def _types(parameter: inspect.Parameter) -> set[type]:
    """Return which types of a study file the parameter takes; none when it takes code."""
    annotation = inspect.formatannotation(parameter.annotation).strip("'")
    named = {part.partition("[")[0].strip() for part in annotation.split("|")}
    types = {each for each in _WORDS if each.__name__ in named}
    return types | {int} if float in types else types
