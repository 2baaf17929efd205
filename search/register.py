"""Registers the best trial's model and describes its origin."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from search.data.summary import DataSummary, TensorSpec
from search.ensemble.members import Ensemble
from search.errors import SearchError, printable
from search.figures import markdown_table, number, plural
from search.study import attributes, ranking
from search.study.attributes import Confirmed
from search.studyfile.schema import Definition
from search.training.result import result_of

if TYPE_CHECKING:
    from search.tracking.registry import Registered

_SHOWN = 20  # names of columns or classes in a description


@dataclass(frozen=True)
class Best:
    """The best trial of the study, and what was recorded of it.

    Attributes:
        number: Its number in the study.
        values: One value for each of the study's metrics.
        params: Its parameters.
        run_id: Its run in MLflow; empty while MLflow does not show it.
        metrics: Its metrics by name, those of the model that is kept.
        confirmed: What its configuration reached under new seeds; None when it was not trained again.
        trivial: What the trivial answer, the same for every row, has in the first metric; None where it is not known.
        maximize: Whether more is better in the first metric.
        ensemble: The trainings that are averaged in the model to register; None where it stands alone.
    """

    number: int
    values: tuple[float, ...]
    params: dict[str, Any]
    run_id: str
    metrics: dict[str, float]
    confirmed: Confirmed | None = None
    trivial: float | None = None
    maximize: bool = False
    ensemble: Ensemble | None = None

    @property
    def beats_trivial(self) -> bool:
        """Whether it is better than the trivial answer, or none is known."""
        return self.trivial is None or (self.value > self.trivial if self.maximize else self.value < self.trivial)

    @property
    def value(self) -> float:
        """The value of the study's metric, of the first when there are several."""
        return self.values[0]


def best_of(
    definition: Definition,
    trial: FrozenTrial,
    run_id: str = "",
    confirmed: Confirmed | None = None,
    trivial: Mapping[str, float] | None = None,
) -> Best:
    """Return a complete trial with what was recorded of it.

    Args:
        run_id: Its run in MLflow, where the study does not know it.
        confirmed: What its configuration reached under new seeds.
        trivial: What the trivial answer scores, by metric.
    """
    result = result_of(trial)
    return Best(
        number=trial.number,
        values=tuple(trial.values),
        params=dict(trial.params),
        run_id=run_id or str(trial.system_attrs.get(attributes.RUN_ID, "")),
        metrics=result.recorded if result is not None else {},
        confirmed=confirmed,
        trivial=(trivial or {}).get(definition.metrics[0]),
        maximize=definition.directions[0] == "maximize",
    )


def beside_trivial(definition: Definition, best: Best) -> str:
    """Return in a sentence how a trial compares with the trivial answer; empty where that is not known."""
    if best.trivial is None:
        return ""
    metric = definition.metrics[0]
    if best.beats_trivial:
        return f"The trivial answer, the same for every row, has {metric} {number(best.trivial)}."
    return (
        f"Trial {best.number} is not better than the trivial answer, the same for every row: {metric} "
        f"{number(best.value)} against {number(best.trivial)}. Its model has learned nothing that counts in it."
    )


def luck(definition: Definition, best: Best) -> str:
    """Return in a sentence how much of a trial's value was luck; empty where it was not trained again."""
    if best.confirmed is None:
        return ""
    metric, mean, std = definition.metrics[0], best.confirmed.mean, best.confirmed.std
    seeds = len(best.confirmed.values)
    reached = f"{mean:.4g}" + (f" ± {std:.2g}" if std is not None else "")
    under = f"under {seeds} new seed{'s' * (seeds > 1)} the same configuration reaches {reached}"
    said = f"The search measured `{metric}` {best.value:.4g}; {under} on average"
    if not definition.better(best.value, mean):
        return f"{said}: nothing of the first value was luck."
    return f"{said}: {abs(best.value - mean):.2g} of the first value was luck."


def register_best(
    name: str,
    definition: Definition,
    trial: FrozenTrial,
    best: Best,
    data: DataSummary,
    model_id: str,
    loaded: Callable[[], str],
) -> tuple[Registered, bool]:
    """Return the best trial's version, and whether it is new.

    Args:
        name: The registered model.
        best: What was recorded of it.
        data: What it was trained on.
        model_id: Its logged model; empty when there is none.
        loaded: Returns why the logged model cannot be used, or an empty text.

    Raises:
        SearchError: There is no logged model.
    """
    from search.tracking import registry
    from search.tracking.entries import legal
    from search.tracking.logged_model import interface_of

    if best.ensemble is not None:
        best = replace(best, run_id=best.ensemble.run_id, metrics={**best.metrics, **best.ensemble.metrics})
    known = registry.version_of_run(name, best.run_id)
    if known is not None:
        return registry.as_challenger(known), False
    if not model_id:
        why = f"see run {best.run_id}" if best.run_id else "another program than search trained it"
        raise SearchError(f"trial {trial.number} is the best, but its model was not kept; {why}")
    test_metric, direction = _test_metric(definition, best.metrics)
    value = best.metrics.get(test_metric)
    no_number = (
        f"{registry.NO_NUMBER}: {test_metric} is {value}" if value is not None and not math.isfinite(value) else ""
    )
    model = interface_of(model_id)
    data = data if model is None else model.instead(data)
    tags = {
        "study": name,
        "trial": str(trial.number),
        "run_id": best.run_id,
        registry.DIGEST: data.digest,
        registry.TEST_METRIC: test_metric,
        registry.TEST_VALUE: "" if value is None else str(value),
        registry.TEST_DIRECTION: direction,
        **_confirmed_tags(best.confirmed),
        **({} if best.ensemble is None else {"ensemble": json.dumps(best.ensemble.as_json())}),
        **{legal(f"metric.{metric}"): f"{value:.6g}" for metric, value in best.metrics.items() if _judged(metric)},
    }
    return registry.register(
        name,
        model_id,
        tags=tags,
        description=_description(name, best, data, definition),
        about=f"{definition.description}\n\nThe best models of study **{name}**. {_in_and_out(data)}".strip(),
        refused=printable(loaded()) or no_number,
    ), True


