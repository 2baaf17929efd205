"""What a traced graph holds of its model's numbers and sizes: constants that another model has otherwise.

Keras computes in Python while it is traced. So a graph has the rate 0.2 of a dropout as 0.2 and as
1 / (1 - 0.2) in its nodes, and the filters of a convolution in the shapes to which it reshapes. Two
models that differ in such quantities alone have the same graph but for some constants. Which constant
comes from which quantity is not assumed but read off the graphs: from those that are right in each,
with the quantities of its own model. A further model gets a copy of the graph with its own
quantities put there, which is the graph that tracing it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import NDArray

_LONGEST = 8  # elements of a constant that may be a shape
_SHAPES = "output_shapes"  # of a loop's state
_FUNCTIONS: tuple[Callable[[Any], Any], ...] = (  # of numbers or arrays
    lambda value: value,
    lambda value: 1 - value,
    lambda value: 1 / (1 - value),
    lambda value: 1 / value**0.5,
    lambda value: 2 * value,
    lambda value: 3 * value,
    lambda value: 4 * value,
    lambda value: value / 2,
)

Quantities = tuple[float | int, ...]  # of a model: numbers of its configuration, then the sizes of its variables
Place = tuple[int, int, int]  # inner function, or -1 for the graph itself; node; element
Sources = tuple[tuple[int, int], ...]  # quantities, each with one of `_FUNCTIONS`
Constants = Mapping[Place, Sources]


def differing(one: tf.compat.v1.GraphDef, other: tf.compat.v1.GraphDef) -> list[Place] | None:
    """Return where two graphs hold different constants; None when they differ in more."""
    import tensorflow as tf

    if one == other:
        return []
    alike = tf.compat.v1.GraphDef()
    alike.CopyFrom(other)
    places: list[Place] = []
    for (function, position), node in _nodes(alike):
        mine = _node(one, function, position)
        if mine is None or mine == node:
            continue
        ours, theirs = _elements(mine), _elements(node)
        if ours is None or theirs is None or ours.dtype != theirs.dtype or len(ours) != len(theirs):
            return None
        places += [(function, position, int(index)) for index in np.flatnonzero(ours != theirs)]
        _put(node, ours)
    return places if one == alike else None


def sources_of(
    place: Place, graphs: Sequence[tf.compat.v1.GraphDef], models: Sequence[Quantities], known: Sources | None
) -> Sources:
    """Return what the constant at a place may come from: what is right in each graph with the quantities of its model.

    Args:
        place: The constant's.
        graphs: Graphs that differ in constants alone.
        models: The quantities of each graph's model.
        known: What it may come from by other graphs; None when that is not known.
    """
    right = np.ones((len(_FUNCTIONS), len(models[0])), bool)
    for graph, model in zip(graphs, models, strict=True):
        value = _elements(_node(graph, *place[:2]))[place[2]]
        table = _table(model)
        with np.errstate(over="ignore"):  # a size may be too large for half precision
            right &= (table if np.issubdtype(value.dtype, np.integer) else table.astype(value.dtype)) == value
    tried = np.argwhere(right.T).tolist() if known is None else known
    return tuple((index, function) for index, function in tried if right[function, index])


def agree(constants: Constants, model: Quantities) -> bool:
    """Return whether all that each constant may come from gives the same value for a model."""
    table = _table(model)
    return all(len({table[function, index] for index, function in sources}) == 1 for sources in constants.values())


def values_of(constants: Constants, model: Quantities) -> tuple[float, ...]:
    """Return what a graph's constants are for a model."""
    table = _table(model)
    return tuple(float(table[function, index]) for index, function in (each[0] for each in constants.values()))


def with_values(graph: tf.compat.v1.GraphDef, constants: Constants, values: Sequence[float]) -> tf.compat.v1.GraphDef:
    """Return a copy of a graph that holds these values as its constants."""
    import tensorflow as tf

    changed = tf.compat.v1.GraphDef()
    changed.CopyFrom(graph)
    for (function, position, element), value in zip(constants, values, strict=True):
        node = _node(changed, function, position)
        elements = _elements(node)
        elements[element] = value
        _put(node, elements)
    return changed


def _table(model: Quantities) -> NDArray[np.float64]:
    """Return what each function gives of each quantity."""
    quantities = np.asarray(model, "float64")
    with np.errstate(all="ignore"):
        return np.array([function(quantities) for function in _FUNCTIONS]).reshape(len(_FUNCTIONS), -1)


def _nodes(graph: tf.compat.v1.GraphDef) -> Iterator[tuple[tuple[int, int], Any]]:
    inner = ((index, function.node_def) for index, function in enumerate(graph.library.function))
    for index, nodes in ((-1, graph.node), *inner):
        for position, node in enumerate(nodes):
            yield (index, position), node


def _node(graph: tf.compat.v1.GraphDef, function: int, position: int) -> Any:
    """Return the node at this position of an inner function, or of the graph for -1; None when there is none."""
    if function >= len(graph.library.function):
        return None
    nodes = graph.node if function < 0 else graph.library.function[function].node_def
    return nodes[position] if position < len(nodes) else None


def _elements(node: Any) -> Any:
    """Return what may differ in a node: a constant's elements, or a loop's sizes; None when nothing may."""
    import tensorflow as tf

    if node.op == "Const":
        array = tf.make_ndarray(node.attr["value"].tensor)
        few = array.size <= _LONGEST if np.issubdtype(array.dtype, np.integer) else array.ndim == 0
        return array.reshape(-1).copy() if few and np.issubdtype(array.dtype, np.number) else None
    if node.op in ("While", "StatelessWhile"):
        return np.array([dim.size for shape in node.attr[_SHAPES].list.shape for dim in shape.dim], "int64")
    return None


def _put(node: Any, elements: Any) -> None:
    """Put other elements into a node."""
    import tensorflow as tf

    if node.op == "Const":
        tensor = node.attr["value"].tensor
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        tensor.CopyFrom(tf.make_tensor_proto(elements.reshape(shape), shape=shape))
        return
    sizes = iter(elements.tolist())
    for shape in node.attr[_SHAPES].list.shape:
        for dim in shape.dim:
            dim.size = next(sizes)
