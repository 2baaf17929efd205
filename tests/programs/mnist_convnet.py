"""Pictures, one-hot targets, dropout.

After `examples/vision/mnist_convnet.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    x = np.expand_dims(digits.images[:600].astype("float32") / 16, -1)
    y = keras.utils.to_categorical(digits.target[:600], 10)
    return (x[:500], y[:500]), (x[500:], y[500:])


def build(trial, data):
    model = keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(trial.params["width"], kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model