def _judged(metric: str) -> bool:
    """Return whether a promotion asks for a metric of a version; the others are on its run."""
    return metric in ("parameters", "latency_ms") or metric.startswith("test_")


def _confirmed_tags(confirmed: Confirmed | None) -> dict[str, str]:
    if confirmed is None:
        return {}
    return {f"confirmed_{name}": str(value) for name, value in confirmed.as_json().items() if value is not None}


def check_usable(model: Registered | None) -> None:
    """Raise when a version has no alias because it cannot be used.

    Raises:
        SearchError: It was loaded outside the study's folder and failed, or predicted otherwise than the trained model.
    """
    from search.tracking.registry import NO_NUMBER

    if model is not None and model.refused and not model.refused.startswith(NO_NUMBER):
        raise SearchError(
            f"{model.uri} has no alias: loaded outside the study's folder, {model.refused}; the trials are kept"
        )


def _test_metric(definition: Definition, metrics: dict[str, float]) -> tuple[str, str]:
    """Return the test metric that a version is judged by, and its direction."""
    wanted = f"test_{definition.metrics[0].removeprefix('val_')}"
    return (wanted, definition.directions[0]) if wanted in metrics else ("test_loss", "minimize")


def _description(name: str, best: Best, data: DataSummary, definition: Definition) -> str:
    values = ", ".join(f"`{m}` {number(v)}" for m, v in zip(definition.metrics, best.values, strict=True))
    tests = ", ".join(f"`{name}` {number(value)}" for name, value in best.metrics.items() if name.startswith("test_"))
    rows = [[key, number(value)] for key, value in best.params.items()]
    averaged = "" if best.ensemble is None else f" It is in a mean that is surely better: **{best.ensemble}**."
    rule = f" Of the trials on the Pareto front it is {ranking.RULE}." if len(definition.metrics) > 1 else ""
    parts = [
        f"Trial {best.number} of study **{name}**: {values}.{rule}{averaged}",
        beside_trivial(definition, best),
        luck(definition, best),
        _refitted(best, definition),
        f"Held-out test part: {tests}.",
        _in_and_out(data),
        markdown_table(["parameter", "value"], rows),
        f"Data: {data.facts or f'`{data.name}`'}. Digest `{data.digest}`. Run `{best.run_id}`.",
    ]
    return "\n\n".join(filter(None, parts))


def _refitted(best: Best, definition: Definition) -> str:
    """Return in a sentence that a model learned from more rows than its trial's value was measured with."""
    epochs = best.metrics.get("refit_epochs")
    if epochs is None:
        return ""
    rows = "every row but the test part" if definition.data.folds else "the training and validation rows together"
    return f"The model was then trained anew on {rows}, for {plural(int(epochs), 'epoch')}."


def _in_and_out(data: DataSummary) -> str:
    """Return what a model takes and what it gives, in words."""
    if data.columns:
        names = ", ".join(f"`{name}`" for name, _ in data.columns[:_SHOWN])
        takes = f"{plural(len(data.columns), 'column')}: {names}{', …' if len(data.columns) > _SHOWN else ''}"
    else:
        takes = "; ".join(map(_input, data.inputs))
    return f"Input: {takes}. Output: {_output(data)}."


def _input(spec: TensorSpec) -> str:
    called = f"`{spec.name}`: " if spec.name else ""
    if spec.dtype in ("str", "string", "object"):
        return f"{called}text"
    if len(spec.shape) <= 2:
        return f"{called}{plural(spec.shape[1] if len(spec.shape) == 2 else 1, 'number')} per row"
    return f"{called}an array of {' × '.join(map(str, spec.shape[1:]))} numbers per row"


def _output(data: DataSummary) -> str:
    """Return what a model gives, in words."""
    if len(data.output) > 1:
        return ", ".join(f"`{spec.name}`" for spec in data.output)
    wide = data.output[0].shape[-1] if data.output and len(data.output[0].shape) > 1 else 1
    meaning = data.meanings[0] if data.meanings else None
    if meaning is None or not meaning.has_classes:
        return f"{plural(wide, 'number')} per row" if wide > 0 else "numbers"
    classes = [str(each) for each in meaning.classes]
    what = {"probabilities": "probability", "logits": "logit"}.get(meaning.kind, "score")
    if meaning.task == "binary" and wide == 1:
        return f"the {what} of class {classes[1]} (the other is {classes[0]})"
    shown = f"{', '.join(classes[:_SHOWN])}{', …' if len(classes) > _SHOWN else ''}"
    return f"a {what} for each of {len(classes)} classes: {shown}"
