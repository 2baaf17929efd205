"""The work that trials are given: small (arithmetic is nothing), large (arithmetic rules), and tiny.

Every configuration stands in the study file as an enqueued trial, so that a search and a bare loop
train exactly the same ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Work:
    """A study whose configurations are all given.

    Attributes:
        name: `small` or `large`.
        data: The `[data]` table's source and options.
        space: The parameters, as the study file writes them.
        configurations: What is trained, in this order.
    """

    name: str
    data: str
    space: str
    configurations: Sequence[Mapping[str, Any]]

    def write(self, folder: Path) -> Path:
        """Write the study file, without a pruner, and return its path."""
        enqueued = "".join(
            "\n[[enqueue]]\n" + "".join(f"{name} = {value}\n" for name, value in each.items())
            for each in self.configurations
        )
        path = folder / f"{self.name}.toml"
        path.write_text(
            f'name = "{self.name}"\nmetric = "val_loss"\ndirection = "minimize"\n\n[data]\n{self.data}\n\n'
            f'[space]\n{self.space}\n{enqueued}\n[search]\npruner = "none"\nsampler = "random"\n'
        )
        return path


def small(n_trials: int) -> Work:
    """Return trials of the study `blobs`, of different widths and lengths."""
    cycle = itertools.product((10, 20, 30, 15), (16, 32, 64), (8, 32, 64, 128, 200, 256))
    return Work(
        "small",
        'source = "sklearn:make_blobs"\noptions = { n_samples = 1000, n_features = 2, centers = 2, random_state = 42 }',
        'epochs = { type = "int", low = 5, high = 30 }\n'
        'batch_size = { type = "categorical", choices = [16, 32, 64] }\n'
        'width = { type = "int", low = 8, high = 256 }',
        [{"epochs": e, "batch_size": b, "width": w} for e, b, w in _spread(cycle, n_trials)],
    )


def large(n_trials: int) -> Work:
    """Return trials on 50 000 rows of 100 numbers, 256 to 1024 units in each of two layers."""
    cycle = itertools.product((3, 4), (256, 512), (256, 512, 768, 1024))
    return Work(
        "large",
        'source = "sklearn:make_classification"\n'
        "options = { n_samples = 50000, n_features = 100, n_informative = 50, random_state = 42 }",
        'epochs = { type = "int", low = 1, high = 5 }\n'
        'batch_size = { type = "categorical", choices = [256, 512] }\n'
        'width = { type = "int", low = 256, high = 1024 }\n'
        'depth = { type = "int", low = 2, high = 2 }',
        [{"epochs": e, "batch_size": b, "width": w, "depth": 2} for e, b, w in _spread(cycle, n_trials)],
    )


def tiny(widest: int = 8) -> Work:
    """Return a study of trials of one epoch on 100 rows, each with another learning rate, and 8 to `widest` units."""
    return Work(
        "tiny",
        'source = "sklearn:make_blobs"\noptions = { n_samples = 100, n_features = 2, centers = 2, random_state = 42 }',
        'epochs = { type = "int", low = 1, high = 1 }\n'
        'batch_size = { type = "categorical", choices = [32] }\n'
        f'width = {{ type = "int", low = 8, high = {widest} }}\n'
        'learning_rate = { type = "float", low = 1e-4, high = 1e-1, log = true }',
        [],
    )


def _spread(cycle: itertools.product[Any], count: int) -> list[Any]:
    """Return `count` different configurations, the same ones each time, in no particular order."""
    return random.Random(0).sample(list(cycle), count)
