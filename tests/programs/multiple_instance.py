"""A bag is a list of inputs; class weights, a layer of several inputs and outputs.

After `examples/vision/attention_mil_classification.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

BAG = 3


def create_bags(x, y, count, seed):
    g = np.random.default_rng(seed)
    bags, labels = [], []
    for _ in range(count):
        index = g.choice(len(x), BAG, replace=False)
        bags.append(x[index])
        labels.append(int(8 in y[index]))
    return list(np.swapaxes(bags, 0, 1)), np.array(labels)


def load():
    d = load_digits()
    x = d.images / 16.0
    return {"train": create_bags(x, d.target, 300, 0), "validation": create_bags(x, d.target, 100, 1)}


@keras.saving.register_keras_serializable("programs")
class MILAttentionLayer(layers.Layer):
    def __init__(self, weight_params_dim, kernel_initializer="glorot_uniform", use_gated=False, **kwargs):
        super().__init__(**kwargs)
        self.weight_params_dim, self.use_gated = weight_params_dim, use_gated
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        d = input_shape[0][1]
        self.v = self.add_weight(shape=(d, self.weight_params_dim), initializer=self.kernel_initializer, name="v")
        self.w = self.add_weight(shape=(self.weight_params_dim, 1), initializer=self.kernel_initializer, name="w")
        self.u = (
            self.add_weight(shape=(d, self.weight_params_dim), initializer=self.kernel_initializer, name="u")
            if self.use_gated
            else None
        )

    def call(self, inputs):
        instances = [self.score(i) for i in inputs]
        alpha = ops.softmax(ops.stack(instances), axis=0)
        return [alpha[i] for i in range(alpha.shape[0])]

    def score(self, instance):
        original = instance
        instance = ops.tanh(ops.tensordot(instance, self.v, axes=1))
        if self.use_gated:
            instance = instance * ops.sigmoid(ops.tensordot(original, self.u, axes=1))
        return ops.tensordot(instance, self.w, axes=1)

    def get_config(self):
        return {**super().get_config(), "weight_params_dim": self.weight_params_dim, "use_gated": self.use_gated}


def build(trial, data):
    inputs, embeddings = [], []
    d1, d2 = layers.Dense(trial.params["width"], activation="relu"), layers.Dense(16, activation="relu")
    for _ in range(BAG):
        inp = layers.Input((8, 8))
        inputs.append(inp)
        embeddings.append(d2(d1(layers.Flatten()(inp))))
    alpha = MILAttentionLayer(16, use_gated=trial.suggest_categorical("gated", [True, False]), name="alpha")(embeddings)
    mul = [layers.multiply([alpha[i], embeddings[i]]) for i in range(BAG)]
    out = layers.Dense(2, activation="softmax")(layers.concatenate(mul, axis=1))
    m = keras.Model(inputs, out)
    m.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return m
