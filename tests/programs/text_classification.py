"""Raw strings: vectorized before training, the end-to-end model of strings registered.

After `examples/nlp/text_classification_from_scratch.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

vectorize_layer = layers.TextVectorization(max_tokens=50, output_mode="int", output_sequence_length=8)


def raw():
    generator = np.random.default_rng(0)
    words = np.array(["awful", "fine", "film", "the", "was", "plot"])
    label = generator.integers(0, 2, 160)
    rest = generator.choice(words[2:], size=(160, 5))
    return [" ".join([words[each], *some]) for each, some in zip(label, rest, strict=True)], label


def load():
    texts, labels = raw()
    vectorize_layer.adapt(tf.data.Dataset.from_tensor_slices(texts[:120]).batch(32))

    def dataset(rows):
        raw_ds = tf.data.Dataset.from_tensor_slices((texts[rows], labels[rows])).batch(32)
        return raw_ds.map(lambda text, label: (vectorize_layer(text), label)).cache().prefetch(2)

    return {"train": dataset(slice(0, 120)), "validation": dataset(slice(120, 140)), "test": dataset(slice(140, 160))}


def build(trial, data):
    inputs = keras.Input(shape=(None,), dtype="int64")
    x = layers.Embedding(50, trial.params["width"])(inputs)
    x = layers.Dropout(0.5)(x)
    x = layers.Conv1D(8, 3, padding="valid", activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    predictions = layers.Dense(1, activation="sigmoid", name="predictions")(x)
    model = keras.Model(inputs, predictions)
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def inference(model, data):
    inputs = keras.Input(shape=(), dtype="string")
    end_to_end_model = keras.Model(inputs, model(vectorize_layer(inputs)))
    end_to_end_model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return end_to_end_model
