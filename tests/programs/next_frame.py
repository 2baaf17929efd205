"""Movies as arrays of five axes, any number of frames.

After `examples/vision/conv_lstm.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers


def load():
    g = np.random.default_rng(0)
    movies = (g.random((40, 6, 8, 8, 1)) > 0.8).astype("float32")
    x, y = movies[:, :-1], movies[:, 1:]
    return (x[:36], y[:36]), (x[36:], y[36:])


def build(trial, data):
    inp = layers.Input(shape=(None, *data.train.x.shape[2:]))
    x = layers.ConvLSTM2D(trial.params["filters"], 3, padding="same", return_sequences=True, activation="relu")(inp)
    x = layers.BatchNormalization()(x)
    x = layers.Conv3D(1, 3, activation="sigmoid", padding="same")(x)
    m = keras.Model(inp, x)
    m.compile(loss=keras.losses.binary_crossentropy, optimizer=keras.optimizers.Adam())
    return m
