"""A table as a stream of dictionaries, one input with its own preprocessing layer a column.

After `examples/structured_data/structured_data_classification_from_scratch.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers


def dataframe_to_dataset(dataframe):
    dataframe = dataframe.copy()
    labels = dataframe.pop("target")
    return tf.data.Dataset.from_tensor_slices((dict(dataframe), labels)).batch(32)


def load():
    generator = np.random.default_rng(0)
    age, thal = generator.integers(30, 80, 200), generator.choice(["fixed", "normal", "reversible"], 200)
    frame = pd.DataFrame({"age": age, "thal": thal, "sex": generator.integers(0, 2, 200)})
    frame["target"] = ((frame.age > 55) | (frame.thal == "fixed")).astype("int64")
    return {"train": dataframe_to_dataset(frame[:160]), "validation": dataframe_to_dataset(frame[160:])}


def encode_numerical_feature(feature, name, dataset):
    normalizer = layers.Normalization()
    normalizer.adapt(dataset.map(lambda x, y: tf.expand_dims(tf.cast(x[name], tf.float32), -1)))
    return normalizer(feature)


def encode_categorical_feature(feature, name, dataset, is_string):
    lookup = (layers.StringLookup if is_string else layers.IntegerLookup)(output_mode="binary")
    lookup.adapt(dataset.map(lambda x, y: tf.expand_dims(x[name], -1)))
    return lookup(feature)


def build(trial, data):
    train_ds = data.train.x
    sex = keras.Input(shape=(1,), name="sex", dtype="int64")
    thal = keras.Input(shape=(1,), name="thal", dtype="string")
    age = keras.Input(shape=(1,), name="age")
    all_features = layers.concatenate(
        [
            encode_categorical_feature(sex, "sex", train_ds, False),
            encode_categorical_feature(thal, "thal", train_ds, True),
            encode_numerical_feature(age, "age", train_ds),
        ]
    )
    x = layers.Dense(trial.params["width"], activation="relu")(all_features)
    x = layers.Dropout(0.5)(x)
    model = keras.Model([sex, thal, age], layers.Dense(1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model
