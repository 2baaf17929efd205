"""Passes over rows as one graph call: traced for each model, or once for all built-in models that have the same graph.

A pass runs Keras's own `train_step` or `test_step` on every batch of an order of rows. Python's decisions (layers,
losses, rates of dropout) are in its graph; weights, the optimizer's variables and metrics are reached by handles.

Tracing a small model takes longer than training it. The graph of a step of the built-in `mlp` is therefore kept and
called with the handles of later models. This is limited to models that this package makes as a whole: Keras's own
layers, which nobody changed and whose constructors' arguments tell all that decides the graph. A graph's key leaves out
the sizes of hidden layers: the graph does not depend on them once the shapes beside its nodes are taken off. It leaves
out the share of dropout and the weight decay too, which stand in the graph as constants. `tests/test_graphs.py`
compares these graphs node for node.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Pass = Callable[[Any, int, Any], dict[str, Any]]  # an order of rows, the rows of a batch, the tensors -> the metrics
_NOTES = (
    "_output_shapes",
    "_handle_shapes",
    "_handle_dtypes",
    "_input_shapes",
    "_gradient_op_type",
    "_user_specified_name",
)
_RATE, _DECAY = "rate", "weight_decay"
_MARKS = {_RATE: 0.34567891, _DECAY: 0.00012345679}  # what they are while a graph is traced
_BY_SHAPE = ("Muon",)  # optimizers whose graphs depend on the shapes of the weights
_KEPT, _KEPT_PASSES = 64, 8  # graphs, and passes made of them; the one that was longest not used is given up


@dataclass(frozen=True)
class _Graph:
    """A traced graph without references to the model it was traced for.

    Attributes:
        definition: The graph, without inner functions and without any shape of a variable.
        inputs: The names of its inputs: the arguments, then what it captured.
        outputs: The names of its outputs.
        structure: The outputs as the function returned them, each None.
        captured: Each captured input: the index of a model's resource, or a constant tensor.
    """

    definition: tf.compat.v1.GraphDef
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    structure: Any
    captured: tuple[Any, ...]

    def call(self, arguments: list[tf.Tensor], resources: tuple[tf.Tensor, ...]) -> Any:
        """Add the graph to the one that is being traced, and return its outputs."""
        import tensorflow as tf

        # The loop over batches has a graph of its own, which must be told of what comes from outside.
        capture = tf.compat.v1.get_default_graph().capture
        captured = [capture(resources[source] if isinstance(source, int) else source) for source in self.captured]
        inputs = dict(zip(self.inputs, [*arguments, *captured], strict=True))
        outputs = tf.graph_util.import_graph_def(self.definition, inputs, list(self.outputs), name="")
        return tf.nest.pack_sequence_as(self.structure, outputs)


_Graphs = tuple[_Graph, _Graph]  # of a step, and of the metrics' results
_graphs: OrderedDict[str, _Graphs | None] = OrderedDict()  # None: cannot be used for another model
_passes: OrderedDict[Any, Callable[..., Any]] = OrderedDict()


def pass_of(model: keras.Model, step: str, tensors: Any, *, shared: bool, until_nan: bool = False) -> tuple[Pass, bool]:
    """Return a model's pass over rows, and whether its graph was traced for an earlier model.

    Args:
        model: Compiled, its optimizer's and metrics' variables created.
        step: `train_step` or `test_step`.
        tensors: Rows like those that the pass is given: (x,), (x, y) or (x, y, weights of the rows).
        shared: Whether the whole model is made by this package, and unchanged.
        until_nan: Whether the pass ends with the batch after which the loss is no finite number.
    """
    spec = spec_of(tensors)
    if shared:
        key = f"{step} {spec} {_key(model, step)}"
        reused = _recall(_graphs, key) is not None
        if key not in _graphs:
            _keep(_graphs, key, _traced(model, step, spec), _KEPT)
        graphs = _graphs[key]
        if graphs is not None:
            numbers, resources = _numbers(model, step), tuple(_resources(model, step))
            made = _recall(_passes, (key, until_nan, *numbers.items()))
            if made is None:
                made = _pass_of_graphs(model, graphs, spec, numbers, resources, until_nan=until_nan)
                _keep(_passes, (key, until_nan, *numbers.items()), made, _KEPT_PASSES)
            return _bound(made, resources), reused
    eagerly = model.run_eagerly  # set by a callback; a model that is compiled so takes Keras's own way
    one_step = getattr(model, step) if eagerly else _compiled(model, getattr(model, step))
    run = _over_batches(lambda rows, _: one_step(rows), lambda _: model.get_metrics_result(), spec, until_nan=until_nan)
    return _bound(run if eagerly else _concrete(run, spec), ()), False


def spec_of(tensors: Any) -> Any:
    """Return the specs of these tensors for any number of rows."""
    import keras
    import tensorflow as tf

    return keras.tree.map_structure(lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), tensors)


def _over_batches(
    step: Callable[..., Any], results: Callable[..., Any], spec: Any, *, until_nan: bool
) -> Callable[..., Any]:
    """Return a function that runs a step on batches of rows in an order, and returns the metrics."""
    import keras
    import tensorflow as tf

    width = len(keras.tree.flatten(spec))

    def run(order: tf.Tensor, batch_size: tf.Tensor, *given: tf.Tensor) -> Any:
        rows, resources = keras.tree.pack_sequence_as(spec, list(given[:width])), given[width:]
        steps = -(-tf.size(order) // batch_size)

        def one(index: tf.Tensor, finite: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            taken = order[index * batch_size : (index + 1) * batch_size]
            logs = step(keras.tree.map_structure(lambda tensor: tf.gather(tensor, taken), rows), resources)
            return index + 1, tf.reshape(tf.math.is_finite(logs["loss"]), []) if until_nan else finite

        begin = tf.constant(0), tf.constant(True)
        tf.while_loop(lambda index, finite: (index < steps) & finite, one, begin, parallel_iterations=1)
        return results(resources)

    return run


def _bound(made: Callable[..., Any], resources: tuple[tf.Tensor, ...]) -> Pass:
    import keras
    import tensorflow as tf

    def run(order: Any, batch_size: int, tensors: Any) -> dict[str, Any]:
        flat = keras.tree.flatten(tensors)
        logs: dict[str, Any] = made(tf.convert_to_tensor(order, tf.int32), tf.constant(batch_size), *flat, *resources)
        return logs

    return run


def _recall(kept: OrderedDict[Any, Any], key: Any) -> Any:
    if key in kept:
        kept.move_to_end(key)
    return kept.get(key)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def _key(model: keras.Model, step: str) -> str:
    """Return all that decides the graphs of a step of a built-in model; no optimizer tests it."""
    import keras

    kinds = {type(layer).__name__ for layer in model.layers}
    by_shape = "BatchNormalization" in kinds or type(model.optimizer).__name__ in _BY_SHAPE

    def told(config: Any) -> Any:
        if isinstance(config, list | tuple):
            return [told(inner) for inner in config]
        if not isinstance(config, dict):
            return config
        rest = {name: told(inner) for name, inner in config.items() if name not in ("build_config", "shape")}
        if config.get("class_name") == "Dense" and not by_shape:
            rest["config"]["units"] = min(rest["config"]["units"], 2)  # Keras adds a bias of one number otherwise
        if config.get("class_name") == "Dropout" and 0 < rest["config"][_RATE] < 1:
            rest["config"][_RATE] = "open"
        return rest

    optimizer = {name: value for name, value in model.optimizer.get_config().items() if name != "learning_rate"}
    optimizer[_DECAY] = None if optimizer.get(_DECAY) is None else "open"
    trained = [type(model.optimizer).__name__, optimizer] if step == "train_step" else []
    compiled = {**model.get_compile_config(), "optimizer": trained}
    settings = (keras.config.epsilon(), keras.config.floatx(), keras.config.image_data_format())
    return json.dumps([told(model.get_config()), told(compiled), model.output_shape, settings], sort_keys=True)


def _owners(model: keras.Model) -> Iterator[tuple[Any, str]]:
    """Yield each layer or optimizer whose setting is a constant in the graph, and the setting's name."""
    for layer in model.layers:
        if type(layer).__name__ == "Dropout" and 0 < layer.rate < 1:
            yield layer, _RATE
    if model.optimizer.weight_decay is not None:
        yield model.optimizer, _DECAY


