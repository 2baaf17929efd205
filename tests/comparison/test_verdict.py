"""The gate's statistics: equal models are told apart from better ones, by rows, groups and slices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from search.comparison import bootstrap
from search.comparison.predictions import ONLY, About, Predictions
from search.comparison.scores import score_of, trivial
from search.comparison.verdict import Incomparable, compare, compare_slices, require_same_rows
from search.serving.meaning import Kind, Meaning


def about(metric: str = "loss", direction: str = "minimize", task: str = "binary") -> About:
    kind: Kind = "numbers" if task == "regression" else "probabilities"
    return About("0123abcd", "", task, ("0", "1"), metric, direction, meanings=(Meaning(kind, task, (0, 1)),))


def classifier(
    y: Any, rng: np.random.Generator, skill: float = 1.0, metric: str = "loss", direction: str = "minimize"
) -> Predictions:
    """Return what a classifier of this skill gives: its logits are the truth times skill, with noise."""
    logits = skill * (2 * y - 1) + rng.normal(size=len(y))
    output = (1 / (1 + np.exp(-logits)))[:, None].astype("float32")
    loss = -np.log(np.where(y == 1, output[:, 0], 1 - output[:, 0]))
    rows = np.arange(len(y))
    return Predictions(about(metric, direction), rows, {ONLY: y.astype("float32")}, {ONLY: output}, loss=loss)


def of_equal_models(metric: str, rows: int) -> list[bool | None]:
    """Return for 200 pairs of equal models whether the second is held to be better."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng([seed, rows])
        y = rng.integers(0, 2, rows)
        direction = "minimize" if metric == "loss" else "maximize"
        one, other = (classifier(y, rng, metric=metric, direction=direction) for _ in range(2))
        found.append(compare(one, other, seed=seed).better)
    return found


@pytest.mark.parametrize(("metric", "rows"), [("loss", 150), ("accuracy", 120), ("loss", 40)])
def test_equal_models_are_seldom_promoted(metric: str, rows: int) -> None:
    """Every second retraining would replace the champion by a model that is no better."""
    assert of_equal_models(metric, rows).count(True) <= 10, "at most 5 %"


@pytest.mark.parametrize("metric", ["loss", "accuracy", "auc", "f1_score", "matthews_corrcoef"])
def test_a_better_model_is_told(metric: str) -> None:
    """A model that is clearly better would never be promoted."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    champion, challenger = classifier(y, rng, 0.7), classifier(y, rng, 1.6)
    there, back = compare(champion, challenger, metric), compare(challenger, champion, metric)
    assert (there.better, back.better) == (True, False)
    assert there.difference is not None
    assert there.interval is not None
    assert 0 < there.interval[0] < there.difference < there.interval[1]


def test_classes_in_a_column_are_told_apart() -> None:
    """With targets of shape (n, 1), as many programs have them, every model would be right on every row."""
    y = np.random.default_rng(0).integers(0, 2, 200)
    flat = classifier(y, np.random.default_rng(1), 0.5)
    column = replace(flat, targets={ONLY: y[:, None].astype("float32")})
    for name in ("accuracy", "f1_score", "auc"):
        one, other = score_of(name, flat), score_of(name, column)
        assert one is not None
        assert other is not None
        assert one.value == other.value < 1


def test_power_is_what_it_is_said_to_be() -> None:
    """A gate that passes nothing would be as useless as one that passes all."""
    told = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 7])
        y = rng.integers(0, 2, 500)
        told += compare(classifier(y, rng, 1.0), classifier(y, rng, 1.4), seed=seed).better is True
    assert told >= 36, "90 % at a loss 0.08 lower on 500 rows"


def test_undecided_says_how_many_rows_decide() -> None:
    """A person would not know whether to label fifty rows more or fifty thousand."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 4000)
    champion, challenger = classifier(y, rng, 1.0), classifier(y, rng, 1.08)
    few = np.arange(150)
    verdict = compare(champion.take(few), challenger.take(few))
    assert verdict.better is None
    more = verdict.more_rows()
    assert more is not None
    assert 50 < more < 100_000
    assert compare(champion, champion).more_rows() is None, "no number of rows tells a model from itself"


def test_whole_groups_are_drawn() -> None:
    """Ten rows of one patient would count as ten patients, and chance as skill."""
    rng = np.random.default_rng(0)
    promoted = {"rows": 0, "groups": 0}
    for seed in range(60):
        rng = np.random.default_rng([seed, 11])
        group = np.repeat(np.arange(30), 20)
        y = np.repeat(rng.integers(0, 2, 30), 20)
        shift = np.repeat(rng.normal(size=30), 20)
        one = classifier(y, rng)
        assert one.loss is not None
        other = replace(one, loss=one.loss + shift)
        promoted["rows"] += compare(one, other).better is True
        grouped = replace(other, group=np.asarray([f"g{each}" for each in group]))
        promoted["groups"] += compare(one, grouped).better is True
    assert promoted["groups"] <= 4
    assert promoted["rows"] > 15


