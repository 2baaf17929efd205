"""Trains tiny models in one process with plain Keras, and prints its resident size after each as JSON.

python loop.py N_TRIALS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import keras
from sklearn.datasets import make_blobs

x, y = make_blobs(n_samples=100, n_features=2, centers=2, random_state=42)
sizes, seconds = [], []
for number in range(int(sys.argv[1])):
    started = time.perf_counter()
    keras.utils.set_random_seed(number)
    model = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(
        optimizer=keras.optimizers.Adam(10 ** -(1 + number % 3)),
        loss="binary_crossentropy",
        metrics=["binary_accuracy"],
    )
    model.fit(x, y, epochs=1, batch_size=32, validation_split=0.1, verbose=0)
    model.evaluate(x, y, verbose=0)
    keras.backend.clear_session()
    seconds.append(time.perf_counter() - started)
    sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
print(json.dumps({"sizes": sizes, "seconds": seconds}))