def _numbers(model: keras.Model, step: str) -> dict[str, float]:
    """Return those settings by name; a test has none of them."""
    return {name: getattr(owner, name) for owner, name in _owners(model)} if step == "train_step" else {}


@contextmanager
def _marked(model: keras.Model) -> Iterator[None]:
    """Replace those settings of a model by marks while the block runs."""
    before = [(owner, name, getattr(owner, name)) for owner, name in _owners(model)]
    for owner, name, _ in before:
        setattr(owner, name, _MARKS[name])
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _traced(model: keras.Model, step: str, spec: Any) -> _Graphs | None:
    """Return the graphs of a step and of the metrics' results; None when later models cannot use them."""
    import keras

    def one_step(*flat: tf.Tensor) -> Any:
        return getattr(model, step)(keras.tree.pack_sequence_as(spec, list(flat)))

    resources = _resources(model, step)
    with _marked(model):
        graphs = _graph(one_step, keras.tree.flatten(spec), resources), _graph(model.get_metrics_result, [], resources)
    return None if graphs[0] is None or graphs[1] is None else (graphs[0], graphs[1])


def _graph(function: Callable[..., Any], spec: list[Any], resources: list[tf.Tensor]) -> _Graph | None:
    """Trace a function; None when it captured a resource that is not among the model's, or calls inner functions."""
    import tensorflow as tf

    traced = tf.function(function, autograph=False).get_concrete_function(*spec)
    known = {id(handle): index for index, handle in enumerate(resources)}
    captured = tuple(known.get(id(captured_input), captured_input) for captured_input in traced.captured_inputs)
    definition = traced.graph.as_graph_def()
    unknown = any(not isinstance(source, int) and source.dtype == tf.resource for source in captured)
    if unknown or definition.library.function:
        return None
    steps = [node for node in definition.node if node.op != "Placeholder"]  # XLA knows no inputs that nothing reads
    for node in steps:
        for name in _NOTES:
            node.attr.pop(name, None)
    del definition.node[:]
    definition.node.extend(steps)
    return _Graph(
        definition,
        tuple(tensor.name for tensor in traced.graph.inputs),
        tuple(output.name for output in traced.graph.outputs),
        tf.nest.map_structure(lambda _: None, traced.structured_outputs),
        captured,
    )


