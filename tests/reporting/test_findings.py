"""What a study is said to have found: edges, importances, failures, one page, the list of studies."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from search.ensemble.members import Ensemble, Member
from search.errors import UsageError
from search.reporting import insight, interactive, plots
from search.reporting.address import Address
from search.reporting.findings import findings_of
from search.reporting.overview import overview
from search.study import attributes, ranking
from search.study.attributes import Confirmed
from search.study.storage import open_storage
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.tracking.pages import descriptions, outcomes
from search.training.result import Epoch, TrialResult
from tests.conftest import Searcher, command

pytestmark = pytest.mark.draws

STUDY = """
name = "found"
metric = "val_loss"
direction = "minimize"
[data]
source = "sklearn:load_wine"
[fit]
epochs = 10
[space]
width = { type = "int", low = 8, high = 256, log = true }
dropout = { type = "float", low = 0.0, high = 0.5 }
"""
SPACE = {"width": IntDistribution(8, 256, log=True), "dropout": FloatDistribution(0.0, 0.5)}


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    path = tmp_path / "found.toml"
    path.write_text(STUDY)
    return load_definition(path)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """Thirty trials, the wider the better; then one pruned and three failed, two for the same reason."""
    (tmp_path / "studies").mkdir()
    storage = open_storage(str(tmp_path / "studies" / "found.journal"))
    study = optuna.create_study(study_name="found", storage=storage)
    for number in range(30):
        params = {"width": 8 * (number + 1) + 8, "dropout": 0.25 + 0.2 * (-1) ** number}
        searched = {attributes.SEARCH_RUN: "s"}
        value = 1.0 / 10 ** (number / 10)
        study.add_trial(create_trial(params=params, distributions=SPACE, value=value, system_attrs=searched))
    for number, (fate, reason) in enumerate(
        [
            ("pruned", "pruned after epoch 4"),
            ("failed", "width 3 is odd"),
            ("failed", "no"),
            ("failed", "width 5 is odd"),
        ]
    ):
        trial = study.ask(SPACE)  # type: ignore[arg-type]
        epochs = tuple(Epoch(step, float(step), {"val_loss": 1.0}) for step in range(4))
        fit = {"fit": {"epochs": 10}}
        result = TrialResult(30 + number, fate, 0, reason=reason, epochs=epochs, training=fit)  # type: ignore[arg-type]
        attributes.set_outcome(storage, attributes.id_of(storage, study, trial.number), result.as_text())
        study.tell(trial, state=result.state)
    return study


def test_a_range_that_ends_where_the_best_values_are_is_named(study: optuna.Study, definition: Definition) -> None:
    """Whoever searched a range too narrow would take its edge for the optimum."""
    (edge,) = insight.edges(study, definition)
    assert (edge.parameter, edge.bound, edge.value) == ("width", "high", 256)
    assert edge.write == 1020
    assert str(edge) == "width: the best values sit at high = 256; try high = 1020"


def test_importances_say_when_there_are_too_few_trials_to_trust_them(
    study: optuna.Study, definition: Definition
) -> None:
    """A person would drop a parameter that ten trials happened not to need."""
    found = insight.importances(study, definition)
    assert list(found) == ["width", "dropout"]
    assert insight.caveat(30) == ""
    assert insight.caveat(12) == "only a hint: 12 complete trials, fewer than 30"


def test_failures_are_grouped_by_reason(study: optuna.Study) -> None:
    """A thousand trials that fail alike would hide the one that fails otherwise."""
    groups = outcomes.failures(study.get_trials(deepcopy=False))
    assert [(each.reason, each.numbers) for each in groups] == [("width 3 is odd", (31, 33)), ("no", (32,))]


def test_what_pruning_saved_is_counted_in_epochs(study: optuna.Study) -> None:
    """Nobody could tell whether the pruner is worth its risk."""
    saved = outcomes.saved(study.get_trials(deepcopy=False), 1)
    assert (saved.trials, saved.epochs) == (1, 6)
    assert str(saved).startswith("1 trial pruned: 6 epochs not trained")
    assert outcomes.saved(study.get_trials(deepcopy=False), 5).epochs > 6, "with folds four more trainings"


def test_the_page_holds_all_that_it_needs(study: optuna.Study, definition: Definition) -> None:
    """A colleague without network would open an empty page."""
    page = interactive.page(study, definition)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert page.count("plotly.js v") == 1, "the library is inside, once"
    assert "Parallel coordinates" in page
    assert "width: the best values sit at high = 256" in page


def test_every_plot_is_drawn(study: optuna.Study, definition: Definition, tmp_path: Path) -> None:
    """A study would be reported without its pictures."""
    written = {path.name: path for path in plots.write(study, definition, tmp_path)}
    names = {"parallel_coordinate", "optimization_history", "slice", "param_importances"}
    assert set(written) == {"trials.csv", "report.html", *(f"{name}.png" for name in names)}
    axes = plots.axes(study, definition, "optimization_history")
    assert axes.get_yscale() == "log", "values span decades"


def test_a_programs_own_figures_stay(study: optuna.Study, definition: Definition, tmp_path: Path) -> None:
    """A report would close the figures of a notebook, and nothing that it draws later would be shown."""
    from matplotlib import pyplot

    pyplot.switch_backend("svg")  # as a notebook has its own
    mine, there = pyplot.figure(), pyplot.get_fignums()
    try:
        plots.write(study, definition, tmp_path)
        assert plots.picture(study, definition).startswith(b"\x89PNG")
        assert (pyplot.get_backend(), pyplot.get_fignums()) == ("svg", there)
    finally:
        pyplot.close(mine)
        pyplot.switch_backend("agg")


def test_every_plot_that_optuna_knows_is_drawn_or_says_why_not(study: optuna.Study, definition: Definition) -> None:
    """A person who knows `plot_contour` would have to write Optuna's call; or read a traceback."""
    from optuna.visualization import matplotlib as visualization

    drawn, told = set(), {}
    for name in (each.removeprefix("plot_") for each in visualization.__all__ if each.startswith("plot_")):
        try:
            plots.axes(study, definition, name)
            drawn.add(name)
        except UsageError as error:
            told[name] = str(error)
    assert {"contour", "edf", "rank", "slice", "timeline", "intermediate_values"} <= drawn
    assert told.keys() <= {"hypervolume_history", "pareto_front", "terminator_improvement"}
    assert "Study must be multi-objective" in told["hypervolume_history"]
    with pytest.raises(UsageError, match=r"plot 'contour': .*unexpected keyword argument 'param'"):
        plots.axes(study, definition, "contour", param=["width"])


