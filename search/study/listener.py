"""Who is told what happens to a search's trials: the sampler, the budget, MLflow's mirror, the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from search.training.result import Epoch, TrialResult


class Listener:
    """Is told of each trial of a search; a method that is not overridden does nothing."""

    def on_begin(self, number: int) -> None:
        """Take note that a trial is given to a worker."""

    def on_epochs(self, trial: FrozenTrial, epochs: Sequence[Epoch]) -> None:
        """Take note, every few seconds, of all epochs that a running trial has reported."""

    def on_end(self, trial: FrozenTrial, result: TrialResult) -> None:
        """Take note that a trial ended; the study has it as `trial`."""
