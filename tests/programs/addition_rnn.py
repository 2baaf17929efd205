"""Sequence to sequence: one-hot letters in, one-hot letters out.

After `examples/nlp/addition_rnn.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers


def load():
    generator = np.random.default_rng(0)
    chars = "0123456789+ "
    pairs = generator.integers(0, 50, size=(200, 2))
    questions = [f"{a}+{b}".ljust(5)[::-1] for a, b in pairs]
    answers = [str(a + b).ljust(3) for a, b in pairs]
    one_hot = np.eye(len(chars), dtype=bool)
    x = np.stack([one_hot[[chars.index(each) for each in text]] for text in questions])
    y = np.stack([one_hot[[chars.index(each) for each in text]] for text in answers])
    return {"train": (x[:180], y[:180]), "validation": (x[180:], y[180:])}


def build(trial, data):
    model = keras.Sequential()
    model.add(layers.Input((5, 12)))
    model.add(layers.LSTM(trial.params["width"]))
    model.add(layers.RepeatVector(3))
    for _ in range(trial.params["num_layers"]):
        model.add(layers.LSTM(trial.params["width"], return_sequences=True))
    model.add(layers.Dense(12, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model
