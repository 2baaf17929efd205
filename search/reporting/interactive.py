"""A study as one page for a browser: Optuna's own interactive plots, which need no network.

It reads the study and changes nothing in it.
"""

from __future__ import annotations

import math
import random
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.figures import counts
from search.register import beside_trivial, best_of, luck
from search.reporting import insight
from search.reporting.address import NO_ADDRESS, Address
from search.reporting.findings import averaged_of, front_of
from search.study import attributes, ranking
from search.study.comparable import ComparableStudy, comparable_study, comparable_trials, read_study
from search.studyfile.objects import in_words
from search.studyfile.schema import Definition
from search.tracking.pages import markup

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;overflow-wrap:anywhere}"
    "table{border-collapse:collapse}h2{margin-top:2em}th{overflow-wrap:normal}"
    "td,th{padding:.2em .6em;border-bottom:1px solid #8884;vertical-align:top}"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}"
    ".narrow{display:none}@media(max-width:600px){.narrow{display:block}.wide-only{display:none}"
    "body{margin:1em auto;padding:0 .6em}td,th{padding:.2em .3em}h2{font-size:1.2em}"
    ".best td:nth-child(n+5),.best th:nth-child(n+5){display:none}}"  # the three best
)
_MOST = 500  # trials in plots that draw each of them; of 5 000 Optuna's take 8 s and the page 11 MB
_CLEAR = "rgba(0,0,0,0)"  # the page's own ground, light or dark
_POINTS, _BEST_POINTS = "#636efa", "#EF553B"  # Plotly's own first colours, as in the other plots
_GRID = "rgba(128,128,128,0.25)"
_BEST = 5  # trials in the table
_AXES = 4  # parameters whose parallel axes a phone has room for


def page(study: optuna.Study, definition: Definition, address: Address = NO_ADDRESS) -> str:
    """Return the page: what it is about, the best trials, what matters, and every plot that there are trials for.

    Args:
        study: The study.
        definition: Its study file.
        address: Where MLflow shows it.
    """
    from plotly.offline import get_plotlyjs

    title = f"Study {study.study_name}"
    parts: list[str] = [f"<h1>{markup.markup(title)}</h1>", *_about(study, definition, address)]
    parts += [*_best(study, definition), *_insights(study, definition)]
    for heading, figures, wide in _figures(read_study(study), definition):
        drawn = [_drawn(each, narrow=len(figures) > 1) for each in figures]
        note = "<p class='narrow'>A wider screen shows it.</p>" if wide else ""
        parts += [f"<h2>{markup.markup(heading)}</h2>{note}"]
        parts += [f"<div class='plots{' wide-only' if wide else ''}'>{''.join(drawn)}</div>"]
    about = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"{about}<title>{markup.markup(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _drawn(figure: Any, *, narrow: bool) -> str:
    """Return a figure as HTML, its letters and lines such that they read on light and on dark ground."""
    margin = {"l": 50, "r": 20, "t": 40, "b": 50}
    figure.update_layout(
        title=None,
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        font_color=markup.GREY,
        autosize=True,
        margin=margin,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0},
        **({"height": 320} if narrow else {}),
    )
    look = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True, "exponentformat": "e"}
    figure.update_xaxes(**look)
    figure.update_yaxes(**look)
    config = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))


def _about(study: optuna.Study, definition: Definition, address: Address) -> Iterator[str]:
    """Yield what the page is about: when, which data, which versions, and what can be done with the best model."""
    trials = study.get_trials(deepcopy=False)
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    data, known = definition.data, attributes.data_of(study)
    split = f"{data.folds} folds" if data.folds else f"{data.validation_size:g} of the rest to validate"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("search", "optuna", "keras", "tensorflow"))
    alias = f" ({', '.join(address.aliases)})" if address.aliases else ""
    served = f" (served by: {address.serve})" if address.serve else ""
    averaged = averaged_of(study, definition)
    yield markup.facts(
        {
            "asked": definition.description,
            "metric": ", ".join(map(" ".join, zip(definition.directions, definition.metrics, strict=True))),
            "trials": counts(ranking.states_of(trials)),
            "newest trial": f"{max(ended):%Y-%m-%d %H:%M}" if ended else "",
            "data": in_words(data.source) + (f", digest {known['rows']}" if known else ""),
            "split": f"{data.test_size:g} held out, {split}",
            "model": in_words(definition.model.build),
            "versions": versions,
            "registered": address.version
            and markup.Markup(markup.link(address.version_url, address.version) + markup.markup(alias)),
            "averaged": "" if averaged is None else str(averaged),
            "in MLflow": address.url
            and markup.Markup(markup.link(address.url, "the study's trials") + markup.markup(served)),
            "make it champion": "champion" not in address.aliases
            and f"python -m search.promote {shlex.quote(study.study_name)}",
        }
    )


