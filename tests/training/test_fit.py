"""Feeding: whatever the way, the model learns exactly what Keras's own `fit` would have taught it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from search.data.dataset import Data, Part
from search.training import fit

ROWS, HELD_OUT = 70, 30


class Logs(keras.callbacks.Callback):
    """Keeps every epoch's logs."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs.append(dict(logs or {}))


class BatchCounter(keras.callbacks.Callback):
    """A callback that watches batches, so that the model must be fed batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.seen += 1


@keras.saving.register_keras_serializable("tests")
class PositiveShare(keras.metrics.Metric):
    """A metric with state of its own."""

    def __init__(self, name: str = "positive_share", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.positive = self.add_weight(name="positive", initializer="zeros")
        self.rows = self.add_weight(name="rows", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.positive.assign_add(keras.ops.sum(keras.ops.cast(y_pred > 0.5, "float32")))
        self.rows.assign_add(keras.ops.cast(keras.ops.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        return keras.ops.divide_no_nan(self.positive, self.rows)


def numbers(rows: int, columns: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype("float32")


def labels(x: np.ndarray) -> np.ndarray:
    return (x.sum(axis=1) > 0).astype("float32")


def data_of(part_of: Callable[[int, int], Part]) -> Data:
    """Return data whose parts are made by `part_of(rows, seed)`."""
    train, validation, test = part_of(ROWS, 0), part_of(HELD_OUT, 1), part_of(HELD_OUT, 2)
    return Data("binary", (0, 1), (), train, validation, test, False, "made", "00000000")


def binary(rows: int, seed: int) -> Part:
    x = numbers(rows, seed=seed)
    return Part(x, labels(x))


def weighted(rows: int, seed: int) -> Part:
    part = binary(rows, seed)
    return Part(part.x, part.y, np.random.default_rng(seed).uniform(0.0, 3.0, rows))


def several(rows: int, seed: int) -> Part:
    """Return two inputs and two targets."""
    left, right = numbers(rows, 3, seed), numbers(rows, 2, seed + 10)
    return Part({"left": left, "right": right}, {"sign": labels(left), "total": right.sum(axis=1)})


def dense() -> keras.Model:
    return compiled([keras.layers.Dense(8, activation="relu")])


def random_layers() -> keras.Model:
    layers = keras.layers
    return compiled([layers.Dense(8), layers.BatchNormalization(), layers.Activation("relu"), layers.Dropout(0.4)])


def compiled(hidden: list[keras.layers.Layer], **settings: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(**{"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["binary_accuracy"], **settings})
    return model


def own_metric() -> keras.Model:
    return compiled([keras.layers.Dense(4)], metrics=[PositiveShare(), keras.metrics.AUC(name="auc")])


def several_heads() -> keras.Model:
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    x = keras.layers.Dense(6, activation="tanh")(keras.layers.Concatenate()([left, right]))
    sign = keras.layers.Dense(1, activation="sigmoid", name="sign")(x)
    total = keras.layers.Dense(1, name="total")(x)
    model = keras.Model({"left": left, "right": right}, {"sign": sign, "total": total})
    losses = {"sign": "binary_crossentropy", "total": "mse"}
    model.compile("sgd", loss=losses, metrics={"sign": ["binary_accuracy"], "total": ["mae"]})
    return model


def decayed() -> keras.Model:
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=1.0, use_ema=True)
    return compiled([keras.layers.Dense(4, kernel_regularizer="l2")], optimizer=optimizer)


def by_xla() -> keras.Model:
    return compiled([keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.4)], jit_compile=True)


class CountedInPython(keras.metrics.Mean):
    """A metric whose value is in no variable of its own, but in an attribute that `result` reads."""

    def __init__(self, name: str = "resets", **kwargs: Any) -> None:
        self.resets = 0
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(y_pred)

    def reset_state(self) -> None:
        self.resets += 1
        super().reset_state()

    def result(self) -> Any:
        return super().result() * 0 + self.resets


def counted_in_python() -> keras.Model:
    return compiled([keras.layers.Dense(4)], metrics=[CountedInPython()])


class Trained:
    """What came of feeding a fresh model."""

    def __init__(
        self, build: Callable[[], keras.Model], data: Data, *more: keras.callbacks.Callback, **settings: Any
    ) -> None:
        keras.utils.set_random_seed(3)
        self.model, logs = build(), Logs()
        settings = {"epochs": 3, "batch_size": 16, "seed": 5, **settings}
        paths: list[str] = []
        fit.fit(self.model, data, callbacks=[*more, logs], on_path=paths.append, **settings)
        self.path = paths[0]
        self.epochs, self.test = logs.epochs, fit.evaluate(self.model, data.test)


@pytest.mark.parametrize(
    ("build", "part_of", "settings"),
    [
        (dense, binary, {}),
        (random_layers, binary, {}),
        (dense, binary, {"class_weight": {0: 1.0, 1: 3.0}}),
        (dense, weighted, {}),
        (dense, weighted, {"class_weight": {0: 1.0, 1: 3.0}}),
        (own_metric, binary, {}),
        (counted_in_python, binary, {}),
        (several_heads, several, {}),
        (decayed, binary, {"batch_size": 7}),
        (dense, binary, {"batch_size": 1000}),
        (by_xla, weighted, {"class_weight": {0: 1.0, 1: 3.0}}),
    ],
    ids=[
        "dense",
        "batch norm and dropout",
        "class weights",
        "weighted rows",
        "weighted rows and classes",
        "own metric",
        "own metric that counts in Python",
        "several heads",
        "decay and EMA",
        "one batch",
        "XLA and weighted rows",
    ],
)
def test_whole_epochs_equal_steps(
    build: Callable[[], keras.Model], part_of: Callable[[int, int], Part], settings: dict[str, Any]
) -> None:
    """A faster trial would be another trial: results could not be compared with plain Keras."""
    data, counter = data_of(part_of), BatchCounter()
    whole, steps = Trained(build, data, **settings), Trained(build, data, counter, **settings)
    assert (whole.path, steps.path) == (fit.WHOLE_EPOCHS, fit.BATCHES)
    assert counter.seen == 3 * -(-ROWS // settings.get("batch_size", 16))
    assert whole.epochs == steps.epochs
    assert whole.test == steps.test
    for one, other in zip(whole.model.get_weights(), steps.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("streamed", [False, True])
def test_class_weights_are_those_of_fit(streamed: bool) -> None:
    """The file's class weights would mean something else than Keras's, or a stream's classes count alike."""
    import tensorflow as tf

    data, weights = data_of(binary), {0: 1.0, 1: 5.0}
    stream = Part(tf.data.Dataset.from_tensors((data.train.x, data.train.y)), None)
    given = replace(data, train=stream) if streamed else data
    ours = Trained(dense, given, epochs=1, batch_size=ROWS, class_weight=weights)
    keras.utils.set_random_seed(3)
    model = dense()
    history = model.fit(data.train.x, data.train.y, batch_size=ROWS, class_weight=weights, verbose=0).history
    assert ours.epochs[0]["loss"] == pytest.approx(history["loss"][0], rel=1e-6)


