"""Reuse: a model that takes over an earlier one's graph learns exactly what it would have learnt with its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from search.data.dataset import Data, Part
from search.data.loading import load
from search.graphs import reuse as graphs
from search.graphs import shared
from search.training import fit as feed
from tests.studyfiles import definition

Build = Callable[..., keras.Model]
ROWS, HELD_OUT = 70, 30


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_architectures", [])


def made(shape: tuple[int, ...] = (3,)) -> Data:
    def part(rows: int, seed: int) -> Part:
        x = np.random.default_rng(seed).normal(size=(rows, *shape)).astype("float32")
        return Part(x, (x.reshape(rows, -1).sum(axis=1) > 0).astype("float32"))

    return Data("binary", (0, 1), (), part(ROWS, 0), part(HELD_OUT, 1), part(HELD_OUT, 2), False, "made", "00000000")


def stack(hidden: list[keras.layers.Layer], shape: tuple[int, ...] = (3,), **settings: Any) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *hidden, layers.Dense(1, activation="sigmoid")])
    model.compile(**{"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["binary_accuracy"], **settings})
    return model


def dense(units: int) -> keras.Model:
    return stack([layers.Dense(units, activation="relu")])


def deep(units: int) -> keras.Model:
    hidden = [layers.Dense(units, activation="gelu"), layers.Dropout(0.3), layers.Dense(2 * units, activation="tanh")]
    return stack(hidden, optimizer=keras.optimizers.RMSprop(0.001 * units))


def normalised(units: int) -> keras.Model:
    return stack([layers.Dense(units), layers.BatchNormalization(), layers.Activation("relu"), layers.Dropout(0.2)])


def decayed(units: int) -> keras.Model:
    optimizer = keras.optimizers.AdamW(0.01 * units, weight_decay=0.1, clipnorm=1.0, use_ema=True)
    return stack([layers.Dense(units, kernel_regularizer="l2")], optimizer=optimizer)


def scheduled(units: int) -> keras.Model:
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 10)
    return stack([layers.Dense(units)], optimizer=keras.optimizers.SGD(schedule, momentum=0.9))


def convolved(units: int) -> keras.Model:
    return stack([layers.Conv2D(units, 3, activation="relu"), layers.GlobalAveragePooling2D()], (6, 6, 1))


def by_xla(units: int) -> keras.Model:
    return stack([layers.Dense(units), layers.Dropout(0.3)], jit_compile=True)


def recurrent(units: int) -> keras.Model:
    return stack([layers.GRU(units)], (4, 2))


class Fit:
    """What came of one model."""

    def __init__(self, model: keras.Model, data: Data, *callbacks: keras.callbacks.Callback, **settings: Any) -> None:
        self.epochs: list[dict[str, float]] = []
        keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self.epochs.append(dict(logs)))
        settings = {"epochs": 2, "batch_size": 16, "seed": 5, **settings}
        paths: list[str] = []
        feed.fit(model, data, callbacks=[*callbacks, keep], on_path=paths.append, **settings)
        self.path = paths[0]
        self.test = feed.evaluate(model, data.test)
        self.weights = model.get_weights()
        self.optimizer = [variable.numpy() for variable in model.optimizer.variables]

    def same(self, other: Fit) -> bool:
        """Return whether both trained alike, to the last bit."""
        pairs = zip([*self.weights, *self.optimizer], [*other.weights, *other.optimizer], strict=True)
        equal = all(np.array_equal(mine, theirs) for mine, theirs in pairs)
        return equal and self.epochs == other.epochs and self.test == other.test


def fresh(build: Build, *arguments: Any) -> keras.Model:
    """Return a model as a trial builds it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    return build(*arguments)


def traced_alone(monkeypatch: pytest.MonkeyPatch, build: Build, argument: Any, data: Data, **settings: Any) -> Fit:
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "_architectures", [])
        found = Fit(fresh(build, argument), data, **settings)
    assert found.path == feed.WHOLE_EPOCHS
    return found


