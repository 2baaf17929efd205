"""Several studies side by side: what each reached by trials and by seconds, and whether that is more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.comparison.verdict import Incomparable, compare, gain
from search.errors import SearchError, UsageError
from search.figures import literal
from search.study import attributes
from search.study.comparable import changes, comparable_trials
from search.study.ranking import feasible, goals_of, leading_trials

if TYPE_CHECKING:
    from search.comparison.predictions import Predictions

FILE = "compare.png"


@dataclass(frozen=True)
class Side:
    """One of the studies.

    Attributes:
        study: Its name.
        trials: How many complete trials it has.
        seconds: How long all its trials trained.
        best: Its best value, of several metrics of the first.
        number: The trial that has it.
        best_of_trials: The best value after as many complete trials as every study has.
        best_of_seconds: The best value after as many seconds as every study has; None where no trial had ended.
        luck: In a sentence, whether its best model is surely better or worse than the first study's on the test rows.
        curve: After each complete trial: the seconds until then, and the best value.
    """

    study: str
    trials: int
    seconds: float
    best: float
    number: int
    best_of_trials: float
    best_of_seconds: float | None
    luck: str
    curve: tuple[tuple[float, float], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {name: value for name, value in asdict(self).items() if name != "curve"}


def side_by_side(studies: Sequence[optuna.Study]) -> list[Side]:
    """Compare studies on the same metric and data.

    Raises:
        UsageError: There are fewer than two, one has no complete trial, or metric or data differ.
    """
    first, *others = studies
    if not others:
        raise UsageError("name two studies or more to compare")
    for other in others:
        _check_same(first, other)
    curves = [_curve(study) for study in studies]
    trials, seconds = min(map(len, curves)), min(curve[-1][0] for curve in curves)
    models = [_predictions(study, leading_trials(goals_of(study), study)[0].number) for study in studies]
    return [
        Side(
            study=study.study_name,
            trials=len(curve),
            seconds=curve[-1][0],
            best=curve[-1][1],
            number=curve[-1][2],
            best_of_trials=curve[trials - 1][1],
            best_of_seconds=next((value for until, value, _ in reversed(curve) if until <= seconds), None),
            luck="" if study is first else _luck(first.study_name, models[0], model),
            curve=tuple((until, value) for until, value, _ in curve),
        )
        for study, curve, model in zip(studies, curves, models, strict=True)
    ]


def _check_same(one: optuna.Study, other: optuna.Study) -> None:
    names = f"studies '{one.study_name}' and '{other.study_name}'"
    metrics = [(attributes.metrics_of(each)[:1], each.directions[0].name.lower()) for each in (one, other)]
    if metrics[0] != metrics[1]:
        told = " and ".join(f"{', '.join(metric)} ({direction})" for metric, direction in metrics)
        raise UsageError(f"{names} have different metrics, {told}: their values cannot be compared")
    before, now = attributes.data_of(one), attributes.data_of(other)
    if before and now and (changed := changes(before, now)):
        raise UsageError(f"{names} have different data, {', '.join(changed)}: their values cannot be compared")


def _curve(study: optuna.Study) -> list[tuple[float, float, int]]:
    """Return after each complete trial, in the order of their ends: seconds of training, best value, its trial."""
    sign = 1 if study.directions[0] == StudyDirection.MINIMIZE else -1
    ended = [trial for trial in comparable_trials(study) if trial.duration is not None]
    found, seconds, best = list[tuple[float, float, int]](), 0.0, (float("inf"), -1)
    for trial in sorted(ended, key=lambda each: str(each.datetime_complete)):
        seconds += trial.duration.total_seconds() if trial.duration is not None else 0.0
        if trial.state == TrialState.COMPLETE and feasible(trial):
            best = min(best, (sign * trial.values[0], trial.number))
            found.append((seconds, sign * best[0], best[1]))
    if not found:
        raise UsageError(f"study '{study.study_name}' has no complete trial to compare")
    return found


def _predictions(study: optuna.Study, number: int) -> Predictions | str:
    """Return what the model of a trial gave for the test rows, or why that is not known."""
    from search.tracking import registry

    try:
        for version in registry.all_versions(study.study_name):
            if version.tags.get("trial") == str(number):
                return registry.predictions_of(version) or f"{version.uri} was registered without predictions"
    except SearchError as error:
        return str(error)
    return f"trial {number} of study '{study.study_name}' is not registered"


def _luck(name: str, first: Predictions | str, mine: Predictions | str) -> str:
    if isinstance(first, str) or isinstance(mine, str):
        return f"not known: {first if isinstance(first, str) else mine}"
    try:
        verdict = compare(first, mine)
    except Incomparable as error:
        return f"not known: {error}"
    if verdict.difference is None or verdict.interval is None:
        return "not known: the test rows do not tell"
    low, high = verdict.interval
    sure = "may be luck" if verdict.better is None else "more than luck"
    return f"{gain(verdict.difference)} than '{name}' in test {verdict.metric} ({low:.4g} to {high:.4g}): {sure}"


def draw(sides: Sequence[Side], metric: str, folder: Path) -> Path:
    """Draw the best value of each study by trials and by seconds, as a file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for side in sides:
        values = [value for _, value in side.curve]
        axes[0].step(range(1, len(values) + 1), values, where="post", label=literal(side.study))
        axes[1].step([seconds for seconds, _ in side.curve], values, where="post")
    axes[0].set(xlabel="complete trials", ylabel=f"best {metric}")
    axes[1].set(xlabel="seconds of training")
    axes[0].legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / FILE, dpi=150)
    plt.close(figure)
    return folder / FILE
