"""Which trainings to average, with which weights, and whether that is surely better than the best one alone.

Decided by the loss of each validation row, never by test rows. Greedy choice: Caruana et al., "Ensemble selection from
libraries of models" (2004).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.bootstrap import indices
from search.comparison.predictions import Predictions
from search.comparison.verdict import Verdict, compare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.serving.meaning import Meaning

Outputs = Mapping[str, "NDArray[np.float64]"]  # by the output's name, each of shape (n, …)
RowLosses = Callable[[Outputs], "NDArray[np.float64]"]  # the loss of each row, shape (n,)

_STEPS, _MOST_WEIGHTED = 25, 8  # of the greedy choice: additions, and different members
_FEW_ROWS = 500  # below it weights that are fitted to the rows are luck
_REPEATS = 5  # of halving the rows


class Candidates:
    """What trained models give for the same validation rows.

    Args:
        kept: The predictions of each model, the best one's first; the same rows in the same order.
        losses: Returns the loss of each row by the best one's loss function; it is given the rows of several models,
            one model's after another's.
        logits: The activation behind each output that gives logits, by its name; empty for others, which are averaged
            as they are.
    """

    def __init__(self, kept: Sequence[Predictions], losses: RowLosses, logits: Mapping[str, str]) -> None:
        self.best, self._losses, self._logits = kept[0], losses, logits
        outputs = [list(given.outputs.values()) for given in kept]  # the names that Keras makes differ between models
        self._stacked = {
            name: np.stack([_probabilities(output[at], logits.get(name, "")) for output in outputs])
            for at, name in enumerate(self.best.outputs)
        }
        weight = self.best.weight
        self.weight = np.ones(len(self.best)) if weight is None else weight.astype("float64")
        self.loss = self.losses(np.eye(len(kept), dtype=int))

    def averaged(self, counts: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """Return the outputs of weighted means of the candidates.

        Args:
            counts: How often each candidate counts, shape (…, candidates).
        """
        weights = counts / counts.sum(axis=-1, keepdims=True)
        means = {name: np.tensordot(weights, output, axes=1) for name, output in self._stacked.items()}
        return {name: _given(mean, self._logits.get(name, "")) for name, mean in means.items()}

    def losses(self, counts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the loss of each row under several means, shape (means, n)."""
        outputs = self.averaged(counts)
        rows = {name: output.reshape(-1, *output.shape[2:]) for name, output in outputs.items()}
        return self._losses(rows).astype("float64").reshape(len(counts), -1)

    def mean_loss(self, loss: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the mean over some rows, weighted as the rows are."""
        return np.asarray(np.average(loss[..., rows], axis=-1, weights=self.weight[rows]))


def choose(candidates: Candidates, most: int, rows: NDArray[np.intp], *, greedy: bool) -> NDArray[np.intp]:
    """Return how often each candidate counts, by their loss on some rows; the best trial, the first, always does.

    Args:
        candidates: The candidates.
        most: How many different ones.
        rows: The rows to choose by.
        greedy: Whether to add, with replacement, whichever helps most; else the best ones count alike.
    """
    order = np.argsort(candidates.mean_loss(candidates.loss, rows), kind="stable")
    order = np.concatenate([[0], order[order != 0]])  # it leads in the metric, others may in the loss
    counts = np.zeros(len(order), int)
    if not greedy:
        counts[order[:most]] = 1
        return counts
    counts[order[0]] = 1
    best, lowest = counts, float(candidates.mean_loss(candidates.loss[order[0]], rows))
    for _ in range(_STEPS - 1):
        allowed = order if np.count_nonzero(counts) < min(most, _MOST_WEIGHTED) else np.flatnonzero(counts)
        tried = counts + np.eye(len(counts), dtype=int)[allowed]
        losses = candidates.mean_loss(candidates.losses(tried), rows)
        counts = tried[int(np.argmin(losses))]
        if losses.min() < lowest:
            best, lowest = counts, float(losses.min())
    return best


def is_greedy(rows: int, *, folds: bool) -> bool:
    """Return whether there are enough rows to fit weights."""
    return folds or rows >= _FEW_ROWS


def judge(candidates: Candidates, most: int, *, greedy: bool, seed: int = 0) -> Verdict:
    """Judge by cross-fitting whether averaging is better than the best candidate alone.

    The rows are halved several times; what is chosen on one half is judged on the other.
    """
    rng = np.random.default_rng(seed)
    group = candidates.best.group
    units = np.arange(len(candidates.best)) if group is None else indices(group)
    averaged, alone = (np.zeros(len(units)) for _ in range(2))
    for _ in range(_REPEATS):
        first = rng.permutation(units.max() + 1) % 2 == 0
        for half in (first[units], ~first[units]):
            rows, others = np.flatnonzero(half), np.flatnonzero(~half)
            chosen = choose(candidates, most, rows, greedy=greedy)
            best = int(np.argmin(candidates.mean_loss(candidates.loss, rows)))
            averaged[others] += candidates.losses(chosen[None])[0][others] / _REPEATS
            alone[others] += candidates.loss[best][others] / _REPEATS
    return compare(_with_loss(candidates.best, alone), _with_loss(candidates.best, averaged), "loss", seed)


def _with_loss(kept: Predictions, loss: NDArray[np.float64]) -> Predictions:
    return replace(kept, outputs={}, loss=loss)


def activations(predictions: Predictions) -> dict[str, str]:
    """Return the activation behind each output, in their order, by name; empty for one that gives no logits."""
    about = zip(predictions.about.meanings, predictions.outputs.items(), strict=False)
    return {name: _activation(meaning, output) for meaning, (name, output) in about}


def _activation(meaning: Meaning, output: NDArray[Any]) -> str:
    if meaning.kind != "logits":
        return ""
    return "softmax" if not meaning.independent and output.ndim > 1 and output.shape[-1] > 1 else "sigmoid"


def _probabilities(output: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    from scipy import special

    turn = {"sigmoid": special.expit, "softmax": lambda logits: special.softmax(logits, axis=-1)}.get(activation)
    output = output.astype("float64")
    return output if turn is None else np.asarray(turn(output))


def _given(mean: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    """Return mean probabilities in the unit of the members: as logits if they give logits."""
    from scipy import special

    if activation == "sigmoid":
        return np.asarray(special.logit(mean))
    with np.errstate(divide="ignore"):
        return np.log(mean) if activation == "softmax" else mean
