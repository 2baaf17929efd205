"""Graphs used again: a built-in model that takes over an earlier one's graph has the graph that its own trace gives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from search import graphs
from search.data.dataset import Data, Part
from search.data.loading import load
from search.training import fit
from search.training.model import mlp
from tests.studyfiles import definition

ROWS, HELD_OUT = 70, 30
WITHOUT_RATE = {"width": 6, "depth": 2}
USUAL = {**WITHOUT_RATE, "dropout": 0.2, "weight_decay": 1e-3}
_TARGETS = {
    "binary": lambda x: (x.sum(axis=1) > 0).astype("float32"),
    "multiclass": lambda x: (x.argmax(axis=1)).astype("float32"),
    "multilabel": lambda x: (x[:, :2] > 0).astype("float32"),
    "regression": lambda x: x.sum(axis=1).astype("float32"),
}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(graphs, "_graphs", OrderedDict())
    monkeypatch.setattr(graphs, "_passes", OrderedDict())
    yield
    keras.backend.clear_session()
    keras.config.set_dtype_policy("float32")


def made(task: str = "binary", columns: int = 3, normalize: bool = False) -> Data:
    def part(rows: int, seed: int) -> Part:
        x = np.random.default_rng(seed).normal(size=(rows, columns)).astype("float32")
        return Part(x, _TARGETS[task](x))

    classes = {"binary": (0, 1), "multiclass": (0, 1, 2)}.get(task, ())
    return Data(task, classes, (), part(ROWS, 0), part(HELD_OUT, 1), part(HELD_OUT, 2), normalize, "made", "00000000")


def built(data: Data, params: dict[str, Any]) -> keras.Model:
    """Return a model as a trial builds it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    return mlp(SimpleNamespace(params={}), data, **params)


def nodes(graph: Any) -> list[str]:
    """Return a graph's nodes as text, its inputs numbered: their names hold numbers of the trace."""
    names = {name.partition(":")[0]: f"input_{index}" for index, name in enumerate(graph.inputs)}
    for node in graph.definition.node:
        node.name = names.get(node.name, node.name)
        node.input[:] = [names.get(each, each) for each in node.input]
    return [str(node) for node in graph.definition.node]


def steps_of(data: Data, params: dict[str, Any], step: str) -> tuple[bool, list[str], list[str]]:
    """Return whether a model's graph was there, its nodes as it is used, and those of the model's own trace."""
    model, tensors = built(data, params), fit._tensors(data.train)
    spec = graphs.spec_of(tensors)
    model._symbolic_build(data_batch=spec)
    _, reused = graphs.pass_of(model, step, tensors, shared=True)
    kept = next(reversed(graphs._graphs.values()))
    assert kept is not None
    own = graphs._graph(
        lambda *flat: getattr(model, step)(keras.tree.pack_sequence_as(spec, list(flat))),
        keras.tree.flatten(spec),
        graphs._resources(model, step),
    )
    assert own is not None
    return reused, nodes(graphs._with_numbers(kept[0], graphs._numbers(model, step))), nodes(own)


VARIED = [
    {**USUAL, "optimizer": "sgd", "activation": "tanh"},
    {**USUAL, "optimizer": "rmsprop", "activation": "swish"},
    {**USUAL, "optimizer": "nadam", "activation": "gelu"},
    {**USUAL, "optimizer": "adafactor", "activation": "selu"},
    {**USUAL, "optimizer": "muon"},
    {**WITHOUT_RATE, "width": 1},
    {**USUAL, "batch_norm": True},
    {"width": 5, "depth": 1, "weight_decay": 0.0},
]


@pytest.mark.parametrize("params", VARIED, ids=[str(each) for each in VARIED])
def test_a_graph_is_that_of_the_models_own_trace(params: dict[str, Any]) -> None:
    """A trial would be trained with the sizes, rates or decay of an earlier one, and no one would know."""
    data = made()
    others = {"width": 9, "dropout": 0.5, "weight_decay": 3e-6, "learning_rate": 0.3}
    for more in ({}, {name: value for name, value in others.items() if params.get(name) not in (None, 1)}):
        reused, used, own = steps_of(data, {**params, **more}, "train_step")
        assert used == own
    by_shape = "batch_norm" in params or params.get("optimizer") == "muon"
    assert reused == (not by_shape)


@pytest.mark.parametrize("task", _TARGETS)
def test_each_task_and_other_data_have_their_own_graphs(task: str) -> None:
    """A model would be scaled by the means of another fold, or trained by another task's loss."""
    for columns, step, normalize in ((3, "train_step", False), (5, "train_step", True), (5, "test_step", True)):
        reused, used, own = steps_of(made(task, columns, normalize), USUAL, step)
        assert used == own
        assert not reused
    others = {**USUAL, "dropout": 0.4, "weight_decay": 1e-4, "optimizer": "sgd"}
    reused, used, own = steps_of(made(task, 5, normalize=True), others, "test_step")
    assert reused
    assert used == own


