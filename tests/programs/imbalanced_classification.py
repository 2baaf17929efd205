"""Few positive rows: weights of the classes, counts of errors as metrics.

After `examples/structured_data/imbalanced_classification.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np


def load():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, 5))
    targets = (features[:, 0] > 1.6).astype("uint8")[:, None]
    return features, targets


def build(trial, data):
    model = keras.Sequential(
        [
            keras.Input(shape=data.input_shape),
            keras.layers.Dense(trial.params["width"], activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    metrics = [
        keras.metrics.FalseNegatives(name="fn"),
        keras.metrics.FalsePositives(name="fp"),
        keras.metrics.Precision(name="precision"),
        keras.metrics.Recall(name="recall"),
    ]
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy", metrics=metrics)
    return model
