"""Training and test functions that TensorFlow traces once and that then serve every like model.

To trace a small model takes longer than to train it. This module traces the first model of an
architecture and gives later ones its graph. Why that is right, step by step:

1. **What a trace is.** `tf.function` calls Keras's `train_step` once on symbolic tensors and records
   the operations: a graph. A `tf.Variable` is no part of it. The graph has an input, `captured`, that
   is a handle to the variable's memory, and operations that read and write through the handle. So
   whatever Python decided (layers, activation, loss, optimizer, rates of dropout) is in the graph, and
   whatever is state (weights, slots of the optimizer, learning rate, metrics, seeds of random layers)
   is behind a handle.
2. **Which models have the same graph.** Python's decisions follow from the configuration, if every
   layer, loss, metric and optimizer is Keras's own and unchanged. `search.graphs.key` tells that configuration with
   the types of the data. Whatever it does not wholly tell (code of the user's own, an instance whose
   methods were replaced, a preprocessing layer that was adapted) has no key and is traced each time.
3. **How the graph is used again.** `_graph` makes the handles inputs like all others, and notes which
   of the model's variables each belongs to, counted in `_variables`, whose order the configuration
   decides too. A captured resource that is none of the model's means that the graph is not kept.
   The next model calls the function with its own handles: the same operations on its own memory.
4. **Sizes.** The number of units, filters and the like is left out of the key, because mostly only
   the variables' shapes depend on it. Mostly: an operation may hold a size as a constant. So nothing is
   assumed. A second size is traced as well, and only if both graphs are equal node for node, once the
   names and shapes noted beside the nodes are taken off and inner functions are numbered alike, do both
   sizes share one (`widened`), and all others do. Constants that are sizes may differ, if three models
   agree on which of their variables' sizes each comes from: see `search.graphs.constants`. A size of
   one is never shared: Keras broadcasts it by other operations.
5. **Numbers.** Rates of dropout, decay and regularisation are left out of the key too, and found again
   as constants of two graphs. Such constants are put into a copy of the graph for each model.
6. **To the last bit.** TensorFlow optimises the graph when it runs, for the shapes it then meets, as
   it does for a model's own trace. Tests compare losses of reused graphs with those of Keras's own.

The simpler way, to keep the first model and copy each later model's state into it and back, serves
equal sizes only: Keras's stateless calls would serve the others, but its TensorFlow optimizers have
none (`stateless_apply` raises). Where each trial has a width of its own it takes half as much
processor time again (`tests/benchmarks/results/graph_reuse.md`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.graphs import constants as graph_constants
from search.graphs import shared
from search.graphs.constants import Constants, Place, Quantities
from search.graphs.key import key_of, layers_of

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_NOTES = (
    "_output_shapes",
    "_handle_shapes",
    "_handle_dtypes",
    "_input_shapes",
    "_gradient_op_type",
    "_user_specified_name",
)
_KEPT = 64  # architectures; the one that was longest not met is given up
_KEPT_FUNCTIONS = 16  # of an architecture, each with other constants
_GRAPHS_FOR_SIZES = 3  # which must agree on where constants that are sizes come from: two may do so by chance


@dataclass(frozen=True)
class CompiledSteps:
    """A model's training and test functions.

    Attributes:
        train: Trains an epoch; takes the order of its rows, the batch size, and the training
            tensors, and returns the metrics by name.
        test: Adds a batch to the metrics, and returns them by name.
        batch: The specification of such a batch.
        reused: Whether they were traced for an earlier model.
    """

    train: Callable[[Any, int, Any], dict[str, Any]]
    test: Callable[[Any], dict[str, Any]]
    batch: Any
    reused: bool


@dataclass(frozen=True)
class _Graph:
    """What tracing a function gave, freed from the model it was traced for.

    Attributes:
        definition: The graph, its inner functions numbered, without any shape of a variable.
        inputs: The names of its inputs: the arguments, then what it captured.
        specs: What the inputs are.
        outputs: The names of its outputs.
        structure: The outputs as the function returned them, each None.
        captured: Each captured input: the index of a model's resource, or a constant tensor.
    """

    definition: tf.compat.v1.GraphDef
    inputs: tuple[str, ...]
    specs: tuple[tf.TensorSpec, ...]
    outputs: tuple[str, ...]
    structure: Any
    captured: tuple[Any, ...]

    def differing(self, other: _Graph) -> list[Place] | None:
        """Return the constants in which the other differs; None when it differs in more, node for node."""
        mine, others = ((graph.inputs, graph.specs, graph.outputs) for graph in (self, other))
        if mine != others or not all(map(_equal, self.captured, other.captured)):
            return None
        return graph_constants.differing(self.definition, other.definition)

    def function(self, constants: Constants, values: Sequence[float]) -> Callable[..., Any]:
        """Return a function of the arguments and of everything captured, with these values as its constants."""
        import tensorflow as tf

        definition = graph_constants.with_values(self.definition, constants, values)
        definition = _renamed(definition, f"search_{next(_numbers)}_")
        # Eager execution, too, must know the inner functions: without this line TensorFlow crashes.
        tf.graph_util.import_graph_def(tf.compat.v1.GraphDef(library=definition.library, versions=definition.versions))

        def run(*arguments: tf.Tensor) -> Any:
            inputs = dict(zip(self.inputs, arguments, strict=True))
            outputs = tf.graph_util.import_graph_def(
                definition, input_map=inputs, return_elements=list(self.outputs), name=""
            )
            return tf.nest.pack_sequence_as(self.structure, outputs)

        function: Callable[..., Any] = tf.function(run, autograph=False).get_concrete_function(*self.specs)
        return function


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, int) or isinstance(other, int):
        return isinstance(one, int) and isinstance(other, int) and one == other
    return np.array_equal(one.numpy(), other.numpy())


@dataclass
class _Architecture:
    """The graphs of an architecture.

    Attributes:
        key: What decides the graphs but for quantities.
        graphs: Those of training and of testing.
        own: The quantities of the model that was traced.
        known: The same; None where models with different ones were seen to have the same graphs but for constants.
        constants: For each graph its constants that come from such quantities, and from which.
        seen: The quantities of the models whose graphs have been compared.
        functions: The graphs as functions, by the values of their constants that came again; the last used last.
        met: The values of all constants so far.
    """

    key: str
    graphs: tuple[_Graph, _Graph]
    own: Quantities
    known: tuple[float | int | None, ...]
    constants: tuple[Constants, Constants] = ({}, {})
    seen: frozenset[Quantities] = frozenset()
    functions: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = field(default_factory=dict)
    met: set[Any] = field(default_factory=set)

    def fits(self, model: Quantities) -> bool:
        """Return whether the graphs are those of a model with these quantities."""
        # A size of one is special: Keras adds, say, a bias of one number otherwise than one of two.
        pairs = zip(self.known, model, strict=True)
        if not all(known == quantity or (known is None and quantity != 1) for known, quantity in pairs):
            return False
        if len(self.seen) < _GRAPHS_FOR_SIZES and model not in self.seen and self._holds_sizes():
            return False
        return all(graph_constants.agree(constants, model) for constants in self.constants)

    def _holds_sizes(self) -> bool:
        sources = itertools.chain(*(each for constants in self.constants for each in constants.values()))
        return any(isinstance(self.own[index], int) for index, _ in sources)

    def functions_for(self, model: Quantities) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the training and the test function of a model that fits."""
        values = tuple(graph_constants.values_of(constants, model) for constants in self.constants)
        found = self.functions.pop(values, None)
        if found is None:
            parts = zip(self.graphs, self.constants, values, strict=True)
            training, testing = (graph.function(constants, these) for graph, constants, these in parts)
            found = training, testing
        if not any(values) or values in self.met:  # rates that a study draws from a range do not come again
            self.functions[values] = found
        self.met.add(values)
        if len(self.functions) > _KEPT_FUNCTIONS:
            del self.functions[next(iter(self.functions))]
        return found

    def widened(self, other: _Architecture) -> _Architecture | None:
        """Return one that fits both; None when their graphs differ in more than constants that quantities tell."""
        if self.key != other.key:
            return None
        training, testing = (self._widened_constants(index, other) for index in range(2))
        if training is None or testing is None:
            return None
        pairs = zip(self.known, other.own, strict=True)
        known = tuple(quantity if quantity == theirs else None for quantity, theirs in pairs)
        return replace(
            self, known=known, constants=(training, testing), seen=self.seen | other.seen, functions={}, met=set()
        )

    def _widened_constants(self, index: int, other: _Architecture) -> Constants | None:
        """Return what a graph's constants come from, with the other's graph considered too."""
        places = self.graphs[index].differing(other.graphs[index])
        if places is None:
            return None
        graphs, known = [each.graphs[index].definition for each in (self, other)], self.constants[index]
        found = {
            place: graph_constants.sources_of(place, graphs, (self.own, other.own), known.get(place))
            for place in dict.fromkeys((*known, *places))
        }
        return found if all(found.values()) else None


