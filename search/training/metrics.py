"""From a training's metrics to a trial's values and its distance from the study's constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.errors import TrialFailed, did_you_mean
from search.studyfile.schema import TRIAL_METRICS, Definition, parse_constraint

Metrics = Mapping[str, float]


def needed(definition: Definition) -> set[str]:
    """Return the metrics that the study chooses by or constrains."""
    return {*definition.metrics, *(parse_constraint(text)[0] for text in definition.search.constraints)}


def check_finite(definition: Definition, metrics: Metrics, when: str) -> None:
    """Fail the trial when a metric of the study is not finite, or the training loss is no number.

    Raises:
        TrialFailed: Says which, and when.
    """
    for name in definition.metrics:
        if not math.isfinite(metrics.get(name, 0.0)):
            raise TrialFailed(f"{name} is {metrics[name]} {when}")
    if math.isnan(metrics.get("loss", 0.0)):  # so are the weights, whatever an accuracy says
        raise TrialFailed(f"loss is nan {when}")


def check_known(definition: Definition, logs: Metrics) -> None:
    """Fail the trial after its first epoch when a callback was to log a metric of the study, and did not.

    What is only known at the end is not looked for: metrics of the trial, of `[metrics]`, of the user's own
    training, and of the validation part where there is none.

    Raises:
        TrialFailed: Says which, and what was logged.
    """
    late = {*TRIAL_METRICS, *(f"val_{name}" for name in definition.own_metrics)}
    for name in definition.metrics:
        if name not in logs and name not in late and not definition.fit.function:
            known = ", ".join(logs)
            raise TrialFailed(f"no metric '{name}' in the logs after epoch 1 ({known}){did_you_mean(name, logs)}")


def values_of(definition: Definition, metrics: Metrics) -> tuple[float, ...]:
    """Return one value for each of the study's metrics.

    Raises:
        TrialFailed: A metric is missing or not finite.
    """
    for name in definition.metrics:
        if name not in metrics:
            raise TrialFailed(f"no metric '{name}' in the logs ({', '.join(metrics)})")
    check_finite(definition, metrics, "at the end of training")
    return tuple(metrics[name] for name in definition.metrics)


def violations_of(definition: Definition, metrics: Metrics) -> tuple[float, ...]:
    """Return how far these metrics are beyond each constraint, at most 0 where it is met.

    A metric that is missing or no number is infinitely far beyond.
    """
    beyond = []
    for text in definition.search.constraints:
        metric, operator, bound = parse_constraint(text)
        value = metrics.get(metric, math.nan)
        distance = value - bound if operator == "<=" else bound - value
        beyond.append(math.inf if math.isnan(distance) else distance)
    return tuple(beyond)


def mean(trainings: Sequence[Metrics]) -> dict[str, float]:
    """Return the mean of each metric that all these trainings have."""
    shared = [name for name in trainings[0] if all(name in each for each in trainings)]
    return {name: float(np.mean([each[name] for each in trainings])) for name in shared}


def spread(definition: Definition, trainings: Mapping[str, Metrics]) -> dict[str, float]:
    """Return each of the study's metrics in each training, and its standard deviation.

    Args:
        definition: The study file.
        trainings: The metrics of each training by its name.

    Returns:
        For example `val_loss_fold_0`, `val_loss_fold_1`, …, `val_loss_std`.
    """
    shown: dict[str, float] = {}
    for metric in definition.metrics:
        column = [each[metric] for each in trainings.values()]
        shown |= {f"{metric}_{name}": value for name, value in zip(trainings, column, strict=True)}
        shown[f"{metric}_std"] = float(np.std(column))
    return shown
