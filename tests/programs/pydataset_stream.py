"""Batches of a `keras.utils.PyDataset`, with weights of rows and several inputs.

After the example of `PyDataset` in keras-team/keras (`py_dataset_adapter.py`), made small.
"""

import math

import keras
import numpy as np


class Rows(keras.utils.PyDataset):
    def __init__(self, first, last, batch_size, **kwargs):
        super().__init__(**kwargs)
        x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
        self.x, self.y = x[first:last], (x[first:last].sum(axis=1) > 0).astype("float32")
        self.batch_size = batch_size

    def __len__(self):
        return math.ceil(len(self.x) / self.batch_size)

    def __getitem__(self, idx):
        rows = slice(idx * self.batch_size, (idx + 1) * self.batch_size)
        x = {"left": self.x[rows, :2], "right": self.x[rows, 2:]}
        return x, self.y[rows], np.where(self.y[rows] > 0, 2.0, 1.0)


def load(batch_size):
    return {"train": Rows(0, 160, batch_size), "validation": Rows(160, 200, batch_size)}


def build(trial, data):
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    x = keras.layers.Dense(trial.params["width"], activation="relu")(keras.layers.Concatenate()([left, right]))
    model = keras.Model({"left": left, "right": right}, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(optimizer="adam", loss="binary_crossentropy", weighted_metrics=["accuracy"])
    return model
