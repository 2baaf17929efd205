"""The time series and the model of the study `demand`."""

import keras
import numpy as np

VALIDATION_DAYS = TEST_DAYS = 120


def series(days, seed):
    """Return a made-up rental for each day, in hundreds: a year's wave, weekends, and what nobody can know."""
    draw = np.random.default_rng(seed)
    day = np.arange(days)
    season = 2 + np.sin(2 * np.pi * day / 365)
    weekend = np.where(day % 7 >= 5, -0.8, 0.0)
    return (season + weekend + draw.normal(0, 0.15, days)).astype("float32")


def windows(trial, days, seed):
    """Return the days before each day, of shape (rows, window, 1), and the day itself, in parts by time.

    The validation and test part are the same days in every trial, however long the window is.

    Args:
        trial: Its parameter `window` says how many days to look back.
        days: The length of the series.
        seed: Decides it.
    """
    values, window = series(days, seed), trial.params["window"]
    ends = {"train": days - VALIDATION_DAYS - TEST_DAYS, "validation": days - TEST_DAYS, "test": days}
    parts, first = {}, window
    for name, last in ends.items():
        before = np.stack([values[day - window : day] for day in range(first, last)])
        parts[name] = (before[..., None], values[first:last])
        first = last
    return parts


def build(trial, data):
    """Read the window with a recurrent layer."""
    days = keras.Input(data.input_shape)
    tomorrow = keras.layers.Dense(1)(keras.layers.GRU(trial.params["units"])(days))
    model = keras.Model(days, tomorrow)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mean_squared_error", metrics=["mae"])
    return model
