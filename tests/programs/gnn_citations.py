"""A graph: the model holds it and takes the numbers of nodes.

After `examples/graph/gnn_citations.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

NODES, TERMS = 80, 6


def graph():
    generator = np.random.default_rng(0)
    subject = np.arange(NODES) % 3
    features = generator.random((NODES, TERMS)) + np.eye(3, TERMS)[subject]
    edges = generator.integers(0, NODES, size=(2, 400))
    edges = edges[:, subject[edges[0]] == subject[edges[1]]]
    return features.astype("float32"), edges, subject


def load():
    return np.arange(NODES), graph()[2]


@keras.saving.register_keras_serializable("programs")
class GraphConvLayer(layers.Layer):
    def __init__(self, hidden_units, **kwargs):
        super().__init__(**kwargs)
        self.hidden_units = hidden_units
        self.ffn_prepare = layers.Dense(hidden_units, activation="gelu")
        self.update_fn = layers.Dense(hidden_units, activation="gelu")

    def call(self, inputs):
        node_representations, edges = inputs
        messages = self.ffn_prepare(tf.gather(node_representations, edges[1]))
        aggregated = tf.math.unsorted_segment_mean(messages, edges[0], num_segments=NODES)
        return tf.nn.l2_normalize(self.update_fn(tf.concat([node_representations, aggregated], axis=1)), axis=-1)

    def get_config(self):
        return {**super().get_config(), "hidden_units": self.hidden_units}


@keras.saving.register_keras_serializable("programs")
class GNNNodeClassifier(keras.Model):
    def __init__(self, num_classes, hidden_units, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.hidden_units = num_classes, hidden_units
        node_features, edges, _ = graph()
        self.node_features, self.edges = tf.constant(node_features), tf.constant(edges)
        self.preprocess = layers.Dense(hidden_units, activation="gelu")
        self.conv1 = GraphConvLayer(hidden_units, name="graph_conv1")
        self.compute_logits = layers.Dense(units=num_classes, name="logits")

    def call(self, input_node_indices):
        x = self.preprocess(self.node_features)
        x = self.conv1((x, self.edges)) + x
        return self.compute_logits(tf.gather(x, tf.cast(input_node_indices, "int32")))  # Keras builds it with floats

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "hidden_units": self.hidden_units}


def build(trial, data):
    model = GNNNodeClassifier(3, trial.params["width"])
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    return model