@pytest.mark.parametrize(
    ("choices", "missing"),
    [
        ([None, True, 1.5, "x"], set()),
        (["$\\frac$", "$x^$", "$10 to $20", "x"], {"parallel_coordinate.png"}),
        ([[1], [2], [3], [4]], {"parallel_coordinate.png", "report.html", "param_importances.png"}),
        ([{"a": 1}, {"b": 2}, None, 3], {"parallel_coordinate.png", "report.html", "param_importances.png"}),
        ([], set()),
    ],
    ids=["mixed", "formulas", "lists", "tables", "no parameter"],
)
def test_odd_choices_of_a_builder_cost_at_most_their_plot(
    choices: list[Any], missing: set[str], definition: Definition, tmp_path: Path
) -> None:
    """`search.report` would end in an error of a plotting library's, for a choice that the builder suggested."""
    odd = optuna.create_study()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna would rather not keep such choices
        for number in range(4):
            params = {"odd": choices[number]} if choices else {}
            distributions = {"odd": CategoricalDistribution(choices)} if choices else {}
            odd.add_trial(create_trial(params=params, distributions=distributions, value=0.1 * (number + 1)))
        written = {path.name for path in plots.write(odd, definition, tmp_path)}
    assert {"optimization_history.png", "slice.png", "trials.csv"} <= written
    assert {"parallel_coordinate.png", "report.html", "param_importances.png"} - written <= missing
    insight.importances(odd, definition)