def test_a_worse_slice_is_found_and_chance_is_not() -> None:
    """A model better on the whole and much worse for one region would go live there."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 1200)
    region = np.asarray([f"r{i % 12}" for i in range(1200)])
    champion, challenger = classifier(y, rng), classifier(y, rng, 2.0)
    worse = region == "r3"
    assert challenger.loss is not None
    challenger = replace(challenger, loss=np.where(worse, challenger.loss + 1.5, challenger.loss))
    assert compare(champion, challenger).better is True
    found = compare_slices(champion, challenger, region)
    assert [each.name for each in found if each.worse] == ["r3"]
    assert found[0].rows == 100
    wrongly = 0
    for seed in range(20):
        rng = np.random.default_rng([seed, 13])
        one, other = classifier(y, rng), classifier(y, rng)
        wrongly += any(each.worse for each in compare_slices(one, other, region, seed=seed))
    assert wrongly <= 3
    few = np.where(np.arange(1200) < 3, "tiny", "rest")
    assert not any(each.worse for each in compare_slices(champion, challenger, few)), "three rows show nothing"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_never_better(value: float) -> None:
    """A model that gives NaN for one row would pass."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    champion, challenger = classifier(y, rng), classifier(y, rng, 9.0)
    assert challenger.loss is not None
    challenger.loss[3] = value
    challenger.outputs[ONLY][3] = np.nan
    for metric in ("loss", "accuracy", "mean_squared_error", "auc", "log_loss"):
        try:
            verdict = compare(champion, challenger, metric)
        except Incomparable:
            continue
        assert verdict.better is not True, metric
        assert verdict.as_json()["challenger"] is None


def test_a_handful_of_rows_decides_nothing() -> None:
    """Four lucky rows out of a thousand would replace the champion."""
    y = np.tile([0.0, 1.0], 500)
    output = np.where(y == 1, 0.9, 0.1)[:, None]
    worse = output.copy()
    worse[:4] = 1 - worse[:4]
    rows = np.arange(1000)
    champion, challenger = (
        Predictions(about("accuracy", "maximize"), rows, {ONLY: y}, {ONLY: each}) for each in (worse, output)
    )
    verdict = compare(champion, challenger)
    assert verdict.better is None
    assert verdict.differing == 4
    assert verdict.more_rows() is not None


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("val_accuracy", metrics.accuracy_score),
        ("auc_1", metrics.roc_auc_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1_score", metrics.f1_score),
        ("balanced_accuracy_score", metrics.balanced_accuracy_score),
        ("average_precision_score", metrics.average_precision_score),
        ("mse", metrics.mean_squared_error),
        ("brier_score_loss", metrics.brier_score_loss),
    ],
)
def test_scores_are_scikit_learns(name: str, function: Any) -> None:
    """Two versions would be compared by a metric that is not the one named."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 200)
    made = classifier(y, rng)
    assert made.output is not None
    output = np.round(made.output, 2)  # with ties
    score = score_of(name, replace(made, outputs={ONLY: output}))
    assert score is not None
    try:
        expected = function(y, output[:, 0])
    except ValueError:
        expected = function(y, output[:, 0] > 0.5)
    assert score.value == pytest.approx(expected, rel=1e-6)
    assert score.maximize == (not name.startswith(("mse", "brier")))
    assert score.rows == 200


def test_scores_of_regressions_and_several_classes() -> None:
    """A regression's or a classifier's study metric would not be known."""
    rng = np.random.default_rng(4)
    y, output = rng.normal(size=300), rng.normal(size=(300, 1))
    made = Predictions(about(task="regression"), np.arange(300), {ONLY: y}, {ONLY: output})
    expected = {"r2_score": metrics.r2_score, "mae": metrics.mean_absolute_error}
    expected["root_mean_squared_error"] = metrics.root_mean_squared_error
    for name, function in expected.items():
        score = score_of(name, made)
        assert score is not None
        assert score.value == pytest.approx(function(y, output[:, 0]))
    labels, outputs = rng.integers(0, 7, 300), rng.dirichlet(np.ones(7), 300)
    several = Predictions(about(task="multiclass"), np.arange(300), {ONLY: labels}, {ONLY: outputs})
    hot = replace(several, targets={ONLY: np.eye(7)[labels]})
    for each in (several, hot):
        accuracy, macro = score_of("categorical_accuracy", each), score_of("f1_score", each)
        top = score_of("sparse_top_k_categorical_accuracy", each)
        assert accuracy is not None
        assert macro is not None
        assert top is not None
        assert accuracy.value == pytest.approx((outputs.argmax(axis=1) == labels).mean())
        assert macro.value == pytest.approx(metrics.f1_score(labels, outputs.argmax(axis=1), average="macro"))
        assert top.value == pytest.approx(metrics.top_k_accuracy_score(labels, outputs, k=5))
    assert score_of("no_such_metric", several) is None


def test_a_name_of_ones_own_keeps_the_functions_direction() -> None:
    """A version with twice the costs would be called better, since nothing in `costs` says that less is better."""
    y = np.arange(6) % 2
    own = {"costs": {"function": "sklearn.metrics:zero_one_loss"}, "hits": {"function": "sklearn.metrics:f1_score"}}
    made = Predictions(replace(about(), metrics=own), y, {ONLY: y}, {ONLY: y[:, None] * 0.9})
    for name, maximize in {
        "costs": False,
        "hits": True,
        "mean_poisson_deviance": False,
        "d2_log_loss_score": True,
    }.items():
        score = score_of(name, made)
        assert score is not None
        assert score.maximize is maximize, name


def test_the_trivial_model_is_beaten_or_not() -> None:
    """A first version that knows nothing would become champion."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    for skill, better in ((1.0, True), (0.0, False)):
        made = classifier(y, rng, skill)
        known = replace(made, baseline={ONLY: np.asarray([0.5])}, baseline_loss=np.full(400, np.log(2)))
        baseline = trivial(known)
        assert baseline is not None
        assert compare(baseline, known).better is better
    assert trivial(made) is None


