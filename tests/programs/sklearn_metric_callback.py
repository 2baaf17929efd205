"""A callback that scores with scikit-learn, and is given the validation rows.

After `examples/keras_recipes/sklearn_metric_callbacks.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.metrics import jaccard_score


def load():
    digits = load_digits()
    return digits.images[:400, ..., None].astype("float32") / 16, keras.utils.to_categorical(digits.target[:400], 10)


class JaccardScoreCallback(keras.callbacks.Callback):
    def __init__(self, name, x_test, y_test):
        super().__init__()
        self.keras_metric = keras.metrics.Mean(name)
        self.x_test = x_test
        self.y_test = np.argmax(y_test, axis=-1)

    def on_epoch_end(self, batch, logs=None):
        self.keras_metric.reset_state()
        predictions = np.argmax(self.model.predict(self.x_test, verbose=0), axis=-1)
        self.keras_metric.update_state(jaccard_score(predictions, self.y_test, average=None, zero_division=0))
        logs["jaccard"] = self.keras_metric.result().numpy().item()


def callbacks(trial, data):
    return [JaccardScoreCallback("jaccard", data.validation.x, data.validation.y)]


def build(trial, data):
    model = keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(trial.params["width"], kernel_size=(3, 3), activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model