@pytest.mark.parametrize("path", [fit.WHOLE_EPOCHS, fit.PLAIN])
def test_weights_of_rows_are_those_of_fit(path: str) -> None:
    """Rows would count alike in training, validation or test, whatever the user's weights say."""
    data = data_of(weighted)
    build = dense if path == fit.WHOLE_EPOCHS else eager
    ours = Trained(build, data, epochs=1, batch_size=ROWS)
    assert ours.path == path
    keras.utils.set_random_seed(3)
    model, held_out = build(), data.validation
    history = model.fit(
        data.train.x,
        data.train.y,
        sample_weight=data.train.sample_weight,
        validation_data=(held_out.x, held_out.y, held_out.sample_weight),
        batch_size=ROWS,
        verbose=0,
    ).history
    assert ours.epochs[0] == pytest.approx({name: values[0] for name, values in history.items()}, rel=1e-5)
    test = data.test
    tested = model.evaluate(test.x, test.y, sample_weight=test.sample_weight, verbose=0, return_dict=True)
    assert ours.test == pytest.approx(tested, rel=1e-4)
    unweighted = model.evaluate(test.x, test.y, verbose=0, return_dict=True)
    assert tested["loss"] != pytest.approx(unweighted["loss"], rel=1e-3)


def test_order_depends_on_the_seed_alone() -> None:
    """A trial would give other losses on another worker, and could not be reproduced."""
    data = data_of(binary)
    first = Trained(dense, data)
    Trained(random_layers, data, seed=99)  # draws from the global generators
    assert Trained(dense, data).epochs == first.epochs
    assert Trained(dense, data, seed=6).epochs != first.epochs