def test_keras_settings_are_part_of_a_graph() -> None:
    """`keras.config.set_epsilon` in a data function would be another trial's."""
    data, before = made(), keras.config.epsilon()
    try:
        for epsilon in (before, 1e-3):
            keras.config.set_epsilon(epsilon)
            reused, used, own = steps_of(data, USUAL, "train_step")
            assert used == own
            assert not reused
    finally:
        keras.config.set_epsilon(before)


class Fit:
    """What came of one model."""

    def __init__(
        self, data: Data, params: dict[str, Any], *callbacks: keras.callbacks.Callback, **settings: Any
    ) -> None:
        self.epochs: list[dict[str, float]] = []
        keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self.epochs.append(dict(logs)))
        paths: list[str] = []
        model, settings = built(data, params), {"epochs": 2, "batch_size": 16, "seed": 5, "built_in": True, **settings}
        fit.fit(model, data, callbacks=[*callbacks, keep], on_path=paths.append, **settings)
        (self.path,) = paths
        self.test = fit.evaluate(model, data.test)
        self.variables = [each.numpy() for each in (*model.variables, *model.optimizer.variables)]

    def same(self, other: Fit) -> bool:
        """Return whether both trained alike, to the last bit."""
        equal = all(map(np.array_equal, self.variables, other.variables))
        return equal and self.epochs == other.epochs and self.test == other.test


def traced_alone(monkeypatch: pytest.MonkeyPatch, data: Data, params: dict[str, Any], **settings: Any) -> Fit:
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "_graphs", OrderedDict())
        patch.setattr(graphs, "_key", lambda *_: "alone")
        patch.setattr(graphs, "_traced", lambda *_: None)
        found = Fit(data, params, **settings)
    assert found.path == fit.WHOLE_EPOCHS
    return found


@pytest.mark.parametrize("jit", [False, True])
def test_a_later_model_learns_to_the_last_bit_what_its_own_trace_teaches_it(
    monkeypatch: pytest.MonkeyPatch, jit: bool
) -> None:
    """A trial's losses would depend on which trials its worker had trained before."""
    if jit:
        monkeypatch.setattr(keras.Model, "jit_compile", property(lambda _: True, lambda *_: None))
    data = made(normalize=True)
    for params, batch_size in (({}, 16), ({"width": 33, "dropout": 0.4, "weight_decay": 0.1, "learning_rate": 0.2}, 7)):
        found = Fit(data, {**USUAL, **params}, batch_size=batch_size)
        assert found.same(traced_alone(monkeypatch, data, {**USUAL, **params}, batch_size=batch_size))
    assert found.path == fit.REUSED


def test_half_precision_and_class_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss scale or the weight of a row would be an earlier model's."""
    data = made()
    keras.config.set_dtype_policy("mixed_float16")
    for width in (4, 6):
        params = {**USUAL, "width": width}
        found = Fit(data, params, class_weight={0: 1.0, 1: 3.0})
        keras.config.set_dtype_policy("mixed_float16")
        assert found.same(traced_alone(monkeypatch, data, params, class_weight={0: 1.0, 1: 3.0}))


def test_folds_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold would be traced, though only its rows are others."""
    data, rows = made(), np.arange(ROWS)
    folds = ((rows[20:], rows[:20]), (rows[:45], rows[45:]))
    data = Data(**{**vars(data), "folds": folds, "rest": data.train, "_fitted": []})
    assert [Fit(data.fold(index), USUAL).path for index in (0, 1)] == [fit.WHOLE_EPOCHS, fit.REUSED]
    assert Fit(data.fold(1), USUAL).same(traced_alone(monkeypatch, data.fold(1), USUAL))


def test_a_table_with_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commonest data of all would be traced each time, or looked up in a table that is gone."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(5, 2, 120), "kind": random.choice(["a", "b", "c"], 120)})
    frame.loc[::7, "size"] = np.nan
    frame["price"] = frame["size"].fillna(1) * 2 + (frame["kind"] == "b")
    frame.to_csv(tmp_path / "table.csv", index=False)
    data = load(definition({"data.source": "csv:table.csv", "data.options": None, "data.target": "price"}, tmp_path))
    found = [Fit(data, {**USUAL, "width": width}) for width in (3, 4)]
    assert [each.path for each in found] == [fit.WHOLE_EPOCHS, fit.REUSED]
    assert found[1].same(traced_alone(monkeypatch, data, {**USUAL, "width": 4}))


def test_a_model_of_the_users_own_is_traced_each_time() -> None:
    """What a model's configuration does not tell would be an earlier model's."""
    assert [Fit(made(), USUAL, built_in=False).path for _ in range(2)] == [fit.WHOLE_EPOCHS] * 2


def test_only_so_many_graphs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of define-by-run would fill the worker's memory with graphs."""
    monkeypatch.setattr(graphs, "_KEPT", 4)
    data = made()
    paths = [Fit(data, {"activation": each}, epochs=1).path for each in ("relu", "tanh", "gelu", "relu")]
    assert paths == [fit.WHOLE_EPOCHS] * 4
    assert len(graphs._graphs) <= 4
