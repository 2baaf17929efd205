"""Metric learning: batches of triplets for a training step of its own, the embedding registered.

After `examples/vision/siamese_network.py` of keras-team/keras-io, made small.
"""

import keras
import tensorflow as tf
from keras import layers, metrics, ops
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    anchor, positive = digits.images[digits.target == 3], digits.images[digits.target == 3][::-1]
    negative = digits.images[digits.target == 4][: len(anchor)]
    count = min(len(anchor), len(negative))
    triplets = tuple(each[:count, ..., None].astype("float32") / 16 for each in (anchor, positive, negative))
    dataset = tf.data.Dataset.from_tensor_slices(triplets)
    return {"train": dataset.take(120).batch(32), "validation": dataset.skip(120).batch(32)}


@keras.saving.register_keras_serializable("programs")
class DistanceLayer(layers.Layer):
    def call(self, anchor, positive, negative):
        ap_distance = ops.sum(ops.square(anchor - positive), -1)
        an_distance = ops.sum(ops.square(anchor - negative), -1)
        return (ap_distance, an_distance)


class SiameseModel(keras.Model):
    def __init__(self, siamese_network, margin=0.5):
        super().__init__()
        self.siamese_network = siamese_network
        self.margin = margin
        self.loss_tracker = metrics.Mean(name="loss")

    def call(self, inputs):
        return self.siamese_network(inputs)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self._compute_loss(data)
        gradients = tape.gradient(loss, self.siamese_network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.siamese_network.trainable_weights, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        self.loss_tracker.update_state(self._compute_loss(data))
        return {"loss": self.loss_tracker.result()}

    def _compute_loss(self, data):
        ap_distance, an_distance = self.siamese_network(data)
        return ops.maximum(ap_distance - an_distance + self.margin, 0.0)

    @property
    def metrics(self):
        return [self.loss_tracker]


def build(trial, data):
    embedding = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(trial.params["width"], activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(4),
        ],
        name="embedding",
    )
    inputs = [keras.Input((8, 8, 1), name=name) for name in ("anchor", "positive", "negative")]
    distances = DistanceLayer()(*(embedding(each) for each in inputs))
    model = SiameseModel(keras.Model(inputs=inputs, outputs=distances))
    model.compile(optimizer=keras.optimizers.Adam(0.001))
    return model


def inference(model, data):
    return model.siamese_network.get_layer("embedding")
