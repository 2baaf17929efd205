"""The data of the study `reuters`."""

import contextlib
import sys
from pathlib import Path

import keras
import numpy as np

FIRST_WORD = 3  # in Keras's encoding 0 is padding, 1 begins a story, 2 is any word that is too rare


def stories(words, path=None):
    """Return the parts `train` and `test`: which of the most frequent words each story holds, and its topic.

    Args:
        words: How many of the most frequent words to look for.
        path: An .npz file, relative to this one, with x_train, y_train, x_test and y_test: word
            numbers as Keras encodes them, short stories padded with 0. When left out, Keras
            downloads the Reuters newswires once.
    """
    train, test = _downloaded(words) if path is None else _local(Path(__file__).parent / path)
    parts = {"train": train, "test": test}
    return {name: (_holds(numbers, words), topics) for name, (numbers, topics) in parts.items()}


def _downloaded(words):
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it shows how far it is
            return keras.datasets.reuters.load_data(num_words=words)
    except Exception as error:
        if "URL fetch failure" not in str(error):
            raise
        reason = "the newswires cannot be downloaded; connect to the network, or name a local file in options.path"
        raise ConnectionError(reason) from None


def _local(path):
    with np.load(path) as arrays:
        return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


def _holds(stories_as_numbers, words):
    held = np.zeros((len(stories_as_numbers), words), "float32")
    for story, numbers in zip(held, stories_as_numbers, strict=True):
        known = np.asarray(numbers)
        story[known[(known >= FIRST_WORD) & (known < words)]] = 1
    return held
