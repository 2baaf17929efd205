"""Reinforcement learning: the fit function plays, reports each episode and returns the reward.

After `examples/rl/actor_critic_cartpole.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def load():
    return np.zeros((10, 2), "float32")


def build(trial, data):
    i = layers.Input((2,))
    c = layers.Dense(trial.params["width"], activation="relu")(i)
    return keras.Model(i, [layers.Dense(2, activation="softmax", name="action")(c), layers.Dense(1, name="critic")(c)])


def fit(trial, model, data, epochs, callbacks):
    opt = keras.optimizers.Adam(0.01)
    g = np.random.default_rng(0)
    running = 0.0
    for episode in range(epochs):
        state = g.normal(size=(1, 2)).astype("float32")
        with tf.GradientTape() as tape:
            p, v = model(state)
            a = int(g.integers(0, 2))
            r = float((state[0, 0] > 0) == a)
            loss = -tf.math.log(p[0, a]) * (r - v[0, 0]) + tf.square(r - v[0, 0])
        opt.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=False)
        )
        running = 0.05 * r + 0.95 * running
        for c in callbacks:
            c.on_epoch_end(episode, {"running_reward": running})
    return {"running_reward": running}
