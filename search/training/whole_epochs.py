"""Keras's `fit` where one graph call trains a whole epoch and another tests all the held-out rows.

The epochs, their callbacks and what these are told are Keras's own, and the graphs are traced where Keras traces its
own: at the first batch, after whatever the callbacks changed before it, and anew when a callback asks for that. Between
the graph calls of a small model Keras computes longer than in them: it resets each metric by several operations,
computes the metrics a second time, and makes an iterator for each validation. Here a metric is reset by one operation,
the graphs' own metrics are taken, and the held-out rows are tensors that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from search.graphs import Pass, pass_of, spec_of
from search.studyfile.references import overrides

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from numpy.typing import NDArray

_OF_METRICS = ("compute_metrics", "get_metrics_result", "reset_metrics")  # methods of a model
_ALL = object()  # given to a test function instead of an iterator: test all the rows


@dataclass(frozen=True)
class Rows:
    """Rows to train or test a model on.

    Attributes:
        tensors: Packed as Keras's steps are given them: (x,), (x, y) or (x, y, weights of the rows).
        count: How many there are.
        batch_size: How many of them go through the model at once.
    """

    tensors: Any
    count: int
    batch_size: int


def _create_variables(model: keras.Model, spec: Any, *, shared: bool) -> None:
    """Create the variables of metrics and optimizer. Else a step is traced twice: once to create them, once without."""
    import keras

    if not shared:
        model._symbolic_build(data_batch=spec)  # noqa: SLF001 - no public way
        return
    # The same for a functional model with one output, without asking each layer for its output again: 0.03 s.
    y = keras.KerasTensor(spec[1].shape, spec[1].dtype.name)
    for compiled in (model._compile_metrics, model._compile_loss):  # noqa: SLF001
        if not compiled.built:
            compiled.build(y, model.output)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def fit_whole_epochs(
    model: keras.Model,
    train: Rows,
    held_out: Rows | None,
    next_order: Callable[[], NDArray[np.int32]],
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    epochs: int,
    validation_freq: int,
    shared: bool,
    on_traced: Callable[[bool], None],
) -> None:
    """Fit a model.

    Args:
        model: Compiled. Its test function stays the traced one.
        train: The training part.
        held_out: The validation part.
        next_order: Gives the order of the training rows in the epoch that has begun.
        callbacks: None of them looks at batches.
        epochs: How many to train.
        validation_freq: After how many epochs the held-out rows are tested each time.
        shared: Whether the whole model is made by this package, and its callbacks leave it as it is.
        on_traced: Called once the training function is traced, with whether its graph was there already.
    """
    import keras
    import tensorflow as tf

    # Keras asks for data; this is a sign by which the functions know its own iterators from those of callbacks.
    sign = tf.data.Dataset.from_tensors(tf.zeros((0, 1, 0, 1), tf.int8)).repeat()
    until_nan = any(isinstance(callback, keras.callbacks.TerminateOnNaN) for callback in callbacks)
    functions = _Functions(model, train, held_out, next_order, sign, _FastMetrics(model), shared, until_nan, on_traced)
    with ExitStack() as replaced:
        replaced.callback(setattr, model, "train_function", None)  # should the user call fit again
        for name, method in functions.methods().items():
            replaced.enter_context(_replaced(model, name, method))
        model.train_function = model.test_function = None
        told = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            model=model,
            epochs=epochs,
            steps=-(-train.count // train.batch_size),
            verbose=0,
        )
        held: dict[str, Any] = {"validation_data": sign, "validation_steps": 1, "validation_freq": validation_freq}
        held = {} if held_out is None else held
        model.fit(sign, steps_per_epoch=1, epochs=epochs, callbacks=told, verbose=0, shuffle=False, **held)


@dataclass(frozen=True)
class _Functions:
    """The methods of a model that train an epoch and test the held-out rows by one graph call."""

    model: keras.Model
    train: Rows
    held_out: Rows | None
    next_order: Callable[[], NDArray[np.int32]]
    sign: tf.data.Dataset
    metrics: _FastMetrics
    shared: bool
    until_nan: bool
    on_traced: Callable[[bool], None]

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Return the methods by their names."""
        return {
            "make_train_function": self._maker("train_function", self._train_function),
            "make_test_function": self._maker("test_function", self._test_function),
            "evaluate": self._evaluate,
            "reset_metrics": self.metrics.reset,
            "_get_metrics_result_or_logs": self.metrics.results,
        }

    def _maker(self, name: str, function: Callable[[], Callable[[Any], Any]]) -> Callable[..., None]:
        def make(force: bool = False) -> None:
            if getattr(self.model, name) is None or force:
                setattr(self.model, name, function())

        return make

    def _pass(
        self, step: str, rows: Rows, until_nan: bool = False, on_traced: Callable[[bool], None] = lambda _: None
    ) -> Callable[[], Pass]:
        """Return a function that traces a pass over rows when it is first called, and returns it.

        Args:
            step: `train_step` or `test_step`.
            rows: Rows like those that it is given.
            until_nan: Whether it ends with a loss that is no finite number.
            on_traced: Called with whether the graph was there already.
        """

        @cache
        def traced() -> Pass:
            with suppress(Exception):  # tracing tells what is wrong
                _create_variables(self.model, spec_of(rows.tensors), shared=self.shared)
            made, reused = pass_of(self.model, step, rows.tensors, shared=self.shared, until_nan=until_nan)
            on_traced(reused)
            return made

        return traced

    def _train_function(self) -> Callable[[Any], dict[str, Any]]:
        train, run_pass = self.train, self._pass("train_step", self.train, self.until_nan, self._traced)
        kerass = cache(partial(_keras_function, self.model, "train_function"))

        def run(iterator: Any) -> dict[str, Any]:
            if getattr(iterator, "element_spec", None) != self.sign.element_spec:  # a callback trains on a batch
                return kerass()(iterator)
            order, one_call = self.next_order(), train.batch_size * self.model.steps_per_execution
            order = order[:one_call] if self.model.stop_training else order  # Keras looks after one call
            return run_pass()(order, train.batch_size, train.tensors)

        return run

    def _traced(self, reused: bool) -> None:
        self.metrics.begin()
        self.on_traced(reused)

    def _test_function(self) -> Callable[[Any], dict[str, Any]]:
        import keras

        rows = self.held_out or Rows(self.train.tensors[:2], self.train.count, self.train.batch_size)
        run_pass = self._pass("test_step", rows)
        kerass = cache(partial(_keras_function, self.model, "test_function"))
        order = np.arange(rows.count, dtype="int32")

        def run(iterator: Any) -> dict[str, Any]:
            if iterator is _ALL:
                one_call = rows.batch_size * self.model.steps_per_execution
                some = order[:one_call] if self.model.stop_evaluating else order
                return run_pass()(some, rows.batch_size, rows.tensors)
            one = self.model.steps_per_execution == 1  # with more, one call reads several batches
            if one and _same_spec(getattr(iterator, "element_spec", None), spec_of(rows.tensors)):
                others = next(iterator)
                count = len(keras.tree.flatten(others)[0])
                return run_pass()(np.arange(count, dtype="int32"), max(1, count), others)
            return kerass()(iterator)  # a callback tests other data

        return run

    def _evaluate(self, x: Any = None, *args: Any, **settings: Any) -> Any:
        model = self.model
        if x is not self.sign:  # a callback evaluates
            return type(model).evaluate(model, x, *args, **settings)
        callbacks = settings["callbacks"]
        model.make_test_function()
        model.stop_evaluating = False
        callbacks.on_test_begin()
        model.reset_metrics()
        logs = self.metrics.results(model.test_function(_ALL))
        callbacks.on_test_end(logs)
        return logs


