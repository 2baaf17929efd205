"""Optuna's own objective: define-by-run layers and its pruning callback.

After `keras/keras_integration.py` of optuna/optuna-examples, made small.
"""

import keras
from keras.layers import Dense, Dropout
from optuna_integration import KerasPruningCallback
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    x, y = digits.data[:500].astype("float32") / 16, keras.utils.to_categorical(digits.target[:500], 10)
    return {"train": (x[:400], y[:400]), "validation": (x[400:], y[400:])}


def build(trial, data):
    model = keras.Sequential()
    for i in range(trial.suggest_int("n_layers", 1, 3)):
        model.add(Dense(trial.suggest_int(f"n_units_l{i}", 4, 16, log=True), activation="relu"))
        model.add(Dropout(rate=trial.suggest_float(f"dropout_l{i}", 0.2, 0.5)))
    model.add(Dense(10, activation="softmax"))
    learning_rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    model.compile(
        loss="categorical_crossentropy",
        optimizer=keras.optimizers.RMSprop(learning_rate=learning_rate),
        metrics=["accuracy"],
    )
    return model


def callbacks(trial, data):
    return [KerasPruningCallback(trial, "val_accuracy")]
