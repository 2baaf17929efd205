"""A study as one page for a browser: Optuna's own interactive plots, which need no network.

It reads the study and changes nothing in it.
"""

from __future__ import annotations

import html
import math
import random
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.figures import number
from search.register import beside_trivial, best_of
from search.reporting import insight
from search.study import attributes, ranking
from search.study.comparable import ComparableStudy, comparable_study, comparable_trials
from search.studyfile.schema import Definition

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;overflow-wrap:anywhere}"
    ".wide{overflow-x:auto}table{border-collapse:collapse}h2{margin-top:2em}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #8884;text-align:right;white-space:nowrap}"
)
_MOST = 500  # trials in plots that draw each of them; of 5 000 Optuna's take 8 s and the page 11 MB
_CLEAR = "rgba(0,0,0,0)"  # the page's own ground, light or dark


def page(study: optuna.Study, definition: Definition) -> str:
    """Return the page: what it is about, the best trials, what matters, and every plot that there are trials for."""
    from plotly.offline import get_plotlyjs

    title = html.escape(study.study_name)
    parts = [f"<h1>Study {title}</h1>", *_about(study, definition), *_facts(study, definition)]
    for heading, figure in _figures(comparable_study(study), definition):
        figure.update_layout(title=None, paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR, font_color="#888", autosize=True)
        drawn = figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True})
        parts += [f"<h2>{heading}</h2>", drawn]
    about = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"{about}<title>{title}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _about(study: optuna.Study, definition: Definition) -> Iterator[str]:
    """Yield what the page is about: when, which data, which versions, and what can be done with the best model."""
    ended = [trial.datetime_complete for trial in study.get_trials(deepcopy=False) if trial.datetime_complete]
    data, known = definition.data, attributes.data_of(study)
    split = f"{data.folds} folds" if data.folds else f"{data.validation_size:g} of the rest to validate"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("search", "optuna", "keras", "tensorflow"))
    facts = {
        "asked": definition.description,
        "metric": ", ".join(map(" ".join, zip(definition.directions, definition.metrics, strict=True))),
        "newest trial": f"{max(ended):%Y-%m-%d %H:%M}" if ended else "",
        "data": f"{data.source}, digest {known['rows']}" if known else data.source,
        "split": f"{data.test_size:g} held out, {split}",
        "model": definition.model.build,
        "versions": versions,
        "make the model champion": f"python -m search.promote {shlex.quote(study.study_name)}",
    }
    lines = (f"<b>{name}</b>: {html.escape(fact)}" for name, fact in facts.items() if fact)
    yield f"<p>{'<br>'.join(lines)}</p>"


def _facts(study: optuna.Study, definition: Definition) -> Iterator[str]:
    trials = study.get_trials(deepcopy=False)
    states = [state for state in TrialState if any(trial.state == state for trial in trials)]
    counts = ", ".join(f"{sum(t.state == state for t in trials)} {state.name.lower()}" for state in states)
    yield f"<p>{counts}.</p>"
    ranked = ranking.best_trials(definition, comparable_trials(study))[:5]
    tests = sorted(
        {name for trial in ranked for name in attributes.metrics_of_trial(trial) if name.startswith("test_")}
    )
    names = list(dict.fromkeys(name for trial in ranked for name in trial.params))
    rows = []
    for trial in ranked:
        metrics = attributes.metrics_of_trial(trial)
        cells = [trial.number, *trial.values, *(metrics.get(name, "") for name in tests)]
        rows.append([*cells, *(trial.params.get(name, "") for name in names)])
    yield _table(["trial", *definition.metrics, *tests, *names], rows)
    best = [best_of(definition, trial, trivial=attributes.trivial_of(study)) for trial in ranked]
    yield "".join(f"<p>{html.escape(beside_trivial(definition, each))}</p>" for each in best[:1])
    worse = ", ".join(map(str, sorted(each.number for each in best if not each.beats_trivial)))
    yield f"<p>Not better than the trivial answer: trials {worse}.</p>" if worse else ""
    if any(edge := insight.edges(study, definition)):
        yield f"<ul>{''.join(f'<li>{html.escape(str(each))}</li>' for each in edge)}</ul>"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(number(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{heads}</tr>{lines}</table></div>"


def _figures(study: ComparableStudy, definition: Definition) -> Iterator[tuple[str, Any]]:
    """Yield each plot with its heading; one that Optuna cannot draw for these trials is left out."""
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    several = len(definition.metrics) > 1
    pruned = [trial for trial in comparable_trials(study, (TrialState.PRUNED,)) if trial.values]
    logarithmic = spans_decades([trial.values[0] for trial in (*complete, *pruned)])
    caveat = insight.caveat(len(complete))
    headings: Mapping[str, str] = {
        "plot_optimization_history": "Value by trial",
        "plot_parallel_coordinate": "Parallel coordinates",
        "plot_slice": "Value by parameter",
        "plot_param_importances": f"Importances{f' ({caveat})' if caveat else ''}",
        "plot_pareto_front": "Pareto front",
        "plot_intermediate_values": "Reported value by epoch, pruned trials included",
        "plot_timeline": "When each trial ran",
    }
    shown, named = _sample(study, definition, [*complete, *pruned])
    for name, heading in headings.items():
        whole = name in {"plot_optimization_history", "plot_param_importances"}
        if (name == "plot_pareto_front") != several and name in {"plot_pareto_front", "plot_intermediate_values"}:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and say so each time
            try:
                figure = _plot(name)(study if whole else shown, **_arguments(name, definition, logarithmic))
            except insight.UNDRAWN:
                continue
        if logarithmic and name in {"plot_optimization_history", "plot_slice", "plot_intermediate_values"}:
            figure.update_yaxes(type="log")
        yield heading if whole else f"{heading}{named}", figure


def _sample(study: ComparableStudy, definition: Definition, trials: Sequence[FrozenTrial]) -> tuple[Any, str]:
    """Return the study with the trials that plots of each trial show, and what to say of them."""
    if len(trials) <= _MOST:
        return study, ""
    best = [trial.number for trial in ranking.best_trials(definition, trials)[: _MOST // 2]]
    others = sorted({trial.number for trial in trials} - set(best))
    shown = comparable_study(study)
    shown.only = frozenset([*best, *random.Random(0).sample(others, min(len(others), _MOST - len(best)))])
    return shown, f" ({len(shown.only)} of {len(trials)} trials: the {len(best)} best, and others by chance)"


def _plot(name: str) -> Callable[..., Any]:
    from optuna import visualization

    plot: Callable[..., Any] = getattr(visualization, name)
    return plot


def _arguments(name: str, definition: Definition, logarithmic: bool) -> dict[str, Any]:
    if name in {"plot_intermediate_values", "plot_timeline"}:
        return {}
    if name == "plot_pareto_front":
        return {"target_names": list(definition.metrics)}
    first: dict[str, Any] = {"target": lambda trial: trial.values[0]} if len(definition.metrics) > 1 else {}
    if name == "plot_param_importances":
        first["evaluator"] = optuna.importance.PedAnovaImportanceEvaluator()
    if name == "plot_parallel_coordinate" and logarithmic:  # as the other plots; else all but the worst look alike
        return {"target_name": f"log10 {definition.metrics[0]}", "target": lambda trial: math.log10(trial.values[0])}
    return {"target_name": definition.metrics[0], **first}


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether values are better seen on a logarithmic axis: positive, and a hundredfold apart."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 100