def _resources(model: keras.Model, step: str) -> list[tf.Tensor]:
    """Return the handles of the variables of a model's step, and of the tables by which it looks texts up."""
    trained = model.optimizer.variables if step == "train_step" else ()
    variables = (*model.variables, *model.metrics_variables, *trained)
    tables = [layer.lookup_table.resource_handle for layer in model.layers if hasattr(layer, "lookup_table")]
    unique = {id(variable): variable for variable in variables}.values()
    return [*(variable.value.handle for variable in unique), *tables]


def _pass_of_graphs(
    model: keras.Model,
    graphs: _Graphs,
    spec: Any,
    numbers: Mapping[str, float],
    resources: Sequence[tf.Tensor],
    *,
    until_nan: bool,
) -> Callable[..., Any]:
    """Return a pass that takes the resources of a model like this one."""
    import keras
    import tensorflow as tf

    step, results = _with_numbers(graphs[0], numbers), graphs[1]
    one_step = _compiled(model, lambda rows, resources: step.call(keras.tree.flatten(rows), resources))
    run = _over_batches(one_step, lambda resources: results.call([], resources), spec, until_nan=until_nan)
    return _concrete(run, spec, [tf.TensorSpec([], resource.dtype) for resource in resources])


def _compiled(model: keras.Model, step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step as a function of its own, as Keras runs it; in the loop itself TensorFlow sums in other orders."""
    import tensorflow as tf

    compiled: Callable[..., Any] = tf.function(
        step, jit_compile=model.jit_compile or None, reduce_retracing=True, autograph=False
    )
    return compiled


def _concrete(run: Callable[..., Any], spec: Any, handles: Sequence[tf.TensorSpec] = ()) -> Callable[..., Any]:
    import keras
    import tensorflow as tf

    arguments = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32), *keras.tree.flatten(spec), *handles)
    made: Any = tf.function(run, autograph=False).get_concrete_function(*arguments)
    # Its public call checks the kind of each argument: 1 ms for 45 handles.
    return lambda *flat: made._call_flat(list(flat), made.captured_inputs)  # noqa: SLF001 - no public way


def _with_numbers(graph: _Graph, numbers: Mapping[str, float]) -> _Graph:
    """Return a copy of a graph in which marks are replaced by numbers."""
    import tensorflow as tf

    def constants(values: Mapping[str, float]) -> list[float]:
        return [
            made for name, value in values.items() for made in ((value, 1 / (1 - value)) if name == _RATE else (value,))
        ]

    marks, values = (constants(numbered) for numbered in ({name: _MARKS[name] for name in numbers}, numbers))
    changed = tf.compat.v1.GraphDef()
    changed.CopyFrom(graph.definition)
    for node in changed.node:
        tensor = node.attr["value"].tensor if node.op == "Const" else None
        if tensor is None or tensor.tensor_shape.dim or not tf.as_dtype(tensor.dtype).is_floating:
            continue
        held = tf.make_ndarray(tensor)
        for mark, value in zip(marks, values, strict=True):
            if held == np.asarray(mark, held.dtype):
                tensor.CopyFrom(tf.make_tensor_proto(value, tensor.dtype, []))
    return _Graph(changed, graph.inputs, graph.outputs, graph.structure, graph.captured)
