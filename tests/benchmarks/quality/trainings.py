"""Trains what ensembles are made of, for one task and split, and keeps what each model gives for its rows.

    python -m tests.benchmarks.quality.trainings FOLDER TASK SPLIT [--trials 24] [--seeds 5] [--folds 5]

One process, without workers and records, so that a number of trials is compared and no clock. Kept is
`FOLDER/TASK-splitSPLIT.outputs.npz`, whole or not at all; what is there is not done again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from search.data.dataset import Data, Part
from search.data.loading import load
from search.study import space
from search.study.samplers import make_sampler
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.training.training import Training
from search.training.trial import RetrainedTrial
from tests.benchmarks.quality import tasks
from tests.benchmarks.quality.study import content

Array = NDArray[Any]
_SEEDS = 50_000  # seeds from here on belong to the winner's further trainings


@dataclass(frozen=True)
class _Made:
    """What one training gave: its value, its outputs for some rows and for the test rows, and how long it took."""

    value: float
    held_out: Array
    test: Array
    seconds: float
    epochs: int


class _Trainer:
    def __init__(self, definition: Definition, data: Data) -> None:
        self._definition, self._data = definition, data
        self.distributions = {name: space.distribution(each) for name, each in definition.space.items()}

    def train(self, params: dict[str, Any], seed: int, data: Data, epochs: int | None = None) -> _Made:
        """Train a configuration once."""
        started = time.perf_counter()
        training = Training(self._definition, data, RetrainedTrial(params, 0), seed, self._definition.folder, epochs)
        trained = training.fit(lambda *_: None)
        seconds = time.perf_counter() - started
        assert data.test is not None
        held_out = np.empty(0) if data.validation is None else _given(trained.model, data.validation.x)
        value = float(trained.metrics.get("val_loss", np.nan))
        return _Made(
            value if np.isfinite(value) else 1e3,
            held_out,
            _given(trained.model, data.test.x),
            seconds,
            trained.best_epochs,
        )

    def search(self, seed: int, trials: int, data_of: Any = None) -> tuple[list[dict[str, Any]], list[_Made]]:
        """Try so many configurations; `data_of` gives each trial's data by its number."""
        study = optuna.create_study(sampler=make_sampler(self._definition, "tpe", seed))
        tried, made = [], []
        for number in range(trials):
            trial = study.ask(self.distributions)
            data = self._data if data_of is None else data_of(number)
            found = self.train(trial.params, 1000 * seed + number, data)
            study.tell(trial, found.value)
            tried.append(dict(trial.params))
            made.append(found)
        return tried, made

    def folded(self, seed: int, trials: int, folds: list[tuple[Array, Array]]) -> dict[str, Array]:
        """Try so many configurations, each trained once a fold and once on all rows."""
        study = optuna.create_study(sampler=make_sampler(self._definition, "tpe", seed))
        rest = self._rest()
        kept: dict[str, list[Array]] = {"fold_value": [], "fold_out": [], "fold_test": [], "refit_test": []}
        for number in range(trials):
            trial = study.ask(self.distributions)
            own = 1000 * seed + number
            made = [
                self.train(trial.params, own, self._with(rest.take(learn), rest.take(look))) for learn, look in folds
            ]
            value = float(np.mean([each.value for each in made]))
            study.tell(trial, value)
            out = np.zeros((len(rest), *made[0].held_out.shape[1:]), "float32")
            for each, (_, look) in zip(made, folds, strict=True):
                out[look] = each.held_out
            epochs = max(1, round(float(np.mean([each.epochs for each in made]))))
            refit = self.train(trial.params, own, self._with(rest, None), epochs)
            kept["fold_value"].append(np.asarray([each.value for each in made]))
            kept["fold_out"].append(out)
            kept["fold_test"].append(np.stack([each.test for each in made]))
            kept["refit_test"].append(refit.test)
        return {name: np.stack(values) for name, values in kept.items()}

    def _rest(self) -> Part:
        assert self._data.validation is not None
        return self._data.train.joined(self._data.validation)

    def _with(self, train: Part, validation: Part | None) -> Data:
        return replace(self._data, train=train, validation=validation, _fitted=[])

    def reshuffled(self, number: int, kind: str) -> Data:
        """Return the data with another validation part of the same size, drawn by the trial's number."""
        rest = self._rest()
        assert self._data.validation is not None
        labels = None if kind == "regression" else rest.y
        learn, look = train_test_split(
            np.arange(len(rest)), test_size=len(self._data.validation), random_state=number + 1, stratify=labels
        )
        return self._with(rest.take(learn), rest.take(look))

    def folds(self, count: int, kind: str, seed: int) -> list[tuple[Array, Array]]:
        """Return the rows of each fold."""
        rest = self._rest()
        maker: Any = KFold if kind == "regression" else StratifiedKFold
        return list(maker(count, shuffle=True, random_state=seed).split(np.zeros(len(rest)), rest.y))


def _given(model: Any, x: Any) -> Array:
    return np.asarray(model(np.asarray(x), training=False), "float32")


def trained(folder: Path, task: str, split: int, trials: int, seeds: int, folds: int, fold_trials: int) -> None:
    """Train all of one task and split, and keep it."""
    file = folder / f"{task}-split{split}.npz"
    tasks.write(file.stem, file)
    definition = parse_definition(content(file), file)
    data, kind = load(definition), str(np.load(file)["kind"])
    assert data.validation is not None
    assert data.test is not None
    trainer, seed = _Trainer(definition, data), split + 100 * [*tasks.TASKS].index(task)
    tried, made = trainer.search(seed, trials)
    best = tried[int(np.argmin([each.value for each in made]))]
    again = [trainer.train(best, _SEEDS + each, data) for each in range(seeds)]
    _, moved = trainer.search(seed, trials, lambda number: trainer.reshuffled(number, kind))
    names = sorted(tasks.SPACE)
    kept: dict[str, Any] = {
        "kind": kind,
        "y_validation": data.validation.y,
        "y_test": data.test.y,
        "value": [each.value for each in made],
        "seconds": [each.seconds for each in made],
        "validation": np.stack([each.held_out for each in made]),
        "test": np.stack([each.test for each in made]),
        "seed_value": [each.value for each in again],
        "seed_validation": np.stack([each.held_out for each in again]),
        "seed_test": np.stack([each.test for each in again]),
        "moved_value": [each.value for each in moved],
        "moved_test": np.stack([each.test for each in moved]),
        "params": np.asarray([[str(params[name]) for name in names] for params in tried]),
        "names": names,
    }
    if folds:
        parts = trainer.folds(folds, kind, seed)
        kept |= {"y_rest": np.concatenate([data.train.y, data.validation.y])}
        kept |= trainer.folded(seed, fold_trials, parts)
    whole = folder / f".{task}-split{split}.part.npz"
    np.savez_compressed(whole, **kept)
    whole.replace(outputs(folder, task, split))


def outputs(folder: Path, task: str, split: int) -> Path:
    """Return where the outputs of one task and split are kept."""
    return folder / f"{task}-split{split}.outputs.npz"


def main() -> None:
    """Do what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("task", choices=list(tasks.TASKS))
    parser.add_argument("split", type=int)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--fold-trials", type=int, default=12)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not outputs(asked.folder, asked.task, asked.split).is_file():
        started = time.perf_counter()
        trained(asked.folder, asked.task, asked.split, asked.trials, asked.seeds, asked.folds, asked.fold_trials)
        print(f"  {asked.task}-split{asked.split}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
