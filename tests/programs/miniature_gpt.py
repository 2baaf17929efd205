"""Text generation: causal attention, two outputs of which one has no loss.

After `examples/generative/text_generation_with_miniature_gpt.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

MAXLEN, VOCAB_SIZE = 8, 20


def prepare_lm_inputs_labels(tokens):
    return tokens[:, :-1], tokens[:, 1:]


def load():
    tokens = np.random.default_rng(0).integers(1, VOCAB_SIZE, size=(120, MAXLEN + 1))
    text_ds = tf.data.Dataset.from_tensor_slices(tokens).batch(32).map(prepare_lm_inputs_labels).prefetch(2)
    return {"train": text_ds.take(3), "validation": text_ds.skip(3)}


@keras.saving.register_keras_serializable("programs")
class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads=1, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.att = layers.MultiHeadAttention(num_heads, embed_dim)
        self.ffn = layers.Dense(embed_dim, activation="relu")
        self.layernorm = layers.LayerNormalization(epsilon=1e-6)

    def call(self, inputs):
        return self.layernorm(inputs + self.ffn(self.att(inputs, inputs, use_causal_mask=True)))

    def get_config(self):
        return {**super().get_config(), "embed_dim": self.embed_dim}


@keras.saving.register_keras_serializable("programs")
class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.token_emb = layers.Embedding(input_dim=VOCAB_SIZE, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=MAXLEN, output_dim=embed_dim)

    def call(self, x):
        return self.token_emb(x) + self.pos_emb(ops.arange(0, ops.shape(x)[-1], 1))

    def get_config(self):
        return {**super().get_config(), "embed_dim": self.embed_dim}


class TextGenerator(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        y, _ = self.model.predict(np.ones((1, MAXLEN), "int64"), verbose=0)
        assert y.shape == (1, MAXLEN, VOCAB_SIZE)


def build(trial, data):
    inputs = layers.Input(shape=(MAXLEN,), dtype="int32")
    x = TokenAndPositionEmbedding(trial.params["width"])(inputs)
    x = TransformerBlock(trial.params["width"])(x)
    outputs = layers.Dense(VOCAB_SIZE)(x)
    model = keras.Model(inputs=inputs, outputs=[outputs, x])
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=[loss_fn, None])
    return model
