"""Recommendation: embeddings in a subclassed model.

After `examples/structured_data/collaborative_filtering_movielens.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
from keras import layers, ops


def load():
    generator = np.random.default_rng(0)
    x = generator.integers(0, (30, 20), size=(300, 2))
    y = (x.sum(axis=1) % 5) / 4
    return (x[:270], y[:270]), (x[270:], y[270:])


@keras.saving.register_keras_serializable("programs")
class RecommenderNet(keras.Model):
    def __init__(self, num_users, num_movies, embedding_size, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"num_users": num_users, "num_movies": num_movies, "embedding_size": embedding_size}
        options = {"embeddings_initializer": "he_normal", "embeddings_regularizer": keras.regularizers.l2(1e-6)}
        self.user_embedding = layers.Embedding(num_users, embedding_size, **options)
        self.user_bias = layers.Embedding(num_users, 1)
        self.movie_embedding = layers.Embedding(num_movies, embedding_size, **options)
        self.movie_bias = layers.Embedding(num_movies, 1)

    def call(self, inputs):
        user_vector, movie_vector = self.user_embedding(inputs[:, 0]), self.movie_embedding(inputs[:, 1])
        dot = ops.sum(user_vector * movie_vector, axis=1, keepdims=True)
        return ops.nn.sigmoid(dot + self.user_bias(inputs[:, 0]) + self.movie_bias(inputs[:, 1]))

    def get_config(self):
        return {**super().get_config(), **self.settings}


def build(trial, data):
    model = RecommenderNet(30, 20, trial.params["width"])
    model.compile(loss=keras.losses.BinaryCrossentropy(), optimizer=keras.optimizers.Adam(learning_rate=0.001))
    return model
