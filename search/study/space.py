"""From the study file's `[space]` to Optuna's distributions. It never samples."""

from __future__ import annotations

import abc
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
            raise definition.wrong(f"space.{name}", "a float without step", "the grid sampler needs a step")
    if size(known) > LARGEST_GRID:
        raise definition.wrong(
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
        if parameter is None and not suggests_more(definition):
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


def translated(definition: Definition, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an earlier trial's values for the parameters of now; None where they mean nothing in the space of now.

    A choice may have been renamed, a parameter added (`before`) or taken away; a number may lie outside its range.
    """
    found: dict[str, Any] = {}
    for name, parameter in definition.space.items():
        value = params.get(name, parameter.before)
        if isinstance(parameter, CategoricalParameter):
            called = {
                old: choice for choice in parameter.choices for new, old in parameter.was.items() if new == str(choice)
            }
            value = called.get(value, value)
            known = contains_value(parameter, value)
        else:
            known = type(value) is int or (type(value) is float and not isinstance(parameter, IntParameter))
        if not known:
            return None
        found[name] = value
    if not suggests_more(definition):
        return found
    return {**{name: value for name, value in params.items() if name not in found}, **found}


def suggests_more(definition: Definition) -> bool:
    """Return whether code of the user's may suggest parameters that are not in `[space]`."""
    return definition.model.build != "mlp" or definition.data.kind == "python"


def holding(distribution: BaseDistribution, value: Any) -> BaseDistribution:
    """Return a distribution widened so that it holds an earlier trial's value: in its range, on its steps."""
    if isinstance(distribution, IntDistribution | FloatDistribution) and not _holds(distribution, value):
        return type(distribution)(min(distribution.low, value), max(distribution.high, value))
    return distribution


def _holds(distribution: IntDistribution | FloatDistribution, value: float) -> bool:
    if not distribution.low <= value <= distribution.high:
        return False
    steps = (value - distribution.low) / (distribution.step or 1)
    return distribution.step is None or abs(steps - round(steps)) < 1e-8  # as Optuna has it


def first_distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return how each parameter was sampled by the first trial that has it."""
    first: dict[str, BaseDistribution] = {}
    for trial in trials:
        first = {**trial.distributions, **first}
    return first


class _OfAnyKind(abc.ABCMeta):
    """The class of a distribution that a storage takes whatever the parameter was before.

    Optuna's SQL storages compare a trial's distributions with those of the study's first trial and refuse others,
    though each trial keeps its own; the journal does not. The study file is the truth of the space here.
    There is no public way: https://github.com/optuna/optuna/issues/2328.
    """

    def __eq__(cls, other: object) -> bool:
        return True

    def __ne__(cls, other: object) -> bool:
        return False

    __hash__ = abc.ABCMeta.__hash__


class _OfAnyScale:
    """Whether a distribution is logarithmic, as a storage compares it; the trial keeps its own."""

    def __init__(self, log: bool) -> None:
        self._log = log

    def __bool__(self) -> bool:
        return self._log

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def storable(now: BaseDistribution, first: BaseDistribution | None) -> BaseDistribution:
    """Return a distribution as a storage takes it where the study's first trial sampled the parameter otherwise."""
    try:
        check_distribution_compatibility(first or now, now)
    except ValueError:
        kind = type(now)
        equal = {
            "__eq__": lambda self, other: True,  # noqa: ARG005 - as compared
            "__hash__": kind.__hash__,
            "log": property(lambda self: _OfAnyScale(vars(self).get("log", False))),
        }
        number = isinstance(first, IntDistribution | FloatDistribution) and not isinstance(now, type(first))
        made: Any = _OfAnyKind(kind.__name__, (kind, type(first)) if number else (kind,), equal)
        free: BaseDistribution = made.__new__(made)
        free.__dict__.update(now.__dict__)
        return free
    return now


def changed(definition: Definition, trials: Iterable[FrozenTrial]) -> list[str]:
    """Return the parameters that are sampled otherwise than Optuna lets a study's storage continue."""
    first = first_distributions(trials)
    return [name for name, now in distributions(definition).items() if storable(now, first.get(name)) is not now]
