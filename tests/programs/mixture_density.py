"""A loss of the program's own on the parameters of a mixture, x and y of shape (n, 1), no Input layer.

After `examples/keras_recipes/approximating_non_function_mappings.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers, ops

K = 4


def load():
    g = np.random.default_rng(0)
    y = g.uniform(-15, 15, (400, 1))
    x = 7 * np.sin(0.75 * y) + 0.5 * y + g.normal(size=y.shape)
    return x, y


def split(params):
    return params[..., :K], params[..., K : 2 * K], params[..., 2 * K :]


def mdn_loss(y_true, y_pred):
    mu, sigma, pi = split(y_pred)
    logits = ops.log_softmax(pi, axis=-1)
    logp = -0.5 * ops.square((y_true - mu) / sigma) - ops.log(sigma)
    return -ops.logsumexp(logits + logp, axis=-1)


@keras.saving.register_keras_serializable("programs")
def elu_plus_one_plus_epsilon(x):
    return keras.activations.elu(x) + 1 + keras.backend.epsilon()


@keras.saving.register_keras_serializable("programs")
class MDN(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mus, self.sigmas, self.pi = (
            layers.Dense(K),
            layers.Dense(K, activation=elu_plus_one_plus_epsilon),
            layers.Dense(K),
        )

    def build(self, input_shape):
        for each in (self.mus, self.sigmas, self.pi):
            each.build(input_shape)
        super().build(input_shape)

    def call(self, x):
        return layers.concatenate([self.mus(x), self.sigmas(x), self.pi(x)])


def build(trial, data):
    m = keras.Sequential(
        [layers.Dense(trial.params["width"], activation="relu"), layers.Dense(16, activation="relu"), MDN()]
    )
    m.compile(loss=mdn_loss, optimizer=keras.optimizers.Adam(trial.params["learning_rate"]))
    return m
