"""Inputs of every kind, and the hidden layers of models that take them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.exact.objects import NoConfig, Scaled, relu, scaled_tanh

WORDS = 20  # of a vocabulary


@dataclass(frozen=True)
class Values:
    """What differs between the models of one builder."""

    units: int
    rate: float
    learning_rate: float
    seed: int


def shaped(shape: tuple[int, ...]) -> Callable[[int, int], Any]:
    """Return what makes rows of this shape from their number and a seed."""
    return lambda rows, seed: np.random.default_rng(seed).normal(size=(rows, *shape)).astype("float32")


def _tokens(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, WORDS, size=(rows, 6)).astype("int32")


def _texts(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).choice(["a", "b", "c", "d"], size=(rows, 2)).astype(object)


def _both(rows: int, seed: int) -> Any:
    return {"one": shaped((3,))(rows, seed), "two": _tokens(rows, seed)}


Body = Callable[[Any, Values], Any]


def _vector_body(pick: random.Random, kinds: list[str]) -> Body:
    activation = pick.choice(["relu", "tanh", "gelu", "swish", relu, functools.partial(scaled_tanh, factor=2.0)])
    by = "name" if isinstance(activation, str) else "function named relu" if activation is relu else "partial"
    kinds.append(f"activation by {by}")
    regularizer = pick.choice([None, None, "l1", keras.regularizers.L1L2(1e-3, 1e-3), "none told", "orthogonal"])
    constraint = pick.choice([None, None, "max_norm", "non_neg", "unit_norm"])
    more = pick.choice(
        [
            *("batch norm", "layer norm", "group norm", "unit norm", "spectral norm", "dropout", "noise", "scaled"),
            *("lambda", "lambda function", "shared", "deep", "autocast", "discretized", "normalized"),
        ]
    )
    active = pick.choice([None, None, None, "l2"])
    kinds += [more, *(["regularizer"] if regularizer else []), *(["constraint"] if constraint else [])]
    kinds += ["activity regularizer"] if active else []
    penalty = pick.choice([0.0, 0.1])

    def body(x: Any, values: Values) -> Any:
        made = {
            "none told": lambda: NoConfig(1e-3),
            "orthogonal": lambda: keras.regularizers.OrthogonalRegularizer(1e-3),
        }
        kernel = made[regularizer]() if isinstance(regularizer, str) and regularizer in made else regularizer
        given = {"activation": activation, "kernel_regularizer": kernel, "kernel_constraint": constraint}
        if more == "normalized":
            x = layers.Normalization(mean=values.rate, variance=2.0)(x)
        x = layers.Dense(values.units, activity_regularizer=active, autocast=more != "autocast", **given)(x)
        if more == "shared":
            shared = layers.Dense(values.units)
            return shared(shared(x))
        if more == "deep":
            inner = keras.Sequential([layers.Dense(values.units), layers.Dropout(values.rate)])
            return inner(x)
        if more in ("autocast", "normalized"):
            return x
        if more == "discretized":
            return layers.Flatten()(layers.Discretization([-values.rate, values.rate], output_mode="one_hot")(x))
        layer = {
            "batch norm": layers.BatchNormalization,
            "layer norm": layers.LayerNormalization,
            "group norm": lambda: layers.GroupNormalization(groups=1),
            "dropout": lambda: layers.AlphaDropout(values.rate) if penalty else layers.Dropout(values.rate),
            "noise": lambda: layers.GaussianNoise(values.rate) if penalty else layers.GaussianDropout(values.rate),
            "scaled": lambda: Scaled(1.0 + values.rate, penalty),
            "lambda": lambda: layers.Lambda(lambda each: each * values.rate),
            "lambda function": lambda: layers.Lambda(scaled_tanh, arguments={"factor": values.rate}),
            "unit norm": layers.UnitNormalization,
            "spectral norm": lambda: layers.SpectralNormalization(layers.Dense(values.units)),
        }[more]()
        return layer(x)

    return body


def _image_body(pick: random.Random, kinds: list[str]) -> Body:
    augment = pick.choice([None, "flip", "rotate", "contrast", "zoom", "crop", "translate", "brightness"])
    pool = pick.choice(["max", "average", "global", "up", "strided"])
    kinds += ["convolution", f"pool {pool}", *([f"augment {augment}"] if augment else [])]
    kind = pick.choice(["conv", "separable", "depthwise", "transposed"])
    kinds.append(kind)

    def body(x: Any, values: Values) -> Any:
        if augment:
            x = {
                "flip": lambda: layers.RandomFlip(seed=values.seed),
                "rotate": lambda: layers.RandomRotation(0.2, seed=values.seed),
                "contrast": lambda: layers.RandomContrast(0.3, seed=values.seed),
                "zoom": lambda: layers.RandomZoom(0.2, seed=values.seed),
                "crop": lambda: layers.RandomCrop(5, 5, seed=values.seed),
                "translate": lambda: layers.RandomTranslation(0.2, 0.2, seed=values.seed),
                "brightness": lambda: layers.RandomBrightness(0.2, value_range=(-2, 2), seed=values.seed),
            }[augment]()(x)
        kernel = 2 + values.units % 2
        x = {
            "conv": lambda: layers.Conv2D(values.units, kernel, padding="same", activation="relu"),
            "separable": lambda: layers.SeparableConv2D(values.units, kernel),
            "depthwise": lambda: layers.DepthwiseConv2D(kernel),
            "transposed": lambda: layers.Conv2DTranspose(values.units, kernel),
        }[kind]()(x)
        if pool == "global":
            return layers.GlobalAveragePooling2D()(layers.SpatialDropout2D(values.rate)(x))
        x = {
            "max": lambda: layers.MaxPooling2D(2),
            "average": lambda: layers.AveragePooling2D(2),
            "up": lambda: layers.UpSampling2D(2),
            "strided": lambda: layers.Conv2D(values.units, 2, strides=2),
        }[pool]()(x)
        return layers.Flatten()(layers.BatchNormalization()(x) if values.units % 2 else x)

    return body


def _sequence_body(pick: random.Random, kinds: list[str]) -> Body:
    kind = pick.choice(
        [
            *("lstm", "gru", "simple", "bidirectional", "stateful", "several rnns", "conv rnn", "conv up", "masking"),
            *("attention", "inner frozen", "time distributed"),
        ]
    )
    kinds.append("sequence: " + kind)
    pooled = pick.choice([2, 4])

    def body(x: Any, values: Values) -> Any:
        units = values.units
        if kind == "conv rnn":
            x = layers.MaxPooling1D(pooled)(layers.Conv1D(units, 1 + units % 3, activation="relu")(x))
            return layers.LSTM(4)(layers.GroupNormalization(groups=1)(x) if pooled == 2 else x)
        if kind == "conv up":
            x = layers.UpSampling1D(2)(layers.MaxPooling1D(pooled)(layers.Conv1D(2, 1 + units % 4)(x)))
            return layers.GlobalAveragePooling1D()(layers.Conv1D(units, 1)(x))
        if kind in ("attention", "inner frozen"):
            attention = layers.MultiHeadAttention(2, units, dropout=values.rate)
            x = attention(x, x)
            if kind == "inner frozen":
                inner = (attention.query_dense, attention.key_dense, attention.value_dense)
                inner[units % 3].trainable = False
            return layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
        if kind == "masking":
            return layers.GRU(units)(layers.Masking(0.0)(x))
        if kind == "time distributed":
            return layers.GlobalMaxPooling1D()(layers.TimeDistributed(layers.Dense(units))(x))
        if kind == "several rnns":
            return layers.GRU(2)(layers.SimpleRNN(units, return_sequences=True)(x))
        rnn = {
            "lstm": lambda: layers.LSTM(units, dropout=values.rate, recurrent_dropout=values.rate),
            "gru": lambda: layers.GRU(units, dropout=values.rate),
            "simple": lambda: layers.SimpleRNN(units, recurrent_dropout=values.rate),
            "bidirectional": lambda: layers.Bidirectional(layers.LSTM(units)),
            "stateful": lambda: layers.LSTM(units, stateful=x.shape[0] is not None),
        }
        return rnn[kind]()(x)

    return body


def _token_body(pick: random.Random, kinds: list[str]) -> Body:
    masked, rnn = pick.random() < 0.5, pick.random() < 0.5
    kinds += ["embedding", *(["mask zero"] if masked else [])]

    def body(x: Any, values: Values) -> Any:
        x = layers.Embedding(WORDS, values.units, mask_zero=masked)(x)
        return layers.LSTM(values.units)(x) if rnn else layers.GlobalAveragePooling1D()(x)

    return body


def _text_body(pick: random.Random, kinds: list[str]) -> Body:
    kinds.append("lookup")
    how = pick.choice(["multi_hot", "count", "hashed"])

    def body(x: Any, values: Values) -> Any:
        if how == "hashed":
            x = layers.Hashing(values.units + 1, output_mode="multi_hot")(x)
        else:
            x = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode=how)(x)
        return layers.Dense(values.units, activation="relu")(x)

    return body


def _two_bodies(pick: random.Random, kinds: list[str]) -> Body:
    kinds.append("several inputs")
    one, two = _vector_body(pick, kinds), _token_body(pick, kinds)
    return lambda x, values: layers.Concatenate()([one(x["one"], values), two(x["two"], values)])


INPUTS: dict[str, tuple[Callable[[int, int], Any], Callable[[random.Random, list[str]], Body]]] = {
    "vector": (shaped((3,)), _vector_body),
    "one column": (shaped((1,)), _vector_body),
    "image": (shaped((6, 6, 2)), _image_body),
    "sequence": (shaped((8, 3)), _sequence_body),
    "tokens": (_tokens, _token_body),
    "texts": (_texts, _text_body),
    "two inputs": (_both, _two_bodies),
}