def _best(study: optuna.Study, definition: Definition) -> Iterator[str]:
    """Yield the best trials, a column each, what was confirmed, and how they compare with the trivial answer."""
    ranked = ranking.leading_trials(definition, study)
    confirmed = attributes.confirmed_of(study)
    best = [
        best_of(definition, trial, confirmed=confirmed.get(trial.number), trivial=attributes.trivial_of(study, trial))
        for trial in ranked[:_BEST]
    ]
    if not best:
        return
    front = front_of(study, definition)
    tests = sorted({name for each in best for name in each.metrics if name.startswith("test_")})
    names = list(dict.fromkeys(name for each in best for name in each.params))
    new_seeds = [each.confirmed.mean if each.confirmed is not None else "" for each in best]
    rows: list[Sequence[object]] = [
        *zip(definition.metrics, *(each.values for each in best), strict=True),
        *([("under new seeds", *new_seeds)] if any(new_seeds) else []),
        *([("on the front", *("yes" if each.number in front else "" for each in best))] if front else []),
        *((name, *(each.metrics.get(name, "") for each in best)) for name in tests),
        *((name, *(each.params.get(name, "") for each in best)) for name in names),
    ]
    yield "<h2>Best trials</h2>"
    yield markup.paragraph(f"Trial {best[0].number} is {ranking.nearest(len(front))}." if front else "")
    yield f"<div class='best'>{markup.table(['trial', *(str(each.number) for each in best)], rows)}</div>"
    yield markup.paragraph(beside_trivial(definition, best[0]))
    yield markup.paragraph(luck(definition, best[0]).replace("`", ""))
    worse = ", ".join(map(str, sorted(each.number for each in best if not each.beats_trivial)))
    yield markup.paragraph(f"Not better than the trivial answer: trials {worse}." if worse else "")


def _insights(study: optuna.Study, definition: Definition) -> Iterator[str]:
    edges = insight.edges(study, definition)
    yield f"<ul>{''.join(f'<li>{markup.markup(each)}</li>' for each in edges)}</ul>" if edges else ""


def _figures(study: ComparableStudy, definition: Definition) -> Iterator[tuple[str, list[Any], bool]]:
    """Yield each plot's heading, its figures, and whether it needs a wide screen.

    A plot that Optuna cannot draw for these trials is left out.
    """
    complete = comparable_trials(study, (TrialState.COMPLETE,))
    pruned = [trial for trial in comparable_trials(study, (TrialState.PRUNED,)) if trial.values]
    metric, several = definition.metrics[0], len(definition.metrics) > 1
    caveat = insight.caveat(len(complete))
    headings: Mapping[str, str] = {
        "plot_pareto_front": "Pareto front",
        "plot_optimization_history": f"{metric} by trial",
        "plot_parallel_coordinate": "Parallel coordinates",
        "plot_slice": f"{metric} by parameter",
        "plot_param_importances": f"Importances for {metric}{f' ({caveat})' if caveat else ''}",
        "plot_intermediate_values": "Reported value by epoch, pruned trials included",
        "plot_timeline": "When each trial ran",
    }
    names = list(dict.fromkeys(key for trial in complete for key in trial.params))
    shown, named = _sample(study, definition, [*complete, *pruned])
    scales = [
        spans_decades([trial.values[at] for trial in (*complete, *pruned)]) for at in range(len(study.directions))
    ]
    for name, heading in headings.items():
        whole = name in {"plot_optimization_history", "plot_param_importances"}
        if (name == "plot_pareto_front") != several and name in {"plot_pareto_front", "plot_intermediate_values"}:
            continue
        figures = _drawn_by_optuna(name, study if whole else shown, definition, names, logarithmic=scales[0])
        if not figures:
            continue
        for figure in figures:
            _scale(name, figure, scales)
        wide = name == "plot_parallel_coordinate" and len(names) > _AXES
        yield heading if whole else f"{heading}{named}", figures, wide


def _drawn_by_optuna(
    name: str, study: Any, definition: Definition, names: Sequence[str], *, logarithmic: bool
) -> list[Any]:
    """Return a plot's figures: of slices one for each parameter, so that they stand below each other on a phone."""
    from optuna import visualization

    plot: Callable[..., Any] = getattr(visualization, name)
    arguments = _arguments(name, definition, logarithmic)
    one_by_one = names if name == "plot_slice" else ()
    calls = [{**arguments, "params": [each]} for each in one_by_one] or [arguments]
    figures = []
    for call in calls:
        with warnings.catch_warnings(), suppress(*insight.UNDRAWN):
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and say so each time
            figures.append(plot(study, **call))
    for figure in figures if name in {"plot_slice", "plot_pareto_front"} else ():
        figure.update_traces(marker={"color": _POINTS, "showscale": False})
        if name == "plot_pareto_front":  # the front is drawn last
            figure.update_traces(name="others")
            figure.data[-1].update(name="on the front", marker={"color": _BEST_POINTS}, showlegend=True)
    return [figure for figure in figures if figure.data]


def _scale(name: str, figure: Any, logarithmic: Sequence[bool]) -> None:
    """Give a metric the same scale in every plot that has it on an axis."""
    if name == "plot_pareto_front":
        kinds = dict(zip("xyz", ("log" if each else "linear" for each in logarithmic), strict=False))
        figure.update_xaxes(type=kinds["x"])
        figure.update_yaxes(type=kinds["y"])
        figure.update_scenes({f"{axis}axis_type": kind for axis, kind in kinds.items()})
    elif name in {"plot_optimization_history", "plot_slice", "plot_intermediate_values"} and logarithmic[0]:
        figure.update_yaxes(type="log")


def _sample(study: ComparableStudy, definition: Definition, trials: Sequence[FrozenTrial]) -> tuple[Any, str]:
    """Return the study with the trials that plots of each trial show, and what to say of them."""
    if len(trials) <= _MOST:
        return study, ""
    best = [trial.number for trial in ranking.best_trials(definition, trials)[: _MOST // 2]]
    others = sorted({trial.number for trial in trials} - set(best))
    shown = comparable_study(study)
    shown.only = frozenset([*best, *random.Random(0).sample(others, min(len(others), _MOST - len(best)))])
    return shown, f" ({len(shown.only)} of {len(trials)} trials: the {len(best)} best, and others by chance)"


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
