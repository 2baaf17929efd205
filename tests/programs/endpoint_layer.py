"""The loss is a layer's, which takes the targets as an input; a model without them is exported.

After `examples/keras_recipes/endpoint_layer_pattern.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers


@keras.saving.register_keras_serializable("programs")
class LogisticEndpoint(layers.Layer):
    def __init__(self, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)
        self.accuracy_metric = keras.metrics.BinaryAccuracy(name="accuracy")

    def call(self, logits, targets=None, sample_weight=None):
        if targets is not None:
            self.add_loss(self.loss_fn(targets, logits, sample_weight))
            self.accuracy_metric.update_state(targets, logits, sample_weight)
        return keras.ops.softmax(logits)


def load():
    g = np.random.default_rng(0)
    return {"inputs": g.random((200, 3)), "targets": g.integers(0, 2, (200, 1)).astype("float32")}


def build(trial, data):
    inputs = keras.Input((3,), name="inputs")
    targets = keras.Input((1,), name="targets")
    logits = layers.Dense(1)(layers.Dense(trial.params["width"], activation="relu")(inputs))
    preds = LogisticEndpoint(name="predictions")(logits, targets)
    m = keras.Model([inputs, targets], preds)
    m.compile(keras.optimizers.Adam(1e-3))
    return m


def inference(model, data):
    hidden = model.get_layer("predictions")
    inputs = model.input[0]
    logits = [each for each in model.layers if isinstance(each, layers.Dense)][1].output
    return keras.Model(inputs, hidden(logits))