_numbers = itertools.count()
_architectures: list[_Architecture] = []  # of this process, which trains one model at a time; the last met last


def compiled_steps(model: keras.Model, tensors: Any, held_out: Any = None) -> CompiledSteps:
    """Return the model's functions: those of an earlier model of its architecture, or traced now.

    Args:
        model: Built and compiled, its optimizer's and metrics' variables created.
        tensors: The training part, (x,), (x, y) or (x, y, sample weights); structure and types matter.
        held_out: The validation part likewise; without one, rows that the test function takes have no weights.
    """
    spec, resources = _spec(tensors), _resources(model)
    batch = spec[:2] if held_out is None else _spec(held_out)
    key, numbers = key_of(model, (spec, batch))
    shapes = [tuple(variable.shape) for variable in _variables(model)]
    key = key and f"{key} {[len(shape) for shape in shapes]}"
    quantities = (*numbers, *itertools.chain(*shapes))
    known = None if key is None else _known(key, quantities)
    if known is None:
        train, test = _trace(model, spec, batch)
        if key is not None:
            training, testing = _graph(train, resources), _graph(test, resources)
            if training is not None and testing is not None:
                traced = _Architecture(key, (training, testing), quantities, quantities, seen=frozenset([quantities]))
                shared.publish(key, traced)
                _remember(traced)
        return _bound(train, test, batch)
    _architectures.remove(known)
    _architectures.append(known)
    train, test = (
        _with_captured(function, [resources[each] if isinstance(each, int) else each for each in graph.captured])
        for function, graph in zip(known.functions_for(quantities), known.graphs, strict=True)
    )
    return replace(_bound(train, test, batch), reused=True)


