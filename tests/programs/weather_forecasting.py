"""A time series in windows whose length is searched, with early stopping and a checkpoint.

After `examples/timeseries/timeseries_weather_forecasting.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np


def load(past, batch_size):
    time = np.arange(400)
    features = np.stack([np.sin(time / 9), np.cos(time / 5)], axis=1).astype("float32")

    def windows(first, last):
        return keras.utils.timeseries_dataset_from_array(
            features[first : last - past], features[first + past : last, 0], sequence_length=past, batch_size=batch_size
        )

    return {"train": windows(0, 300), "validation": windows(300, 400)}


def build(trial, data):
    inputs = keras.layers.Input(shape=data.input_shape)
    lstm_out = keras.layers.LSTM(trial.params["width"])(inputs)
    outputs = keras.layers.Dense(1)(lstm_out)
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.001), loss="mse")
    return model
