"""The data and the model of the study `digits`."""

import keras
from sklearn.datasets import load_digits


def images():
    """Return grey images of shape (1797, 8, 8, 1) with values in [0, 1], and the digits on them."""
    pixels, digits = load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8, 1).astype("float32") / 16, digits


def build(trial, data):
    """Stack one to three convolutions; each has a number of filters of its own."""
    inputs, x = data.inputs()
    for layer in range(trial.suggest_int("depth", 1, 3)):
        filters = trial.suggest_int(f"filters_{layer}", 8, 32, log=True)
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        if layer == 0:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(trial.params["dropout"])(x)
    outputs = keras.layers.Dense(len(data.classes), activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.Adam(trial.params["learning_rate"])
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