def _keras_function(model: keras.Model, name: str) -> Callable[[Any], dict[str, Any]]:
    """Return the train or test function that Keras makes for a model, without changing the model's."""
    mine = getattr(model, name)
    getattr(type(model), f"make_{name}")(model, force=True)
    kerass: Callable[[Any], dict[str, Any]] = getattr(model, name)
    setattr(model, name, mine)
    return kerass


@contextmanager
def _replaced(model: keras.Model, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one model for a while."""
    setattr(model, name, method)
    try:
        yield
    finally:
        delattr(model, name)


class _FastMetrics:
    """Resets a model's metrics and tells their values, by few operations where all of them are Keras's own."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._state: list[tuple[Any, Any]] | None = None

    def begin(self) -> None:
        """Note the metrics' variables, which exist by now."""
        model = self._model
        self._state = None
        if _measures_as_keras_does(model):
            values = [variable.value for variable in model.metrics_variables]
            measured = [value.read_value() for value in values]  # of batches that a callback trained on before
            type(model).reset_metrics(model)
            self._state = [(value.handle, value.read_value()) for value in values]
            for value, number in zip(values, measured, strict=True):
                value.assign(number)

    def reset(self) -> None:
        """Reset the metrics."""
        import tensorflow as tf

        if self._state is None:
            type(self._model).reset_metrics(self._model)
        for handle, value in self._state or ():
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    def results(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics as Keras tells them: its own where a step gave the same names."""
        if self._state is not None:
            return dict(logs)
        measured: dict[str, Any] = self._model.get_metrics_result()
        return measured if measured.keys() == logs.keys() else dict(logs)


def _measures_as_keras_does(model: keras.Model) -> bool:
    """Return whether the values of all metrics are in their variables alone: code of the user's may keep others."""
    import keras

    several = [inner for metric in model.metrics for inner in (metric, *getattr(metric, "metrics", ()))]
    kerass = all(type(metric).__module__.startswith("keras.") for metric in several)
    return kerass and not overrides(type(model), keras.Model, *_OF_METRICS)


def _same_spec(one: Any, other: Any) -> bool:
    import keras

    with suppress(ValueError, TypeError):  # another structure
        keras.tree.assert_same_structure(one, other)
        pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
        return all(mine.dtype == theirs.dtype and theirs.is_compatible_with(mine) for mine, theirs in pairs)
    return False