@pytest.mark.parametrize("build", [dense, deep, scheduled], ids=["dense", "dropout and rates", "schedule"])
def test_other_sizes_reuse_the_graph_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    """A trial's losses would depend on which trials its worker had trained before."""
    data = made()
    paths = []
    for units, batch_size in ((4, 16), (6, 7), (33, 100), (4, 16)):
        found = Fit(fresh(build, units), data, batch_size=batch_size)
        paths.append(found.path)
        if found.path == feed.REUSED:
            assert found.same(traced_alone(monkeypatch, build, units, data, batch_size=batch_size)), units
    assert paths == [feed.WHOLE_EPOCHS] * 2 + [feed.REUSED] * 2


def attending(units: int) -> keras.Model:
    inputs = keras.Input((4, 3))
    hidden = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, units, dropout=0.01 * units)(inputs, inputs))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy")
    return model


def flattened(units: int) -> keras.Model:
    hidden = [layers.Conv2D(units, 2 + units % 2, padding="same"), layers.Conv2D(2 * units, 3), layers.Flatten()]
    return stack([*hidden, layers.Dropout(0.01 * units), layers.Dense(units)], (6, 6, 1))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (normalised, (3,)),
        (decayed, (3,)),
        (convolved, (6, 6, 1)),
        (flattened, (6, 6, 1)),
        (recurrent, (4, 2)),
        (attending, (4, 3)),
        (by_xla, (3,)),
    ],
    ids=["batch norm", "decay and EMA", "convolution", "filters and kernels", "GRU", "attention", "XLA"],
)
def test_sizes_that_a_graph_holds_are_put_in_their_places(
    monkeypatch: pytest.MonkeyPatch, build: Build, shape: tuple[int, ...]
) -> None:
    """The sizes of an earlier model would be computed with; or every trial of such a study be traced."""
    data = made(shape)
    paths = []
    for units in (4, 6, 9, 5):
        found = Fit(fresh(build, units), data)
        paths.append(found.path)
        if found.path == feed.REUSED:
            assert found.same(traced_alone(monkeypatch, build, units, data)), units
    assert paths[::3] == [feed.WHOLE_EPOCHS, feed.REUSED]


def rates(numbers: tuple[float, float]) -> keras.Model:
    """Return a model of two numbers, each of them in several places."""
    first, second = numbers
    hidden = [layers.Dense(4, kernel_regularizer=keras.regularizers.L2(second)), layers.Dropout(first)]
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=second)
    return stack([*hidden, layers.Dense(4), layers.Dropout(second)], optimizer=optimizer)


def test_numbers_that_a_graph_holds_are_put_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial would be trained with the rates of an earlier one, or every trial with a rate of its own be traced."""
    data = made()
    tried = [(0.1, 0.2), (0.3, 0.4), (0.25, 0.15), (0.0, 0.15), (0.5, 0.35)]
    found = {numbers: Fit(fresh(rates, numbers), data) for numbers in tried}
    assert [each.path == feed.REUSED for each in found.values()] == [False, False, True, False, True]
    for numbers in (tried[2], tried[4]):
        assert found[numbers].same(traced_alone(monkeypatch, rates, numbers, data)), numbers


def test_functions_of_rates_that_do_not_come_again_are_not_kept() -> None:
    """A worker of a study with rates drawn from a range would grow by two megabytes a trial."""
    data = made()
    for numbers in ((0.1, 0.2), (0.3, 0.4), (0.25, 0.15), (0.35, 0.45), (0.25, 0.15), (0.25, 0.15)):
        Fit(fresh(rates, numbers), data, epochs=1)
    (found,) = graphs._architectures
    assert len(found.functions) == 1, "of the rates that came again"


@pytest.fixture
def other_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Share graphs through a folder, and return a function that makes this process as another worker is at first."""

    def become() -> None:
        monkeypatch.setattr(graphs, "_architectures", [])
        shared._shared.known.clear()

    shared.use(tmp_path / "graphs")
    yield become
    shared.use(None)


def test_workers_share_graphs(monkeypatch: pytest.MonkeyPatch, other_worker: Callable[[], None]) -> None:
    """Each of 16 workers would trace every architecture, or train otherwise than one that traced it itself."""
    data = made()
    for numbers in ((0.1, 0.2), (0.3, 0.4)):
        assert Fit(fresh(rates, numbers), data).path == feed.WHOLE_EPOCHS
        other_worker()
    found = Fit(fresh(rates, (0.25, 0.15)), data)
    assert found.path == feed.REUSED
    shared.use(None)
    assert found.same(traced_alone(monkeypatch, rates, (0.25, 0.15), data))


