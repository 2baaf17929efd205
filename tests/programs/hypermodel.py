"""KerasTuner's HyperModel: parameters of the data and of `fit`, conditional layers.

After `guides/keras_tuner/getting_started.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    x = np.expand_dims(digits.images[:400].astype("float32") / 16, -1)
    return {
        "train": (x[:300], np.eye(10)[digits.target[:300]]),
        "validation": (x[300:], np.eye(10)[digits.target[300:400]]),
    }


class HyperModel:
    def build(self, hp):
        image_size = hp.suggest_int("image_size", 6, 8)
        inputs = keras.Input(shape=(image_size, image_size, 1))
        outputs = layers.Flatten()(inputs)
        for i in range(hp.suggest_int("num_layers", 1, 2)):
            outputs = layers.Dense(hp.suggest_int(f"units_{i}", 4, 8, step=4), activation="relu")(outputs)
        model = keras.Model(inputs, layers.Dense(10, activation="softmax")(outputs))
        model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(self, hp, model, x, y, validation_data=None, **kwargs):
        if hp.suggest_categorical("normalize", [True, False]):
            x = np.array(layers.Normalization(axis=None, mean=0.3, variance=0.1)(x))
        image_size = hp.params["image_size"]
        x_val, y_val = validation_data
        return model.fit(
            x[:, :image_size, :image_size, :],
            y,
            shuffle=hp.suggest_categorical("shuffle", [True, False]),
            validation_data=(x_val[:, :image_size, :image_size, :], y_val),
            **kwargs,
        )


def build(trial, data):
    return HyperModel().build(trial)


def fit(trial, model, data, **kwargs):
    validation = (data.validation.x, data.validation.y)
    return HyperModel().fit(trial, model, data.train.x, data.train.y, validation_data=validation, verbose=0, **kwargs)
