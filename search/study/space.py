"""From the study file's `[space]` to Optuna's distributions. It never samples."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial, Trial

from search.errors import StorageError, StudyFileError
from search.studyfile.parameters import CategoricalParameter, IntParameter, Parameter, contains_value, describe, written
from search.studyfile.schema import Definition

Configuration = str
LARGEST_GRID = 100_000  # configurations


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return Optuna's distribution for a parameter of the study file."""
    if isinstance(parameter, CategoricalParameter):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, IntParameter):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def distributions(definition: Definition) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions for the whole `[space]`."""
    return {name: distribution(parameter) for name, parameter in definition.space.items()}


def configuration(params: Mapping[str, Any]) -> Configuration:
    """Return a text that two parameter sets share exactly when they are the same configuration.

    Numbers count as the same to twelve digits: a grid's 0.1 + 2 * 0.1 is 0.3.
    """
    return json.dumps({name: _comparable(value) for name, value in params.items()}, sort_keys=True)


def _comparable(value: Any) -> Any:
    return value if isinstance(value, bool | str) else [f"{value:.12g}" if isinstance(value, float) else str(value)]


def grid(definition: Definition) -> dict[str, list[Any]]:
    """Return every value of every parameter, for Optuna's grid sampler.

    Raises:
        StudyFileError: A float parameter has no step, so its values cannot be listed, or there are too many.
    """
    known = distributions(definition)
    for name, each in known.items():
        if math.isinf(_values(each)):
            raise StudyFileError(
                str(definition.path), f"space.{name}", "a float without step", "the grid sampler needs a step"
            )
    if size(known) > LARGEST_GRID:
        raise StudyFileError(
            str(definition.path),
            "space",
            f"{size(known):.3g} configurations",
            f"the grid sampler takes at most {LARGEST_GRID:,}; use larger steps, or another sampler",
        )
    return {name: _listed(each) for name, each in known.items()}


def size(space: Mapping[str, BaseDistribution]) -> float:
    """Return how many configurations a space holds; infinite when a float has no step."""
    return math.prod(_values(each) for each in space.values())


def _values(each: BaseDistribution) -> float:
    if isinstance(each, CategoricalDistribution):
        return len(each.choices)
    if isinstance(each, IntDistribution):
        return (each.high - each.low) // each.step + 1
    if isinstance(each, FloatDistribution) and each.step is not None:
        return round((each.high - each.low) / each.step) + 1
    return 1 if isinstance(each, FloatDistribution) and each.low == each.high else math.inf


def _listed(each: BaseDistribution) -> list[Any]:
    """Return every value of a parameter that has finitely many."""
    if isinstance(each, CategoricalDistribution):
        return list(each.choices)
    if isinstance(each, IntDistribution):
        return list(range(each.low, each.high + 1, each.step))
    if isinstance(each, FloatDistribution):
        step = each.step or 0.0
        return [min(each.low + index * step, each.high) for index in range(int(_values(each)))]
    raise TypeError(f"no values are known of {each}")


def every_configuration(space: Mapping[str, BaseDistribution]) -> Iterable[dict[str, Any]]:
    """Yield each configuration of a space whose `size` is finite."""
    for values in itertools.product(*map(_listed, space.values())):
        yield dict(zip(space, values, strict=True))


def contains(definition: Definition, name: str, value: Any) -> bool:
    """Return whether a value lies in the range or among the choices of a parameter."""
    return name in definition.space and contains_value(definition.space[name], value)


def outside(definition: Definition, configuration: Mapping[str, Any]) -> str:
    """Return why a study does not take a configuration; empty where it does. A builder may suggest more parameters."""
    for name, value in configuration.items():
        parameter = definition.space.get(name)
        if parameter is None and definition.model.build == "mlp" and definition.data.kind != "python":
            return f"{name} is not in [space], which has {', '.join(definition.space)}"
        if parameter is not None and not contains_value(parameter, value):
            return f"{name} = {written(value)} is outside the space: use {describe(parameter)}"
    return ""


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Ask a trial for a value of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    raise TypeError(f"nothing is suggested from {distribution}")


def check_unchanged(definition: Definition, trials: Iterable[FrozenTrial]) -> None:
    """Refuse a space that Optuna cannot continue: a parameter of another kind or other choices.

    Ranges may change; Optuna then samples the new ones.

    Raises:
        StorageError: Says which parameter differs and what can be done.
    """
    earlier: dict[str, BaseDistribution] = {}
    for trial in trials:
        earlier.update(trial.distributions)
    for name, now in distributions(definition).items():
        before = earlier.get(name)
        try:
            check_distribution_compatibility(before or now, now)
        except ValueError:
            raise StorageError(
                f"study '{definition.name}': space.{name} was {_worded(before)} and is now {_worded(now)}; low, high "
                "and step may change, but not its type, log or choices: put it back, or begin a new study "
                "with --study-name"
            ) from None


def _worded(each: BaseDistribution | None) -> str:
    if isinstance(each, CategoricalDistribution):
        return f"one of {written(each.choices)}"
    if isinstance(each, IntDistribution | FloatDistribution):
        kind = "int" if isinstance(each, IntDistribution) else "float"
        return f"{kind} from {each.low} to {each.high}{' with log = true' if each.log else ''}"
    return str(each)
