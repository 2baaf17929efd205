"""Imported once by the server that workers are forked from: all that a trial needs, nothing it makes.

TensorFlow's libraries write lines about oneDNN and CUDA to standard error as they are loaded,
whatever their log level; those are kept from the person. An import that fails is tried again by
each worker, which says so.
"""

import gc
import signal
from contextlib import suppress

from search.system import machine

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which ends its workers itself

machine.end_with_parent()  # once it serves, the server ends by itself; importing takes seconds

with machine.quiet(), suppress(Exception):
    import keras  # noqa: F401
    import sklearn.datasets
    import sklearn.model_selection  # noqa: F401
    import tensorflow  # noqa: F401 - Keras's other backends use its pipelines

    import search.workers.worker  # noqa: F401

machine.end_with_parent(0)
gc.freeze()  # what is imported never dies: no worker need look at it again
