"""Pictures as targets.

After `examples/vision/autoencoder.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def load():
    clean = load_digits().images[:300, ..., None].astype("float32") / 16
    noisy = np.clip(clean + 0.4 * np.random.default_rng(0).normal(size=clean.shape), 0.0, 1.0)
    return (noisy[:240], clean[:240]), (noisy[240:], clean[240:])


def build(trial, data):
    inputs = layers.Input(shape=(8, 8, 1))
    x = layers.Conv2D(trial.params["width"], (3, 3), activation="relu", padding="same")(inputs)
    x = layers.MaxPooling2D((2, 2), padding="same")(x)
    x = layers.Conv2DTranspose(trial.params["width"], (3, 3), strides=2, activation="relu", padding="same")(x)
    x = layers.Conv2D(1, (3, 3), activation="sigmoid", padding="same")(x)
    autoencoder = keras.Model(inputs, x)
    autoencoder.compile(optimizer="adam", loss="binary_crossentropy")
    return autoencoder