def test_studies_are_listed_and_a_damaged_one_hides_no_other(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One broken file would hide every other study of the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies" / "broken.journal").write_text("not a record\n{}\n")
    told: list[str] = []
    (found,) = overview(None, f"sqlite:///{tmp_path}/nowhere.db", told.append)
    assert found.states == {"complete": 30, "pruned": 1, "failed": 3}
    assert found.as_json() == {
        "study": "found",
        "trials": 34,
        "best": pytest.approx(10**-2.9),
        "versions": 0,
        "champion": None,
        "package": "",
    }
    assert any("broken.journal" in line for line in told)
    assert not (tmp_path / "nowhere.db").exists()


def test_report_and_studies_answer_in_json_and_in_text(folder: Path, run_search: Searcher, study: optuna.Study) -> None:
    """A script that follows searches would have to read tables; a person would get no link to the page."""
    path = folder / "found.toml"
    path.write_text(STUDY)
    run_search(load_definition(path), n_trials=1, study_name="other")
    done = command("search.report", str(path), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["trials"] == {"complete": 30, "pruned": 1, "failed": 3}
    assert len(printed["best"]) == 5
    assert printed["edges"] == [{"parameter": "width", "bound": "high", "value": 256, "write": 1020}]
    assert printed["failures"][0] == {"reason": "width 3 is odd", "trials": [31, 33]}
    assert (folder / "reports" / "found" / "report.html").is_file()
    done = command("search.report", str(path), "--study-name", "other", cwd=folder)
    assert "viewStateShareKey=search" in done.stdout, done.stderr
    done = command("search.console", "studies", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^found .* 30 +1 +3$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^other +[0-9.e-]+ +1 +1 +0 +0 +[0-9.]+$", done.stdout, re.MULTILINE), done.stdout


def test_the_page_is_written_from_the_first_trial_on(tmp_path: Path, definition: Definition) -> None:
    """After three trials `search.report` would write no page, and not say so."""
    study = optuna.create_study(study_name="found")
    assert plots.draw(study, definition, "report", tmp_path) == []
    study.add_trial(create_trial(params={"width": 8, "dropout": 0.1}, distributions=SPACE, value=1.0))
    (file,) = plots.draw(study, definition, "report", tmp_path)
    page = file.read_text(encoding="utf-8")
    assert "name='viewport'" in page
    for told in ("sklearn:load_wine", "minimize val_loss", "0.2 held out", "python -m search.promote found", "keras "):
        assert told in page
    assert page.count("<h1>") == 1
    assert '"title":{"text":"Optimization History Plot"}' not in page, "each plot has one title"


def test_the_page_says_where_the_model_is_and_what_was_confirmed(study: optuna.Study, definition: Definition) -> None:
    """Whoever is mailed the page would ask which version it is about, and whether the value was luck."""
    attributes.set_search(study, "s", {"trivial": {"val_loss": 2.0}})
    attributes.set_confirmed(study, {29: Confirmed((0.002, 0.004)), 28: Confirmed((0.3, 0.5))})
    where = Address(
        "http://there/#/experiments/1", "mlflow ui", "models:/found/3", ("challenger",), "http://there/#/v3"
    )
    page = interactive.page(study, definition, where)
    assert '<a href="http://there/#/v3" target="_blank" rel="noopener">models:/found/3</a> (challenger)' in page
    assert "http://there/#/experiments/1" in page
    assert "served by: mlflow ui" in page
    assert "has val_loss 2." in page, "the trivial answer"
    assert "of the first value was luck" in page
    assert re.search(r">under new seeds</td><td>0.003</td>", page)
    assert "30 complete, 1 pruned, 3 failed" in page


def test_of_several_metrics_the_page_and_the_list_say_which_are_on_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person would take the first metric's best trial for the study's, and not find the one that is registered."""
    path = tmp_path / "two.toml"
    path.write_text(
        STUDY.replace('"val_loss"', '["val_loss", "parameters"]').replace('"minimize"', '["minimize", "minimize"]')
    )
    monkeypatch.chdir(tmp_path)
    definition, storage = load_definition(path), open_storage("studies/two.journal")
    study = optuna.create_study(study_name="two", storage=storage, directions=["minimize", "minimize"])
    for number, values in enumerate([(1.0, 100.0), (0.4, 200.0), (0.001, 900.0), (0.5, 950.0)]):
        params = {"width": 8 + number, "dropout": 0.1}
        study.add_trial(create_trial(params=params, distributions=SPACE, values=values))
    page = interactive.page(study, definition)
    assert "Trial 1 is of the 3 on the Pareto front the nearest to the ideal point." in page
    assert ">on the front</td><td>yes</td><td>yes</td><td>yes</td><td></td>" in page
    assert page.count('"xaxis":{"title":{"text":"val_loss"},"type":"log"') == 1, "the front's axis is as the others'"
    (found,) = overview(None, f"sqlite:///{tmp_path}/nowhere.db")
    assert (found.as_json()["best"], found.as_json()["front"]) == ([0.4, 200.0], 3)
    shown = descriptions.of_search(
        definition,
        study.trials,
        ranking.best_trials(definition, study.trials),
        lambda trial: f"[{trial.number}]",
        state="",
        dataset={},
        run_id="r",
    )
    assert "On the Pareto front: [0], [1], [2]. Registered is [1], of the 3 on the Pareto front the nearest" in shown


def test_the_page_says_what_was_averaged(definition: Definition) -> None:
    """The terminal would tell of another registered model than the report."""
    study = optuna.create_study(study_name="found")
    study.add_trial(create_trial(params={"width": 8, "dropout": 0.1}, distributions=SPACE, value=0.112))
    averaged = Ensemble((Member(0, "a"), Member(1, "b")), "val_loss", 0.104, 0.112, slower=1.9, gain=0.009)
    attributes.set_ensemble(study, averaged.record() | {"newer": 1})
    told = "2 trials averaged: `val_loss` 0.104; the best alone 0.112; 1.9 times slower a row"
    told += "; its loss is 0.009 lower on rows that chose neither"
    assert told in interactive.page(study, definition)
    assert findings_of(study, definition, 5).ensemble == averaged


def test_a_long_study_is_drawn_of_a_sample_that_is_named(definition: Definition) -> None:
    """A report of 5 000 trials would take minutes, and its page a browser."""
    study = optuna.create_study(study_name="found")
    study.add_trials(
        create_trial(params={"width": 8 + at % 200, "dropout": 0.1}, distributions=SPACE, value=float(at))
        for at in range(700)
    )
    page = interactive.page(study, definition)
    assert "Parallel coordinates (500 of 700 trials: the 250 best, and others by chance)" in page
    assert "<h2>val_loss by trial</h2>" in page
