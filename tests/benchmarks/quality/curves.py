"""Trains configurations of one task, and writes their losses on the validation and the test part after each epoch.

    python -m tests.benchmarks.quality.curves TASK.npz [OUTPUTS.npy] < CONFIGURATIONS > CURVES

Lines of JSON: `{"params": …, "seed": …}` in, the same with `validation` and `test` out; what the last model
gives for the test rows goes to OUTPUTS.npy. This is the common judge:
whatever found a configuration, it is trained here again, under seeds that no search has used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from search.data.dataset import Data
from search.data.loading import load
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.training.training import Training
from search.training.trial import RetrainedTrial
from tests.benchmarks.quality.study import content

_FLOOR = 1e3  # what a loss that is not a number counts as


def curves(
    definition: Definition, data: Data, params: dict[str, Any], seed: int, outputs: Path | None = None
) -> dict[str, list[float]]:
    """Return the two losses after each epoch."""
    import keras

    training = Training(definition, data, RetrainedTrial(params, 0), seed, definition.folder)
    model = training.model
    assert data.test is not None
    x, y, loss = np.asarray(data.test.x), np.asarray(data.test.y), keras.losses.get(model.loss)
    found: dict[str, list[float]] = {"validation": [], "test": []}

    def on_epoch(_: int, __: float, logs: dict[str, float], ___: bool) -> None:
        predicted = np.asarray(model(x, training=False))
        true = y.reshape(predicted.shape) if predicted.shape[1] == 1 else y
        found["validation"].append(_number(logs["val_loss"]))
        found["test"].append(_number(np.mean(loss(true, predicted))))

    training.fit(on_epoch)
    if outputs is not None:
        np.save(outputs, np.asarray(model(x, training=False)))
    return found


def _number(value: Any) -> float:
    return float(value) if np.isfinite(value) else _FLOOR


def main() -> None:
    """Answer each line."""
    file = Path(sys.argv[1])
    definition = parse_definition(content(file, fit={"keep_epoch": "last"}), file)
    data = load(definition)
    seen: dict[tuple[int, str], dict[str, Any]] = {}
    for line in sys.stdin:
        wanted = json.loads(line)
        found = curves(definition, data, wanted["params"], wanted["seed"], *map(Path, sys.argv[2:]))
        other = seen.setdefault((wanted["seed"], json.dumps(found)), wanted["params"])
        if other != wanted["params"]:
            raise ValueError(f"{other} and {wanted['params']} train alike: the configuration is not used")
        print(json.dumps({**wanted, **found}), flush=True)


if __name__ == "__main__":
    main()