def _known(key: str, model: Quantities) -> _Architecture | None:
    """Return the graphs of an earlier model, of this process or of another worker; None when none fits."""

    def fitting() -> _Architecture | None:
        return next((each for each in _architectures if each.key == key and each.fits(model)), None)

    found = fitting()
    if found is not None:
        return found
    for each in shared.published(key):
        _remember(each)
    return fitting()


def _remember(found: _Architecture) -> None:
    for each in _architectures:
        widened = each.widened(found)
        if widened is not None:
            _architectures.remove(each)
            found = widened
            break
    _architectures.append(found)
    del _architectures[:-_KEPT]


def _trace(model: keras.Model, spec: Any, batch: Any) -> tuple[Any, Any]:
    """Return the concrete functions that train an epoch and test a batch; they take flat arguments."""
    import keras
    import tensorflow as tf

    train_step, test_step = model.train_step, model.test_step
    if model.jit_compile:  # as Keras does: XLA compiles the step, once for each number of rows that it meets
        train_step, test_step = (
            tf.function(step, jit_compile=True, reduce_retracing=True, autograph=False)
            for step in (train_step, test_step)
        )

    def train(order: tf.Tensor, batch_size: tf.Tensor, *flat: tf.Tensor) -> dict[str, Any]:
        rows = keras.tree.pack_sequence_as(spec, list(flat))
        steps = -(-tf.size(order) // batch_size)

        def train_batch(step: tf.Tensor) -> tuple[tf.Tensor]:
            index = order[step * batch_size : (step + 1) * batch_size]
            train_step(keras.tree.map_structure(lambda tensor: tf.gather(tensor, index), rows))
            return (step + 1,)

        tf.while_loop(lambda step: step < steps, train_batch, (tf.constant(0),), parallel_iterations=1)
        logs: dict[str, Any] = model.get_metrics_result()
        return logs

    def test(*flat: tf.Tensor) -> dict[str, Any]:
        logs: dict[str, Any] = test_step(keras.tree.pack_sequence_as(batch, list(flat)))
        return logs

    order, batch_size = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)
    return (
        tf.function(train, autograph=False).get_concrete_function(order, batch_size, *keras.tree.flatten(spec)),
        tf.function(test, autograph=False).get_concrete_function(*keras.tree.flatten(batch)),
    )


def _bound(train: Callable[..., Any], test: Callable[..., Any], batch: Any) -> CompiledSteps:
    import keras
    import tensorflow as tf

    def train_epoch(order: Any, batch_size: int, tensors: Any) -> dict[str, Any]:
        flat = keras.tree.flatten(tensors)
        logs: dict[str, Any] = train(tf.convert_to_tensor(order, tf.int32), tf.constant(batch_size), *flat)
        return logs

    return CompiledSteps(train_epoch, lambda rows: test(*keras.tree.flatten(rows)), batch, reused=False)


