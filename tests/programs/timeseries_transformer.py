"""A transformer that classifies time series.

After `examples/timeseries/timeseries_classification_transformer.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers


def load():
    generator = np.random.default_rng(0)
    y_train = generator.choice([-1, 1], 160)
    x_train = generator.normal(size=(160, 16, 1)) + 0.5 * y_train[:, None, None]
    y_train[y_train == -1] = 0
    return x_train, y_train


def transformer_encoder(inputs, head_size, num_heads, ff_dim, dropout=0.0):
    x = layers.MultiHeadAttention(key_dim=head_size, num_heads=num_heads, dropout=dropout)(inputs, inputs)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(dropout)(x))
    res = x + inputs
    x = layers.Conv1D(filters=ff_dim, kernel_size=1, activation="relu")(res)
    x = layers.Conv1D(filters=inputs.shape[-1], kernel_size=1)(layers.Dropout(dropout)(x))
    return layers.LayerNormalization(epsilon=1e-6)(x) + res


def build(trial, data):
    inputs = keras.Input(shape=data.input_shape)
    x = transformer_encoder(inputs, 8, trial.params["num_heads"], 4, dropout=0.25)
    x = layers.GlobalAveragePooling1D(data_format="channels_last")(x)
    x = layers.Dropout(0.4)(layers.Dense(8, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=keras.optimizers.Adam(learning_rate=1e-4),
        metrics=["sparse_categorical_accuracy"],
    )
    return model