def test_a_folder_that_cannot_be_used_leaves_each_worker_its_own_graphs(tmp_path: Path) -> None:
    """A full disk would end trials."""
    (tmp_path / "file").write_text("")
    shared.use(tmp_path / "file" / "graphs")
    try:
        paths = [Fit(fresh(dense, 4), made(), epochs=1).path for _ in range(2)]
    finally:
        shared.use(None)
    assert paths == [feed.WHOLE_EPOCHS, feed.REUSED]


def test_a_constant_that_may_come_from_two_numbers_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rates that were equal twice would be taken for one."""
    data = made()
    tried = [(0.1, 0.1), (0.2, 0.2), (0.3, 0.4), (0.5, 0.25)]
    found = {numbers: Fit(fresh(rates, numbers), data) for numbers in tried}
    assert [each.path == feed.REUSED for each in found.values()] == [False, False, False, True]
    assert found[tried[3]].same(traced_alone(monkeypatch, rates, tried[3], data))


def test_a_size_that_comes_from_nothing_known_has_the_model_traced() -> None:
    """A convolution's padding on one side, a kernel's size less one, would be that of an earlier model."""

    def causal(kernel: int) -> keras.Model:
        hidden = [layers.Conv1D(4, kernel, padding="causal"), layers.GlobalAveragePooling1D()]
        return stack(hidden, (8, 2))

    assert [Fit(fresh(causal, size), made((8, 2)), epochs=1).path for size in (9, 11, 14, 10)] == [
        feed.WHOLE_EPOCHS
    ] * 4


def test_a_size_of_one_has_its_own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bias, which Keras adds otherwise, would be added as those of larger layers."""
    data = made()
    for units in (4, 6, 1, 8):
        found = Fit(fresh(dense, units), data)
        assert (found.path == feed.REUSED) == (units == 8)
    assert found.same(traced_alone(monkeypatch, dense, 8, data))


def test_half_precision_and_class_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss scale or the weight of a row would be an earlier model's."""
    data = made()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for units in (4, 4):

            def build(units: int) -> keras.Model:
                keras.config.set_dtype_policy("mixed_float16")
                return dense(units)

            found = Fit(fresh(build, units), data, class_weight={0: 1.0, 1: 3.0})
        assert found.same(traced_alone(monkeypatch, build, units, data, class_weight={0: 1.0, 1: 3.0}))
    finally:
        keras.config.set_dtype_policy("float32")
    assert found.path == feed.REUSED


def test_folds_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold would be traced, though only its rows are others."""
    data = made()
    rows = np.arange(ROWS)
    folds = ((rows[20:], rows[:20]), (rows[:45], rows[45:]))
    data = Data(**{**vars(data), "folds": folds, "rest": data.train, "_fitted": []})
    paths = [Fit(fresh(dense, 5), data.fold(index)).path for index in (0, 1, 0)]
    assert paths == [feed.WHOLE_EPOCHS, feed.REUSED, feed.REUSED]
    last = Fit(fresh(dense, 5), data.fold(1))
    assert last.same(traced_alone(monkeypatch, dense, 5, data.fold(1)))


def test_a_table_with_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The commonest data of all would be traced each time, or looked up in a table that is gone."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(5, 2, 120), "kind": random.choice(["a", "b", "c"], 120)})
    frame.loc[::7, "size"] = np.nan
    frame["price"] = frame["size"].fillna(1) * 2 + (frame["kind"] == "b")
    frame.to_csv(tmp_path / "table.csv", index=False)
    data = load(definition({"data.source": "csv:table.csv", "data.options": None, "data.target": "price"}, tmp_path))

    def build(units: int) -> keras.Model:
        inputs, prepared = data.inputs()
        model = keras.Model(inputs, layers.Dense(1)(layers.Dense(units, activation="relu")(prepared)))
        model.compile("adam", "mean_squared_error", metrics=["mae"])
        return model

    paths = []
    for units in (3, 4, 5):
        found = Fit(fresh(build, units), data)
        paths.append(found.path)
    assert found.same(traced_alone(monkeypatch, build, 5, data))
    assert paths == [feed.WHOLE_EPOCHS, feed.WHOLE_EPOCHS, feed.REUSED]


def dropped(rate: float) -> keras.Model:
    return stack([layers.Dense(4), layers.Dropout(rate)])


class Doubled(layers.Layer):
    """A layer of the user's own, whose configuration does not tell what it does."""

    factor = 2.0

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


