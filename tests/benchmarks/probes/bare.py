"""Trains a study's enqueued configurations with bare Keras in several processes; prints when, as JSON.

    python bare.py STUDY_FILE PROCESSES fit|feed

`fit` is Keras's own on NumPy arrays; `feed` is `search.feed`, which feeds Keras as a search does.
Nothing is sampled, tracked or saved. Processes take the next configuration when they are free, and
share the cores as workers of a search do.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any


def work(study_file: str, how: str, threads: int, ready: Any, start: Any, index: Any, spans: Any) -> None:
    """Import and load, wait for the others, then train until nothing is left."""
    import keras
    import tensorflow as tf

    from search.data.loading import load
    from search.studyfile.load import load_definition
    from search.training import fit as feed

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    definition = load_definition(Path(study_file))
    data = load(definition)
    train, validation, test = data.train, data.validation, data.test
    assert validation is not None
    assert test is not None
    (x, y), (x_val, y_val), (x_test, y_test) = (
        (part.x.astype("float32"), part.y) for part in (train, validation, test)
    )
    ready.release()
    start.wait()
    while True:
        with index.get_lock():
            number = index.value
            index.value += 1
        if number >= len(definition.enqueue):
            return
        began = time.time()
        params: dict[str, Any] = dict(definition.enqueue[number])
        keras.utils.set_random_seed(number)
        hidden = [keras.layers.Dense(params["width"], activation="relu") for _ in range(params.get("depth", 1))]
        inputs = keras.Input((x.shape[1],))
        model = keras.Sequential([inputs, *hidden, keras.layers.Dense(1, activation="sigmoid")])
        model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["binary_accuracy"])
        epochs, batch_size = params["epochs"], params["batch_size"]
        if how == "fit":
            model.fit(x, y, validation_data=(x_val, y_val), epochs=epochs, batch_size=batch_size, verbose=0)
            model.evaluate(x_test, y_test, verbose=0)
        else:
            feed.fit(model, data, epochs=epochs, batch_size=batch_size, seed=number, callbacks=[])
            feed.evaluate(model, test)
        keras.backend.clear_session()
        spans.put((number, began, time.time()))


def main() -> None:
    """Start the processes together, and print the moments (seconds since 1970) by configuration."""
    study_file, processes, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    context = multiprocessing.get_context("spawn")
    ready, start, index, spans = context.Semaphore(0), context.Event(), context.Value("i", 0), context.SimpleQueue()
    workers = [
        context.Process(target=work, args=(study_file, how, threads, ready, start, index, spans))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    start.set()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            sys.exit(worker.exitcode)
    began, ended = [], []
    while not spans.empty():
        number, first, last = spans.get()
        began.append((number, first))
        ended.append((number, last))
    print(json.dumps({"began": began, "ended": ended}))


if __name__ == "__main__":
    main()
