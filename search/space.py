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
from optuna.trial import FrozenTrial

from search.definition import (
    CategoricalParameter,
    Definition,
    IntParameter,
    Parameter,
    contains_value,
)
from search.errors import StorageError, StudyFileError

Configuration = str


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
    """Return a text that two parameter sets share exactly when they are the same configuration."""
    return json.dumps(params, sort_keys=True)


def grid(definition: Definition) -> dict[str, list[Any]]:
    """Return every value of every parameter, for Optuna's grid sampler.

    Raises:
        StudyFileError: A float parameter has no step, so its values cannot be listed.
    """
    values: dict[str, list[Any]] = {}
    for name, parameter in definition.space.items():
        if isinstance(parameter, CategoricalParameter):
            values[name] = list(parameter.choices)
        elif isinstance(parameter, IntParameter):
            values[name] = list(range(parameter.low, parameter.high + 1, parameter.step or 1))
        elif parameter.step is None:
            raise StudyFileError(
                str(definition.path), f"space.{name}", "a float without step", "the grid sampler needs a step"
            )
        else:
            steps = round((parameter.high - parameter.low) / parameter.step)
            values[name] = [parameter.low + index * parameter.step for index in range(steps + 1)]
    return values


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
    return math.inf


def every_configuration(space: Mapping[str, BaseDistribution]) -> Iterable[dict[str, Any]]:
    """Yield each configuration of a space whose `size` is finite."""
    names, columns = list(space), []
    for each in space.values():
        if isinstance(each, CategoricalDistribution):
            columns.append(list(each.choices))
        elif isinstance(each, IntDistribution):
            columns.append(list(range(each.low, each.high + 1, each.step)))
        elif isinstance(each, FloatDistribution) and each.step is not None:
            columns.append([each.low + i * each.step for i in range(int(_values(each)))])
    for values in itertools.product(*columns):
        yield dict(zip(names, values, strict=True))


def contains(definition: Definition, name: str, value: Any) -> bool:
    """Return whether a value lies in the range or among the choices of a parameter."""
    return name in definition.space and contains_value(definition.space[name], value)


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
        if before is None:
            continue
        try:
            check_distribution_compatibility(before, now)
        except ValueError:
            raise StorageError(
                f"study '{definition.name}': space.{name} was {before} and is now {now}; a range may change, "
                "a parameter's kind or choices may not: put it back, or start anew with --study-name"
            ) from None