def own_layer(factor: float) -> keras.Model:
    layer = Doubled()
    layer.factor = factor
    return stack([layer])


def own_loss(factor: float) -> keras.Model:
    return stack([], loss=lambda y, predicted: factor * keras.losses.mean_squared_error(y, predicted))


def replaced_method(factor: float) -> keras.Model:
    layer = layers.Dense(4)
    layer.call = lambda inputs, training=None: factor * layers.Dense.call(layer, inputs)
    return stack([layer])


def own_lambda(factor: float) -> keras.Model:
    return stack([layers.Lambda(lambda x: x * factor), layers.Dense(4)])


def adapted(factor: float) -> keras.Model:
    layer = layers.Normalization()
    layer.adapt(factor * made().train.x)
    return stack([layer, layers.Dense(4)])


def undecayed(share: float) -> keras.Model:
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    if share > 1:
        optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return stack([layers.Dense(4)], optimizer=optimizer)


def unseeded(share: float) -> keras.Model:
    inputs = keras.Input((3,))
    noisy = inputs + 0.1 * keras.random.normal((3,)) * share
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(noisy))
    model.compile("adam", "binary_crossentropy")
    return model


@pytest.mark.parametrize(
    ("build", "values"),
    [
        (dropped, (0.1, 0.5)),
        (own_layer, (1.0, 2.0)),
        (own_loss, (1.0, 2.0)),
        (replaced_method, (1.0, 2.0)),
        (own_lambda, (1.0, 2.0)),
        (adapted, (1.0, 2.0)),
        (undecayed, (1.0, 2.0)),
        (unseeded, (1.0, 2.0)),
    ],
    ids=[
        "rate",
        "own layer",
        "own loss",
        "replaced method",
        "lambda",
        "adapted layer",
        "untold setting",
        "a constant",
    ],
)
def test_what_the_sizes_do_not_tell_is_traced_anew(
    monkeypatch: pytest.MonkeyPatch, build: Build, values: tuple[float, ...]
) -> None:
    """A trial would be trained with another trial's settings, and no one would know."""
    data = made()
    first, second = (Fit(fresh(build, value), data) for value in values)
    assert second.same(traced_alone(monkeypatch, build, values[1], data))
    assert first.epochs != second.epochs


def test_callbacks_may_evaluate_other_data() -> None:
    """A callback that evaluates weighted rows would meet a function that takes none."""

    class Elsewhere(keras.callbacks.Callback):
        seen: list[float]

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            train = made().train
            weights = np.zeros(len(train), "float32")
            self.seen.append(self.model.evaluate(train.x, train.y, sample_weight=weights, verbose=0)[0])

    callback = Elsewhere()
    callback.seen = []
    found = Fit(fresh(dense, 4), made(), callback)
    assert callback.seen == [0.0] * 2
    assert found.epochs[-1]["val_loss"] > 0


def test_only_so_many_architectures_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of define-by-run would fill the worker's memory with graphs."""
    monkeypatch.setattr(graphs, "_KEPT", 2)
    data = made()

    def activated(by: str) -> keras.Model:
        return stack([layers.Dense(4, activation=by)])

    for activation in ("relu", "tanh", "gelu", "relu"):
        assert Fit(fresh(activated, activation), data, epochs=1).path == feed.WHOLE_EPOCHS
    assert Fit(fresh(activated, "relu"), data, epochs=1).path == feed.REUSED


@pytest.fixture(autouse=True)
def names_begin_anew() -> Iterator[None]:
    yield
    keras.backend.clear_session()
