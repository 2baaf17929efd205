"""What MLflow's pages say of a search and its trials, in Markdown that a newcomer reads in ten seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.errors import printable, redact
from search.figures import markdown_table, number, plural
from search.study import attributes, ranking
from search.studyfile.parameters import describe
from search.studyfile.schema import Definition
from search.tracking.pages import outcomes
from search.training.result import TrialResult

ERRORS = "looks.png"  # on a kept trial's page
DATA = "data.png"
PICTURES = (DATA, "optimization_history.png", "slice.png", "parallel_coordinate.png", "param_importances.png")
_LONGEST = 5000  # characters of a description on PostgreSQL
_LINKED = 10  # trials of a Pareto front
_WIDE = 10  # columns of parameters in a table
_REASON = 200  # characters of a reason

Link = Callable[[FrozenTrial], str]


def of_experiment(definition: Definition, name: str, trials: Sequence[FrozenTrial] = (), search: str = "") -> str:
    """Return an experiment's description: what the study asks, and each parameter with its range.

    Args:
        name: The study's name.
        trials: Its trials, for the parameters that its builder suggests.
        search: A search of it as Markdown that opens its run, which the sorted list of runs shows last.
    """
    metrics = zip(definition.metrics, definition.directions, strict=True)
    goal = ", ".join(f"{direction} `{metric}`" for metric, direction in metrics)
    page = f"Best trial, counts and pictures: {search}." if search else ""
    lines = [" ".join(filter(None, (definition.description, page))), f"Optuna study **{name}**: {goal}.", ""]
    for key, each in definition.space.items():
        lines.append(f"- `{key}`: {describe(each)}{', on a log scale' if getattr(each, 'log', False) else ''}")
    suggested = {key: each for trial in trials for key, each in trial.distributions.items()}
    lines += [f"- `{key}`: {_suggested(each)}" for key, each in suggested.items() if key not in definition.space]
    return "\n".join(lines).strip()[:_LONGEST]


def _suggested(distribution: Any) -> str:
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        range_ = f"one of {', '.join(map(str, choices))}"
    else:
        range_ = f"from {distribution.low} to {distribution.high}{', on a log scale' if distribution.log else ''}"
    return f"{range_}; suggested by the model's builder"


def trial_name(trial: FrozenTrial) -> str:
    """Return what a trial's run is called: the list shows pruned and failed ones with the same red cross."""
    fate = {TrialState.PRUNED: " · pruned", TrialState.FAIL: " · failed"}.get(trial.state, "")
    return f"trial-{trial.number:05d}{fate}"


def of_trial(result: TrialResult, run_id: str, pictures: Sequence[str] = ()) -> str:
    """Return a trial's description: what became of it and why, and the pictures among its run's artifacts."""
    planned = result.training.get("fit", {}).get("epochs")
    trained = len({epoch.step for epoch in result.epochs})
    of = f" of {planned}" if planned else ""
    if result.fate == "complete":
        values = ", ".join(number(value) for value in result.values)
        kept = result.metrics.get("best_epoch")
        epoch = f", the kept model is that of epoch {int(kept) + 1} (step {int(kept)})" if kept is not None else ""
        lines = [f"**Complete**: value {values} after {plural(trained, 'epoch')}{of}{epoch}.", _tests(result.recorded)]
    else:
        fate = {"pruned": "Pruned", "failed": "Failed", "died": "Stopped"}[result.fate]
        lines = [
            f"**{fate}** after {plural(trained, 'epoch')}{of}.",
            f"Why: {_code(result.reason)}" if result.reason else "",
        ]
    return _limited([*lines, *(_picture(name, run_id) for name in pictures)])


def _tests(metrics: Mapping[str, float]) -> str:
    tests = ", ".join(
        f"`{name}` {number(value)}" for name, value in sorted(metrics.items()) if name.startswith("test_")
    )
    return f"On the held-out test part: {tests}." if tests else ""


def _code(text: str) -> str:
    """Return a text of unknown content as it is: Markdown in it is not rendered."""
    return f"`{redact(printable(text, _REASON)).replace('`', chr(39))}`"


