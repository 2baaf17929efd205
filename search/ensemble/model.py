"""One Keras model that averages several: it takes what they take, and its outputs mean what theirs mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def average(
    members: Mapping[str, keras.Model],
    counts: Sequence[int],
    logits: Mapping[str, str],
    example: Any,
    compiled: keras.Model,
) -> keras.Model:
    """Return the mean of several models as one model.

    Probabilities and numbers are averaged as they are. Logits are averaged as probabilities, and the mean is given as
    logits again, so that the loss, the metrics and whoever reads the outputs keep their meaning.

    Args:
        members: Models by the name they get inside; their inputs and outputs are alike. They are no longer compiled.
        counts: How often each counts.
        logits: The activation (`sigmoid` or `softmax`) behind each output that gives logits, empty for others: by its
            key where the outputs are a dictionary, else in their order, whatever Keras calls them.
        example: A few rows as the models take them, for models that do not say what they take.
        compiled: A model that is compiled as the mean is to be.
    """
    import keras

    first = next(iter(members.values()))
    inputs = _inputs(first, example)
    given = []
    for (name, member), count in zip(members.items(), counts, strict=True):
        member.name = name
        member.trainable = False
        given += [member(inputs)] * count
    flat = [keras.tree.flatten(outputs) for outputs in given]
    names = output_names(first, len(flat[0]))
    keys = sorted(given[0]) if isinstance(given[0], Mapping) else list(logits)  # as Keras flattens a dictionary
    behind = dict(enumerate(logits.get(key, "") for key in keys))
    means = [_mean([outputs[at] for outputs in flat], behind.get(at, ""), name) for at, name in enumerate(names)]
    averaged = keras.Model(inputs, keras.tree.pack_sequence_as(given[0], means))
    try:
        averaged.compile_from_config(compiled.get_compile_config())
    except Exception:  # of the user's own: Keras cannot make it again
        averaged.compile(loss=getattr(compiled, "loss", None))
    for member in members.values():  # else its optimizer is saved, and loading warns of it
        member.compiled, member.optimizer = False, None
    return averaged


def alike(one: keras.Model, other: keras.Model) -> bool:
    """Return whether two models take the same inputs and give the same outputs, by structure, shape and type."""
    return bool(_tensors(one) == _tensors(other))


def _tensors(model: keras.Model) -> Any:
    import keras

    try:
        both = (model.input, model.output)
    except (AttributeError, ValueError):  # a model of the user's own class, which does not say
        return type(model).__name__
    return keras.tree.map_structure(lambda tensor: f"{tensor.shape[1:]} {tensor.dtype}", both)


def output_names(model: keras.Model, count: int) -> list[str]:
    """Return a name for each output of a model: Keras's names if they are unique."""
    names = list(getattr(model, "output_names", None) or ())
    return names if len(set(names)) == count else [f"output_{index}" for index in range(count)]


def _inputs(model: keras.Model, example: Any) -> Any:
    """Return new Keras inputs in the structure that a model takes."""
    import keras

    def like(tensor: Any) -> Any:
        return keras.Input(batch_shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name)

    with suppress(AttributeError, ValueError):
        return keras.tree.map_structure(like, model.input)
    return keras.tree.map_structure(lambda array: keras.Input(array.shape[1:], dtype=str(array.dtype)), example)


def _mean(tensors: Sequence[Any], activation: str, name: str) -> Any:
    """Return the mean of one output, by operations of Keras's own, so that it loads without this package.

    Logits are averaged in logarithms: a probability near 0 or 1 loses nothing.
    """
    import keras
    from keras import ops

    if not activation:
        return keras.layers.Average(name=name, dtype="float32")(tensors)

    def log_mean(logarithms: Any) -> Any:
        return ops.logsumexp(logarithms, axis=-1) - math.log(len(tensors))

    stacked = ops.stack([ops.cast(tensor, "float32") for tensor in tensors], axis=-1)
    if activation == "sigmoid":
        mean = log_mean(ops.log_sigmoid(stacked)) - log_mean(ops.log_sigmoid(-stacked))
    else:
        mean = log_mean(ops.log_softmax(stacked, axis=-2))
    return keras.layers.Identity(name=name, dtype="float32")(mean)