def _with_captured(function: Callable[..., Any], captured: Sequence[Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments, *captured)


def _spec(tensors: Any) -> Any:
    """Return what tensors like these are, with any number of rows."""
    import keras
    import tensorflow as tf

    return keras.tree.map_structure(lambda each: tf.TensorSpec([None, *each.shape[1:]], each.dtype), tensors)


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Return every variable that training reads or writes, in an order that the configuration decides."""
    variables = (*model.variables, *model.metrics_variables, *model.optimizer.variables)
    return list({id(each): each for each in variables}.values())


def _resources(model: keras.Model) -> list[tf.Tensor]:
    """Return the handles of a model's variables, and of the tables by which it looks texts up."""
    tables = [layer.lookup_table.resource_handle for layer in layers_of(model) if hasattr(layer, "lookup_table")]
    return [*(variable.value.handle for variable in _variables(model)), *tables]


def _graph(function: Any, resources: Sequence[tf.Tensor]) -> _Graph | None:
    """Return a traced function's graph; None when it captured a resource that is not among the model's."""
    import tensorflow as tf

    known = {id(handle): index for index, handle in enumerate(resources)}
    captured = tuple(known.get(id(each), each) for each in function.captured_inputs)
    if any(not isinstance(each, int) and each.dtype == tf.resource for each in captured):
        return None
    definition = function.graph.as_graph_def()
    for nodes in (definition.node, *(inner.node_def for inner in definition.library.function)):
        for node in nodes:
            _forget_notes(node.attr)
    for inner in definition.library.function:
        _forget_notes(inner.attr)
        for argument in inner.arg_attr.values():
            _forget_notes(argument.attr)
    inputs = function.graph.inputs
    _number_inputs(definition, [each.op.name for each in inputs])
    return _Graph(
        _renamed(definition, ""),
        tuple(f"input_{index}:0" for index in range(len(inputs))),
        tuple(tf.TensorSpec(each.shape, each.dtype) for each in inputs),
        tuple(each.name for each in function.graph.outputs),
        tf.nest.map_structure(lambda _: None, function.structured_outputs),
        captured,
    )


def _number_inputs(definition: tf.compat.v1.GraphDef, inputs: Sequence[str]) -> None:
    """Number the inputs of a graph, whose names may hold numbers of its trace."""
    names = {name: f"input_{index}" for index, name in enumerate(inputs)}
    for node in definition.node:
        node.name = names.get(node.name, node.name)
        split = [each.partition(":") for each in node.input]
        node.input[:] = [names.get(name, name) + colon + output for name, colon, output in split]


def _forget_notes(attributes: Any) -> None:
    for name in _NOTES:
        attributes.pop(name, None)


def _renamed(definition: tf.compat.v1.GraphDef, prefix: str) -> tf.compat.v1.GraphDef:
    """Return a graph whose inner functions are numbered in the order in which they are met."""
    import tensorflow as tf

    renamed = tf.compat.v1.GraphDef()
    renamed.CopyFrom(definition)
    inner = {each.signature.name: each for each in renamed.library.function}
    names: dict[str, str] = {}

    def meet(nodes: Any) -> None:
        for node in nodes:
            for attribute in sorted(node.attr):
                value = node.attr[attribute]
                for called in (*([value.func] if value.HasField("func") else []), *value.list.func):
                    if called.name in inner:
                        if called.name not in names:
                            names[called.name] = f"{prefix}{len(names)}"
                            meet(inner[called.name].node_def)
                        called.name = names[called.name]

    meet(renamed.node)
    functions = [inner[name] for name in names]
    for function, name in zip(functions, names.values(), strict=True):
        function.signature.name = name
        _number_arguments(function)
    del renamed.library.function[:]
    renamed.library.function.extend(functions)
    return renamed


def _number_arguments(function: Any) -> None:
    """Number the arguments and the results of an inner function, whose names may hold numbers of its trace."""
    names = {each.name: f"argument_{index}" for index, each in enumerate(function.signature.input_arg)}
    for argument in function.signature.input_arg:
        argument.name = names[argument.name]
    for node in function.node_def:
        node.input[:] = [names.get(each, each) for each in node.input]
    sources = [
        names.get(source, source) for source in (function.ret[each.name] for each in function.signature.output_arg)
    ]
    function.ret.clear()
    for index, (result, source) in enumerate(zip(function.signature.output_arg, sources, strict=True)):
        result.name = f"result_{index}"
        function.ret[result.name] = source