def test_the_user_can_fit_again() -> None:
    """A model handed over would not train further in the user's own hands."""
    data = data_of(binary)
    model = Trained(dense, data).model
    before = model.get_weights()[0]
    history = model.fit(data.train.x, data.train.y, batch_size=16, epochs=2, verbose=0).history
    assert len(history["loss"]) == 2
    assert not np.array_equal(before, model.get_weights()[0])


def test_early_end_leaves_the_model_whole() -> None:
    """A pruned or failed trial would leave a model whose `fit` takes row numbers."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise RuntimeError("enough")

    data = data_of(binary)
    model = dense()
    with pytest.raises(RuntimeError, match="enough"):
        fit.fit(model, data, epochs=2, batch_size=16, seed=0, callbacks=[Stop()])
    model.fit(data.train.x, data.train.y, verbose=0)


@keras.saving.register_keras_serializable("tests")
class OwnStep(keras.Model):
    """A model that trains itself, and counts how often."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = keras.layers.Dense(1, activation="sigmoid")
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)

    def train_step(self, data: Any) -> Any:
        self.steps.assign_add(1.0)
        return super().train_step(data)


def own_step() -> keras.Model:
    model = OwnStep()
    model.compile("sgd", "binary_crossentropy", metrics=["binary_accuracy"])
    return model


def eager() -> keras.Model:
    return compiled([keras.layers.Dense(4)], run_eagerly=True)


def compiled_steps() -> keras.Model:
    hits = keras.metrics.TruePositives(name="hits")
    return compiled([keras.layers.Dense(4)], steps_per_execution=3, metrics=[hits])


@pytest.mark.parametrize(
    ("build", "path"),
    [(own_step, fit.PLAIN), (eager, fit.PLAIN), (compiled_steps, fit.WHOLE_EPOCHS)],
    ids=["own train_step", "eager", "several steps an execution"],
)
def test_unusual_models_fall_back_and_learn(build: Callable[[], keras.Model], path: str) -> None:
    """A user's own training step, or Python code in it, would be skipped in silence, or rows be read twice."""
    trained = Trained(build, data_of(binary), epochs=4)
    assert trained.path == path
    assert trained.epochs[-1]["val_loss"] < trained.epochs[0]["val_loss"]
    if build is own_step:
        assert float(trained.model.steps) == 4 * 5
    if build is compiled_steps:
        hits = data_of(binary).test.y[trained.model.predict(data_of(binary).test.x, verbose=0)[:, 0] > 0.5].sum()
        assert (int(trained.model.optimizer.iterations), trained.test["hits"]) == (4 * 5, hits)


def test_every_held_out_batch_counts_with_several_steps_an_execution() -> None:
    """Test values would be those of the first batch of each eight, in silence."""
    trained = Trained(compiled_steps, data_of(binary), epochs=1)
    part = data_of(binary).test
    assert part is not None
    measured = fit.evaluate(trained.model, part, batch_size=7)
    given = trained.model.predict(part.x, verbose=0)[:, 0]
    assert measured["hits"] == part.y[given > 0.5].sum()
    losses = -np.where(part.y == 1, np.log(given), np.log(1 - given))
    assert measured["loss"] == pytest.approx(losses.mean(), rel=1e-4)


