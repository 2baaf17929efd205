"""Which trainings are averaged: by validation rows alone, and only where that is surely better."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from search.comparison.predictions import ONLY, About, Predictions
from search.ensemble import choice
from search.ensemble.choice import Candidates

ROWS = 200
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, ROWS)
ALL = np.arange(ROWS)


def log_loss(outputs: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the cross-entropy of each row, of one model or of several one after another."""
    given = np.clip(outputs[ONLY].reshape(-1), 1e-7, 1 - 1e-7)
    y = np.tile(Y, len(given) // ROWS)
    return np.asarray(-np.where(y == 1, np.log(given), np.log(1 - given)))


def candidates(outputs: list[NDArray[np.float64]], group: NDArray[np.str_] | None = None) -> Candidates:
    """Return models that gave these probabilities of class 1."""
    about = About("digest", "split", "binary", ("0", "1"), "loss", "minimize")
    kept = [Predictions(about, ALL, {ONLY: Y}, {ONLY: each[:, None]}, group=group) for each in outputs]
    return Candidates(kept, log_loss, {})


def noisy(seed: int, noise: float) -> NDArray[np.float64]:
    """Return the probabilities of a model that is right but for errors of its own."""
    rng = np.random.default_rng(seed)
    return np.asarray(special.expit(2 * (2 * Y - 1) + rng.normal(0, noise, ROWS)))


def test_the_best_ones_count_alike_where_rows_are_few() -> None:
    """Weights fitted to few rows would repeat their luck."""
    models = candidates([noisy(seed, 0.5 + seed) for seed in range(4)])
    assert choice.choose(models, 3, ALL, greedy=False).tolist() == [1, 1, 1, 0]
    assert not choice.is_greedy(499, folds=False)
    assert choice.is_greedy(500, folds=False)
    assert choice.is_greedy(100, folds=True)


def test_the_greedy_choice_starts_from_the_best_and_takes_what_helps() -> None:
    """A model that makes the best one worse would be in the mean, or one that mends its errors would not."""
    low, high = np.where(ALL < 100, 0.5, noisy(1, 0.1)), np.where(ALL < 100, noisy(2, 0.1), 0.55 + 0 * Y)
    useless = np.full(ROWS, 0.5)
    counts = choice.choose(candidates([low, high, useless]), 5, ALL, greedy=True)
    assert counts[0] > 0
    assert counts[1] > 0
    assert counts[2] == 0
    many = candidates([noisy(seed, 3) for seed in range(12)])
    assert np.count_nonzero(choice.choose(many, 3, ALL, greedy=True)) <= 3
    assert choice.choose(many, 5, ALL, greedy=True).sum() <= 25


def test_a_model_that_nothing_helps_stays_alone() -> None:
    """Averaging would be chosen for its own sake."""
    right = np.where(Y == 1, 0.999, 0.001)
    assert choice.choose(candidates([right, np.full(ROWS, 0.5)]), 5, ALL, greedy=True).tolist() == [1, 0]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_sure_gain_is_accepted_and_chance_is_not(greedy: bool) -> None:
    """A mean that is better by luck alone would replace the best trial, or a real gain be thrown away."""
    different = candidates([noisy(seed, 3) for seed in range(5)])
    assert choice.judge(different, 5, greedy=greedy).better is True
    same = noisy(0, 1)
    equal = candidates([same, *(np.clip(same + RNG.normal(0, 1e-4, ROWS), 0, 1) for _ in range(4))])
    assert choice.judge(equal, 5, greedy=greedy).better is not True
    spoilt = candidates([np.where(Y == 1, 0.99, 0.01), *(np.full(ROWS, 0.5) for _ in range(4))])
    assert choice.judge(spoilt, 5, greedy=False).better is False


def test_rows_that_belong_together_are_judged_together() -> None:
    """Ten copies of each row would make a difference look ten times as sure."""
    rows = RNG.integers(0, 10, ROWS).astype(str)
    verdict = choice.judge(candidates([noisy(seed, 3) for seed in range(5)], rows), 5, greedy=False)
    assert verdict.groups == 10


def test_logits_are_averaged_as_probabilities() -> None:
    """A mean of logits is another model than a mean of what the members say."""
    about = About("digest", "split", "binary", ("0", "1"), "loss", "minimize")
    logits = [RNG.normal(0, 2, (ROWS, 1)) for _ in range(2)]
    kept = [Predictions(about, ALL, {ONLY: Y}, {ONLY: each}) for each in logits]
    models = Candidates(kept, lambda given: log_loss({ONLY: special.expit(given[ONLY])}), {ONLY: "sigmoid"})
    mean = models.averaged(np.asarray([2, 1]))[ONLY]
    wanted = (2 * special.expit(logits[0]) + special.expit(logits[1])) / 3
    np.testing.assert_allclose(special.expit(mean), wanted, rtol=1e-6)
    wide = [RNG.normal(0, 2, (ROWS, 3)) for _ in range(2)]
    kept = [Predictions(about, ALL, {ONLY: Y}, {ONLY: each}) for each in wide]
    models = Candidates(kept, lambda given: given[ONLY][:, 0], {ONLY: "softmax"})
    mean = models.averaged(np.asarray([1, 1]))[ONLY]
    wanted = (special.softmax(wide[0], axis=-1) + special.softmax(wide[1], axis=-1)) / 2
    np.testing.assert_allclose(special.softmax(mean, axis=-1), wanted, rtol=1e-6)


def test_outputs_of_other_names_are_averaged_by_their_place() -> None:
    """Keras numbers the layers of a deeper model otherwise: equal outputs would not be found."""
    about = About("digest", "split", "regression", (), "loss", "minimize")
    first = {"dense_3": np.ones((ROWS, 1)), "dense_4": np.zeros((ROWS, 1))}
    second = {"dense_5": np.full((ROWS, 1), 3.0), "dense_6": np.ones((ROWS, 1))}
    kept = [Predictions(about, ALL, {}, each) for each in (first, second)]
    models = Candidates(kept, lambda given: given["dense_3"][:, 0], {})
    mean = models.averaged(np.asarray([1, 1]))
    assert {name: float(each[0, 0]) for name, each in mean.items()} == {"dense_3": 2.0, "dense_4": 0.5}


@pytest.mark.parametrize("greedy", [True, False])
def test_the_best_trial_is_in_the_mean_whatever_its_loss(greedy: bool) -> None:
    """A version of trial 3 would average others alone, where the metric is accuracy and the loss of others is lower."""
    models = candidates([noisy(0, 5), *(noisy(seed, 0.5) for seed in range(1, 5))])
    assert choice.choose(models, 2, ALL, greedy=greedy)[0] > 0
