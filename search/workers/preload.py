"""Imported once by the server that workers are forked from: all that a trial needs, nothing it makes.

TensorFlow's libraries write lines about oneDNN and CUDA to standard error as they are loaded,
whatever their log level; those are kept from the person. An import that fails still says so.
"""

import gc
import os
import signal
from contextlib import contextmanager


@contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="ascii") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which ends its workers itself

with _quiet():
    import keras  # noqa: F401
    import sklearn.datasets
    import sklearn.model_selection  # noqa: F401
    import tensorflow  # noqa: F401 - Keras's other backends use its pipelines
    import typer  # noqa: F401 - a worker imports the command again as its main module

    import search.workers.worker  # noqa: F401

gc.freeze()  # what is imported never dies: no worker need look at it again