def test_a_lambda_callback_sees_every_batch() -> None:
    """A callback whose hook is set on the object, as Keras's own LambdaCallback, would be ignored."""
    seen: list[int] = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    trained = Trained(dense, data_of(binary), callback, epochs=1)
    assert trained.path == fit.BATCHES
    assert len(seen) == 5


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset"])
def test_streams_are_passed_to_fit(kind: str) -> None:
    """Data larger than memory would be copied into it, or not be learned from."""
    import tensorflow as tf

    class Batches(keras.utils.PyDataset):
        def __init__(self, part: Part) -> None:
            super().__init__()
            self.part = part

        def __len__(self) -> int:
            return math.ceil(len(self.part) / 16)

        def __getitem__(self, index: int) -> Any:
            rows = slice(index * 16, (index + 1) * 16)
            return self.part.x[rows], self.part.y[rows]

    def stream(rows: int, seed: int) -> Part:
        part = binary(rows, seed)
        if kind == "PyDataset":
            return Part(Batches(part), None)
        return Part(tf.data.Dataset.from_tensor_slices((part.x, part.y)).batch(16), None)

    trained = Trained(dense, data_of(stream), epochs=4)
    assert trained.path == fit.PLAIN
    assert trained.epochs[-1]["val_loss"] < trained.epochs[0]["val_loss"]
    assert set(trained.test) == {"loss", "binary_accuracy"}


def test_mixed_precision_equals_steps() -> None:
    """The loss scale of half precision would move otherwise by whole epochs than step by step."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        data = data_of(binary)
        whole, steps = Trained(dense, data), Trained(dense, data, BatchCounter())
    finally:
        keras.config.set_dtype_policy("float32")
    assert whole.path == fit.WHOLE_EPOCHS
    assert whole.epochs == steps.epochs


def pictures(rows: int, seed: int) -> Part:
    x = np.random.default_rng(seed).normal(size=(rows, 28, 28, 1)).astype("float32")
    return Part(x, labels(x.reshape(rows, -1)))


def test_held_out_rows_are_bounded_by_bytes() -> None:
    """Validating pictures would need hundreds of megabytes where Keras's own `evaluate` needs few."""
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(32, 3)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(x)))
    rows = fit.held_out_rows(model, pictures(300, 0))
    assert 32 <= rows < 300
    assert rows * (26 * 26 * 32 + 28 * 28) * 4 <= 2**25, "32 MB of inputs and of the largest layer's outputs"
    assert fit.held_out_rows(dense(), binary(9000, 0)) == 4096


class Block(keras.layers.Layer):
    """A layer of the user's own with attention inside."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(num_heads=8, key_dim=2)

    def call(self, x: Any) -> Any:
        return self.attention(x, x)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("length", [None, 500])
def test_rows_of_sequences_are_bounded_by_what_attention_makes_of_them(own: bool, length: int | None) -> None:
    """Scores of 500 by 500 for each head of 4096 rows are 30 GB, where `fit` has batches of 32."""
    inputs = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(50, 16)(inputs)
    x = Block()(x) if own else keras.layers.MultiHeadAttention(8, 2)(x, x)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(x)))
    assert fit.held_out_rows(model, Part(np.zeros((9, 500), "int32"), None)) == 32
    long = keras.Model(inputs, keras.layers.Embedding(50, 64)(inputs))
    assert fit.held_out_rows(long, Part(np.zeros((9, 500), "int32"), None)) * 500 * 64 * 4 <= 2**25


def test_several_batches_of_held_out_rows_score_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric would depend on how its rows are cut into batches."""
    data = data_of(binary)
    model = Trained(dense, data, epochs=1).model
    whole = fit.evaluate(model, data.test)
    monkeypatch.setattr(fit, "held_out_rows", lambda model, part: 7)
    assert fit.evaluate(model, data.test) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("build", [dense, own_step], ids=["Keras's step", "own step"])
def test_dry_run_names_every_log(build: Callable[[], keras.Model]) -> None:
    """A study whose metric is right would be refused, or a wrong one found hours later."""
    data = data_of(binary)
    assert set(fit.log_names(build(), data)) == set(Trained(build, data, epochs=1).epochs[0])
