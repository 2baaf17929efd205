"""Transfer learning: a frozen base, then all of it at a lower rate.

After `guides/transfer_learning.py` of keras-team/keras-io, made small.
"""

import keras
from keras import layers
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    return (16 * digits.images[:400, ..., None]).astype("uint8"), digits.target[:400] % 2


def base():
    """What would come with weights from ImageNet."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ],
        name="base",
    )


def build(trial, data):
    base_model = base()
    base_model.trainable = False
    inputs = keras.Input(shape=(8, 8, 1))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.Rescaling(scale=1 / 127.5, offset=-1)(x)
    x = base_model(x, training=False)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy()],
    )
    return model


def fit(trial, model, data, epochs, batch_size, callbacks):
    train, validation = data.train, data.validation
    settings = {"batch_size": batch_size, "validation_data": (validation.x, validation.y), "callbacks": callbacks}
    model.fit(train.x, train.y, epochs=epochs, verbose=0, **settings)
    model.get_layer("base").trainable = True
    model.compile(
        optimizer=keras.optimizers.Adam(trial.params["rate"]),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy()],
    )
    model.fit(train.x, train.y, initial_epoch=epochs, epochs=2 * epochs, verbose=0, **settings)
