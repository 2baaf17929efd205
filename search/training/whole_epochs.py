"""Keras's `fit` where one graph call trains a whole epoch and another tests a batch of held-out rows.

The epochs, their callbacks and what these are told are Keras's own. Between the graph calls of a small
model Keras computes longer than in them: it resets each metric by several operations, computes the
metrics a second time, and makes an iterator for each validation. Here a metric is reset by one
operation, the graphs' own metrics are taken, and the held-out rows are tensors that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from search.graphs.reuse import CompiledSteps

if TYPE_CHECKING:
    import keras

_OF_METRICS = ("compute_metrics", "get_metrics_result", "reset_metrics")  # methods of a model


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure a model on after each epoch.

    Attributes:
        tensors: Packed as Keras's steps are given them: (x,), (x, y) or (x, y, weights of the rows).
        rows: How many there are.
        batch_size: How many of them go through the model at once.
    """

    tensors: Any
    rows: int
    batch_size: int

    def batches(self) -> Iterator[Any]:
        """Yield the rows in order."""
        import keras

        if self.batch_size >= self.rows:
            yield self.tensors
            return
        for first in range(0, self.rows, self.batch_size):
            rows = slice(first, first + self.batch_size)
            yield keras.tree.map_structure(lambda tensor, rows=rows: tensor[rows], self.tensors)


def fit_whole_epochs(
    model: keras.Model,
    compiled: CompiledSteps,
    train_epoch: Callable[[], dict[str, Any]],
    held_out: HeldOut | None,
    settings: Mapping[str, Any],
) -> None:
    """Fit a model.

    Args:
        model: Compiled, its metrics' variables created. Its test function stays the compiled one.
        compiled: Its functions.
        train_epoch: Trains all the batches of an epoch, and returns the metrics by name.
        held_out: The validation part.
        settings: More arguments of Keras's `fit`.
    """
    import tensorflow as tf

    def test(iterator: Any) -> dict[str, Any]:
        if _same_spec(iterator.element_spec, compiled.batch):
            return compiled.test(next(iterator))
        model.make_test_function(force=True)  # a callback of the user's evaluates other data
        logs: dict[str, Any] = model.test_function(iterator)
        return logs

    # Keras asks for data, which `train_epoch` and `evaluate` have already.
    endless = tf.data.Dataset.from_tensors(0).repeat()
    held: dict[str, Any] = {} if held_out is None else {"validation_data": endless, "validation_steps": 1}
    model.train_function, model.test_function = lambda _: train_epoch(), test
    with ExitStack() as replaced:
        replaced.callback(setattr, model, "train_function", None)  # should the user call fit again
        results: Callable[[dict[str, Any]], dict[str, Any]] = partial(_results, model)
        if _measures_as_keras_does(model):
            results = dict
            replaced.enter_context(_replaced(model, "reset_metrics", _fast_reset(model)))
            replaced.enter_context(_replaced(model, "_get_metrics_result_or_logs", results))
        if held_out is not None:
            evaluate = _fast_evaluate(model, compiled, held_out, endless, results)
            replaced.enter_context(_replaced(model, "evaluate", evaluate))
        model.fit(endless, steps_per_epoch=1, **held, **settings)


@contextmanager
def _replaced(model: keras.Model, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one model for a while."""
    setattr(model, name, method)
    try:
        yield
    finally:
        delattr(model, name)


def _measures_as_keras_does(model: keras.Model) -> bool:
    """Return whether the values of all metrics are in their variables alone: code of the user's may keep others."""
    import keras

    methods = ((getattr(model, name), getattr(keras.Model, name)) for name in _OF_METRICS)
    several = [each for metric in model.metrics for each in (metric, *getattr(metric, "metrics", ()))]
    return all(getattr(mine, "__func__", mine) is kerass for mine, kerass in methods) and all(
        type(each).__module__.startswith("keras.") for each in several
    )


def _fast_reset(model: keras.Model) -> Callable[[], None]:
    """Return a function that resets the metrics."""
    import tensorflow as tf

    model.reset_metrics()
    values = [each.value for each in model.metrics_variables]
    state = [(value.handle, value.read_value()) for value in values]

    def reset_metrics() -> None:
        for handle, value in state:
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    return reset_metrics


def _results(model: keras.Model, logs: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics as Keras tells them: its own where a step gave the same names."""
    measured: dict[str, Any] = model.get_metrics_result()
    return measured if measured.keys() == logs.keys() else logs


def _fast_evaluate(
    model: keras.Model,
    compiled: CompiledSteps,
    held_out: HeldOut,
    sign: Any,
    results: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., Any]:
    """Return the method `evaluate` of a model that measures the held-out rows when it is given `sign` as its data."""

    def evaluate(x: Any = None, *args: Any, **settings: Any) -> Any:
        if x is not sign:  # a callback of the user's evaluates
            return type(model).evaluate(model, x, *args, **settings)
        callbacks = settings["callbacks"]
        model.stop_evaluating = False
        callbacks.on_test_begin()
        model.reset_metrics()
        logs: dict[str, Any] = {}
        for step, batch in enumerate(held_out.batches()):
            callbacks.on_test_batch_begin(step)
            logs = compiled.test(batch)
            callbacks.on_test_batch_end(step, logs)
            if model.stop_evaluating:
                break
        logs = results(logs)
        callbacks.on_test_end(logs)
        return logs

    return evaluate


def _same_spec(one: Any, other: Any) -> bool:
    import keras

    with suppress(ValueError, TypeError):  # another structure
        keras.tree.assert_same_structure(one, other)
        pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
        return all(mine.dtype == theirs.dtype and theirs.is_compatible_with(mine) for mine, theirs in pairs)
    return False
