"""What an epoch takes by each way of training, against Keras's own `fit` on the same rows (3 minutes; `--quick` 1).

Whole epochs, callbacks that watch batches, class weights, generators (`PyDataset`, `tf.data`) and XLA, in one process
and in turn. Of each training the median epoch after the first counts, which compiles.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.timing import PYTHON, Size, empty_folder, median, note, ratio, run, seconds, table

if TYPE_CHECKING:
    import keras

_SOURCE = """
import keras
import numpy as np
import tensorflow as tf

ROWS, BATCH = 2000, 32
rng = np.random.default_rng(0)
x = rng.normal(size=(ROWS, 20)).astype("float32")
y = (x[:, 0] + rng.normal(size=ROWS) > 0).astype("int64")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return x[rows], y[rows]


def arrays():
    return {"train": (x, y), "validation": (x[:200], y[:200])}


def generator():
    return {"train": Batches(), "validation": (x[:200], y[:200])}


def dataset():
    return {"train": tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH), "validation": (x[:200], y[:200])}


def build(trial, data):
    return model()


def model(**compiled):
    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1, "sigmoid")]
    made = keras.Sequential([keras.Input((20,)), *layers])
    made.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=compiled.get("jit_compile", False))
    return made
"""
_BATCH = 32
_WEIGHTS = {0: 1.0, 1: 3.0}


class _Case:
    """A way of training: its data function, and what `fit` is given."""

    def __init__(self, function: str, *, watches: bool = False, weighs: bool = False, compiles: bool = False) -> None:
        self.function, self.watches, self.weighs, self.compiles = function, watches, weighs, compiles


_CASES = {
    "arrays": _Case("arrays"),
    "arrays, class weights": _Case("arrays", weighs=True),
    "arrays, a callback that watches batches": _Case("arrays", watches=True),
    "arrays, a step compiled by XLA": _Case("arrays", compiles=True),
    "PyDataset": _Case("generator"),
    "PyDataset, class weights": _Case("generator", weighs=True),
    "tf.data": _Case("dataset"),
}


def main(size: Size) -> None:
    """Measure and print."""
    rows = []
    for name in _CASES:
        note(f"  {name}")
        with empty_folder() as folder:
            (folder / "source.py").write_text(_SOURCE, encoding="utf-8")
            arguments = (name, str(size.of(12, 4)), str(size.of(size.repeats, 1)))
            found = run(PYTHON, "-m", "tests.benchmarks.paths", *arguments, folder=folder).json
        rows.append([name, found["path"], *(seconds(found[who]) for who in ("ours", "keras"))])
        rows[-1].append(ratio(found["keras"], found["ours"]))
    columns = ["2000 rows, batches of 32", "trained by", "an epoch", "Keras's fit", "Keras ÷ ours"]
    table("paths: what an epoch takes", columns, rows, "Medians of the epochs after the first of several trainings.")


def _measure(case: _Case, epochs: int, repeats: int) -> Mapping[str, Any]:
    from search.data.loading import load
    from search.studyfile.load import parse_definition
    from search.studyfile.references import load_object
    from search.training import fit

    file = Path("source.py").absolute()
    make: Callable[..., keras.Model] = load_object(f"{file}:model", file.parent, "model")
    source: Callable[[], dict[str, Any]] = load_object(f"{file}:{case.function}", file.parent, "data.source")
    tables = {
        "name": "paths",
        "metric": "val_loss",
        "direction": "minimize",
        "data": {"source": f"{file}:{case.function}"},
        "model": {"build": f"{file}:build"},
        "fit": {"epochs": epochs, "batch_size": _BATCH},
        "space": {"width": {"type": "int", "low": 1, "high": 2}},
    }
    data = load(parse_definition(tables, file.with_name("study.toml")))
    weights = _WEIGHTS if case.weighs else None
    path: list[str] = []
    taken: dict[str, list[float]] = {"ours": [], "keras": []}

    def ours(model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        settings: dict[str, Any] = {"class_weight": weights, "on_path": path.append}
        fit.fit(model, data, epochs=epochs, batch_size=_BATCH, seed=0, callbacks=callbacks, **settings)

    def keras_fit(model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        parts = source()
        train, validation = parts["train"], parts["validation"]
        settings: dict[str, Any] = {"validation_data": validation, "class_weight": weights, "callbacks": callbacks}
        if isinstance(train, tuple):
            model.fit(*train, epochs=epochs, batch_size=_BATCH, verbose=0, **settings)
        else:
            model.fit(train, epochs=epochs, verbose=0, **settings)

    ways: dict[str, Callable[..., None]] = {"ours": ours, "keras": keras_fit}
    for _ in range(repeats):
        for who, way in ways.items():
            clock = _clock(watches=case.watches)
            way(make(jit_compile=case.compiles), [clock])
            taken[who] += np.diff(clock.times).tolist()
    return {"path": path[0], **{who: median(times) for who, times in taken.items()}}


def _clock(*, watches: bool) -> Any:
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """Notes when each epoch ends."""

        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.times.append(time.perf_counter())

    class Watching(Clock):
        """Watches every batch besides."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.loss = (logs or {}).get("loss")

    return Watching() if watches else Clock()


if __name__ == "__main__":
    import sys

    print(json.dumps(_measure(_CASES[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]))))
