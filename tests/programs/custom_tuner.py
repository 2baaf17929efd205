"""A training loop of its own that reports each epoch.

After `guides/keras_tuner/custom_tuner.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    return digits.images[:300, ..., None], digits.target[:300].astype(np.int64)


def build(trial, data):
    inputs = keras.Input(shape=(8, 8, 1))
    x = inputs
    for i in range(trial.suggest_int("conv_layers", 1, 2)):
        x = keras.layers.Conv2D(trial.suggest_int(f"filters_{i}", 4, 8, step=4), 3, padding="same", activation="relu")(
            x
        )
    pooling = trial.suggest_categorical("global_pooling", ["max", "avg"])
    x = keras.layers.GlobalMaxPooling2D()(x) if pooling == "max" else keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def fit(trial, model, data, epochs, batch_size, callbacks):
    train_ds = tf.data.Dataset.from_tensor_slices((data.train.x, data.train.y)).batch(batch_size)
    optimizer = keras.optimizers.Adam(trial.params["learning_rate"])
    epoch_loss_metric = keras.metrics.Mean()
    loss_fn = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def run_train_step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_fn(labels, model(tf.cast(images, tf.float32) / 16.0))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        epoch_loss_metric.update_state(loss)

    for epoch in range(epochs):
        for images, labels in train_ds:
            run_train_step(images, labels)
        predicted = model(tf.cast(data.validation.x, tf.float32) / 16.0)
        logs = {"loss": float(epoch_loss_metric.result()), "val_loss": float(loss_fn(data.validation.y, predicted))}
        for callback in callbacks:
            callback.on_epoch_end(epoch, logs)
        epoch_loss_metric.reset_state()
