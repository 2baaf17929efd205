"""The network of the benchmark of quality, as a person would write it for a script of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

HEADS = {
    "binary": ("sigmoid", "binary_crossentropy"),
    "multiclass": ("softmax", "sparse_categorical_crossentropy"),
    "regression": (None, "mean_squared_error"),
}


def network(params: Mapping[str, Any], columns: int, outputs: int, kind: str) -> keras.Model:
    """Return the compiled network of a configuration."""
    activation, loss = HEADS[kind]
    model = keras.Sequential([keras.layers.Input((columns,))])
    for _ in range(params["depth"]):
        model.add(keras.layers.Dense(params["width"], activation=params["activation"]))
        model.add(keras.layers.Dropout(params["dropout"]))
    model.add(keras.layers.Dense(outputs, activation=activation))
    optimizer = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD}
    model.compile(
        optimizer[params["optimizer"]](params["learning_rate"], weight_decay=params["weight_decay"]), loss=loss
    )
    return model
