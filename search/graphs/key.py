"""What decides a model's graph: its configuration, but for sizes and numbers that are left open."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

_RECURRENT, _CONVOLVED = ("LSTM", "GRU", "SimpleRNN"), ("Conv1D", "Conv2D", "Conv3D")
_SIZES = {  # left open, by class: the shapes of the model's variables tell them
    "Dense": ("units",),
    **dict.fromkeys((*_CONVOLVED, "SeparableConv1D", "SeparableConv2D"), ("filters", "kernel_size")),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), ("kernel_size",)),
    **dict.fromkeys(_RECURRENT, ("units",)),
    "Embedding": ("output_dim",),
    "MultiHeadAttention": ("key_dim", "value_dim"),
    "__keras_tensor__": ("shape",),
}
_NUMBERS = {  # left open, by class; weight decay is every optimizer's
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), ("rate",)),
    **dict.fromkeys(_RECURRENT, ("dropout", "recurrent_dropout")),
    "MultiHeadAttention": ("dropout",),
    "L1": ("l1",),
    "L2": ("l2",),
    "L1L2": ("l1", "l2"),
}
_DECAY = "weight_decay"
_ADAPTED_KEYS = {  # what a preprocessing layer has in its configuration when it was not adapted
    "Normalization": "mean",
    "Discretization": "bin_boundaries",
    **dict.fromkeys(("IntegerLookup", "StringLookup", "TextVectorization"), "vocabulary"),
}
_WRAPPED = {"build", "quantize"}  # methods that Keras itself replaces in each layer
_NOT_IN_CONFIG = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")  # settings no configuration tells

Numbers = tuple[float, ...]


def key_of(model: keras.Model, spec: Any) -> tuple[str | None, Numbers]:
    """Return what decides the model's graph but for sizes and numbers, and its numbers; None where not all is known.

    Args:
        model: Built and compiled.
        spec: What its training and its held-out tensors are.
    """
    if not all(map(_recognised, (model, model.optimizer, *layers_of(model)))):
        return None, ()
    configuration = [type(model).__name__, model.get_config(), model.get_compile_config()]
    if not _fully_described(configuration):
        return None, ()
    numbers: list[float] = []
    with suppress(TypeError):  # something that JSON does not know
        return json.dumps([_without_open(configuration, numbers), str(spec)], sort_keys=True), tuple(numbers)
    return None, ()


def _recognised(part: Any) -> bool:
    """Return whether a model, layer or optimizer is Keras's own, without changes of the user's."""
    kind = type(part)
    replaced = {name for name, value in vars(part).items() if callable(value) and callable(getattr(kind, name, None))}
    untold = any(getattr(part, name, None) for name in _NOT_IN_CONFIG)
    return kind.__module__.startswith("keras.") and not replaced - _WRAPPED and not untold


def _fully_described(configuration: Any) -> bool:
    """Return whether every object in a configuration is Keras's own and wholly described by it."""
    if isinstance(configuration, dict):
        kind, config = configuration.get("class_name"), configuration.get("config")
        module = str(configuration.get("module", "keras"))
        if kind == "__lambda__" or module.partition(".")[0] != "keras":
            return False
        state = _ADAPTED_KEYS.get(str(kind))
        if state and isinstance(config, dict) and config.get(state) is None:  # it was adapted
            return False
        return all(map(_fully_described, configuration.values()))
    if isinstance(configuration, list | tuple):
        return all(map(_fully_described, configuration))
    return not callable(configuration)


def _without_open(configuration: Any, numbers: list[float]) -> Any:
    """Return a configuration without what is left open: sizes, a plain learning rate, and numbers, which it notes."""
    if isinstance(configuration, dict):
        kind = str(configuration.get("class_name"))
        rest = {
            name: _without_open(value, numbers)
            for name, value in configuration.items()
            if name != "build_config" and not (name == "learning_rate" and isinstance(value, float))
        }
        if isinstance(rest.get("config"), dict):
            rest["config"] = {n: value for n, value in rest["config"].items() if n not in _SIZES.get(kind, ())}
            for name, value in rest["config"].items():
                if (name == _DECAY or name in _NUMBERS.get(kind, ())) and _is_open(value):
                    numbers.append(value)
                    rest["config"][name] = "open"
        return rest
    if isinstance(configuration, list | tuple):
        return [_without_open(each, numbers) for each in configuration]
    return configuration


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield every layer of a model, those of models inside it too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from layers_of(layer)


def _is_open(value: Any) -> bool:
    """Return whether a number may be left open: with 0 and 1 Keras builds other graphs."""
    return isinstance(value, float) and value not in (0.0, 1.0) and math.isfinite(value)