def of_search(
    definition: Definition,
    trials: Sequence[FrozenTrial],
    ranked: Sequence[FrozenTrial],
    link: Link,
    *,
    state: str,
    dataset: Mapping[str, str],
    run_id: str,
    pictures: Sequence[str] = (),
) -> str:
    """Return a search's description.

    Args:
        trials: The search's trials.
        ranked: The study's best trials, best first.
        link: Gives a trial's number as Markdown that opens its run.
        state: What goes on, in a sentence.
        dataset: The data set, as MLflow has it.
        pictures: Artifacts of the run to show.
    """
    states = ranking.states_of(trials)
    counts = {name: states[name] for name in ("complete", "pruned", "failed")}
    lines = [f"{state} Trials: {', '.join(f'{count} {name}' for name, count in counts.items())}."]
    if ranked:
        best = ranked[0]
        values = zip(definition.metrics, best.values, strict=True)
        told = ", ".join(f"`{metric}` {number(value)}" for metric, value in values)
        lines.append(f"Best trial: {link(best)} with {told}. {_tests(attributes.metrics_of_trial(best))}".rstrip())
        lines.append(_front(definition, ranked, link))
        lines.append(_best_table(definition, ranked[:5], link))
    lines += _failed(trials)
    if counts["pruned"]:
        lines.append(f"{outcomes.saved(trials, definition.trainings)}.")
    lines.append(_data(dataset))
    lines += [_picture(name, run_id) for name in pictures]
    return _limited(lines)


def _front(definition: Definition, ranked: Sequence[FrozenTrial], link: Link) -> str:
    """Return which trials are on the Pareto front, and which of them is registered."""
    if len(definition.metrics) == 1:
        return ""
    front = ranking.pareto_front(definition, ranked)
    shown = f"{', '.join(map(link, front[:_LINKED]))}{', …' if len(front) > _LINKED else ''}"
    return f"On the Pareto front: {shown}. Registered is {link(ranked[0])}, {ranking.nearest(len(front))}."


def _best_table(definition: Definition, best: Sequence[FrozenTrial], link: Link) -> str:
    names = list(dict.fromkeys(name for trial in best for name in trial.params))[:_WIDE]
    head = ["trial", *definition.metrics, *names]
    rows = [[link(t), *map(number, t.values), *(number(t.params.get(name, "")) for name in names)] for t in best]
    return markdown_table(head, rows)


def _failed(trials: Sequence[FrozenTrial]) -> list[str]:
    groups = outcomes.failures(trials)
    shown = [f"- {plural(len(each.numbers), 'trial')}: {_code(each.reason)}" for each in groups[:5]]
    more = [f"- and {plural(len(groups) - 5, 'other reason')}"] if len(groups) > 5 else []
    return ["\n".join(["Failed:", *shown, *more])] if groups else []


def _data(dataset: Mapping[str, str]) -> str:
    if not dataset:
        return ""
    profile: dict[str, Any] = json.loads(dataset.get("profile", "{}"))
    named = f"`{dataset['name']}`, {profile.get('task', '')}"  # of rows that differ from trial to trial
    return f"Data: {profile.get('facts') or named}."


def _picture(name: str, run_id: str) -> str:
    return f"![{name}](get-artifact?path={name}&run_uuid={run_id})"


def _limited(parts: Sequence[str]) -> str:
    """Return paragraphs as one text; those that do not fit a description are left out."""
    text = ""
    for part in filter(None, parts):
        longer = f"{text}\n\n{part}" if text else part
        if len(longer) <= _LONGEST:
            text = longer
    return text


def best_so_far(definition: Definition, trials: Sequence[FrozenTrial]) -> list[tuple[int, float, float]]:
    """Return number, best value until then, and end in seconds since 1970, of each complete trial by number."""
    curve: list[tuple[int, float, float]] = []
    for trial in sorted(trials, key=lambda each: each.number):
        if trial.state != TrialState.COMPLETE or not ranking.feasible(trial) or trial.datetime_complete is None:
            continue
        value = trial.values[0]
        if curve and not definition.better(value, curve[-1][1]):
            value = curve[-1][1]
        curve.append((trial.number, value, trial.datetime_complete.timestamp()))
    return curve