def test_only_the_same_rows_are_compared() -> None:
    """A model tested on easier rows would win."""
    rng = np.random.default_rng(1)
    made = classifier(rng.integers(0, 2, 50), rng)
    require_same_rows(made, made)
    other_data = replace(made, about=replace(made.about, digest="ffff0000"))
    with pytest.raises(Incomparable, match=r"different data .*0123abcd and ffff0000"):
        require_same_rows(made, other_data)
    with pytest.raises(Incomparable, match="different rows"):
        require_same_rows(made, replace(made, rows=made.rows + 1))
    with pytest.raises(Incomparable, match="different targets"):
        require_same_rows(made, replace(made, targets={ONLY: 1 - made.targets[ONLY]}))
    with pytest.raises(Incomparable, match="do not tell r3"):
        compare(made, made, "r3")


def test_holms_correction() -> None:
    """One slice of fifty would be worse by chance."""
    assert bootstrap.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}


def test_each_of_several_outputs_is_compared_by_its_own_metrics() -> None:
    """If this fails, a model of several outputs is promoted by recorded values alone, without an interval."""
    rng = np.random.default_rng(0)
    rows, labels, urgent = np.arange(400), rng.integers(0, 3, 400), rng.integers(0, 2, 400)
    targets = {"department": labels, "urgent": urgent[:, None].astype("float32")}

    def given(noise: float) -> Predictions:
        logits = 3 * np.eye(3)[labels] + noise * rng.normal(size=(400, 3))
        chance = np.clip(urgent[:, None] * 0.6 + 0.2 + noise * 0.1 * rng.normal(size=(400, 1)), 0, 1)
        outputs = {"department": logits.astype("float32"), "urgent": chance.astype("float32")}
        of = Meaning("logits", "multiclass", (0, 1, 2)), Meaning("probabilities", "binary", (0, 1))
        told = replace(about("department_accuracy", "maximize", task="None"), meanings=of)
        return Predictions(told, rows, targets, outputs, loss=(noise + rng.uniform(size=400)).astype("float32"))

    worse, better = given(3.0), given(1.0)
    verdict = compare(worse, better)
    right = (better.outputs["department"].argmax(axis=1) == labels).mean()
    assert verdict.challenger == pytest.approx(right)
    assert verdict.better is True
    assert compare(worse, better, "val_urgent_auc").better is True
    assert compare(worse, better, "urgent_binary_accuracy").champion == pytest.approx(
        ((worse.outputs["urgent"] > 0.5) == (targets["urgent"] > 0.5)).mean()
    )
    assert compare(worse, better, "loss").better is True
    assert score_of("nothing_accuracy", better) is None


def test_the_area_under_the_curve_of_several_labels_is_scikit_learns() -> None:
    """If this fails, `--metric auc` is NaN for several labels, and an equal version is refused as worse."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, (300, 4))
    output = np.clip(0.3 * y + rng.uniform(0, 0.7, (300, 4)), 0, 1).astype("float32")
    made = Predictions(about(task="multilabel"), np.arange(300), {ONLY: y}, {ONLY: output})
    score = score_of("auc", made)
    assert score is not None
    assert score.value == pytest.approx(roc_auc_score(y, output))
    assert score.maximize
    assert compare(made, made, "auc").better is None
