"""What a model's outputs mean: `decide` says it once, when the model is logged, and it is kept with the model.

Whoever needs scores, probabilities, classes or labels asks a `Meaning`. Only `decide` needs Keras.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Kind = Literal["logits", "probabilities", "signs", "scores", "numbers", "unknown"]

# What the last operation of an output makes of it, and whether it judges each class by itself.
_OPERATIONS: dict[str, tuple[Kind, bool]] = {
    "Sigmoid": ("probabilities", True),
    "HardSigmoid": ("probabilities", True),
    "Softmax": ("probabilities", False),
    "LogSoftmax": ("logits", False),
    "Tanh": ("signs", True),
    "HardTanh": ("signs", True),
    "SoftSign": ("signs", True),
}
# Operations whose result means what all their inputs mean.
_KEEPING = {"Average", "Concatenate", "Stack", "Reshape", "Flatten", "Squeeze", "ExpandDims", "Cast", "Transpose"}
# What a loss, in lower case, takes an output for (probabilities unless `from_logits`), and whether class by class.
_LOSSES: dict[str, tuple[Kind, bool]] = {
    "binarycrossentropy": ("probabilities", True),
    "binaryfocalcrossentropy": ("probabilities", True),
    "categoricalcrossentropy": ("probabilities", False),
    "sparsecategoricalcrossentropy": ("probabilities", False),
    "categoricalfocalcrossentropy": ("probabilities", False),
    "categoricalgeneralizedcrossentropy": ("probabilities", False),
    "kldivergence": ("probabilities", False),
    "dice": ("probabilities", True),
    "tversky": ("probabilities", True),
    "hinge": ("signs", True),
    "squaredhinge": ("signs", True),
    "categoricalhinge": ("scores", False),
    "meansquarederror": ("numbers", True),
}
_TOLD = {
    "signs": "scores around 0, no probabilities",
    "scores": "scores, no probabilities",
    "numbers": "numbers, no classes",
    "unknown": "of unknown meaning: neither the loss nor the last operation tells whether they are probabilities",
}


@dataclass(frozen=True)
class Meaning:
    """What one output of a model means.

    Attributes:
        kind: `logits`; `probabilities`; `signs` (scores around 0 of two classes, as hinge makes them); `scores` (the
            highest is the class's); `numbers`, or `unknown`.
        task: `binary`, `multiclass`, `multilabel`, or another one without classes.
        classes: The label of each class.
        independent: Whether each logit is of a class by itself, so that probabilities do not sum to 1.
        name: The output's name; None for the only one.
    """

    kind: Kind
    task: str = ""
    classes: tuple[Any, ...] = ()
    independent: bool = False
    name: str | None = None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Meaning:
        """Return the meaning that was kept as JSON."""
        return cls(**{**kept, "classes": tuple(kept["classes"])})

    @property
    def has_classes(self) -> bool:
        """Whether an output tells a class."""
        return self.kind not in ("numbers", "unknown")

    @property
    def has_probabilities(self) -> bool:
        """Whether an output tells the probability of each class."""
        return self.kind in ("logits", "probabilities")

    def scores(self, output: Any) -> Any:
        """Return probabilities where they are known, in the output's own shape; else the outputs as they are."""
        output = np.asarray(output)
        if self.kind == "probabilities":
            return np.clip(output, 0, 1)
        if self.kind != "logits":
            return output
        if self.independent or not self._wide(output):
            return (1 + np.tanh(output / 2)) / 2
        powers = np.exp(output - output.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def probabilities(self, output: Any) -> Any:
        """Return the probability of each class along a last axis.

        Raises:
            ValueError: The output has none.
        """
        if not self.has_probabilities:
            raise ValueError(f"the model's outputs{self._named} are {_TOLD[self.kind]}")
        positive = self.scores(output)
        if self.task != "binary" or self._wide(positive):
            return positive
        positive = positive if positive.ndim > 1 else positive[:, None]
        return np.concatenate([1 - positive, positive], axis=-1)

    def indices(self, output: Any, threshold: float | None = None) -> Any:
        """Return the index of each row's class; of several labels 0 or 1 for each.

        Args:
            output: What the model gives.
            threshold: The probability, or where there is none the score, above which a row is of class 1.

        Raises:
            ValueError: The output tells no class.
        """
        output = np.asarray(output)
        if not self.has_classes and (self.kind == "numbers" or threshold is None):
            raise ValueError(f"the model's outputs{self._named} are {_TOLD[self.kind]}")
        wide = self._wide(output)
        if wide and self.task == "binary" and threshold is not None:
            return (self.scores(output)[..., 1] > threshold).astype("int64")
        if wide and self.task != "multilabel":
            return output.argmax(axis=-1)
        above = output > self._cut(threshold)
        single = self.task == "binary" and output.ndim > 1 and output.shape[-1] == 1
        return (above[..., 0] if single else above).astype("int64")

    def _cut(self, threshold: float | None) -> float:
        """Return what an output is above where its class is 1."""
        if self.kind == "logits":
            with np.errstate(divide="ignore"):
                return 0.0 if threshold is None else float(np.log(threshold) - np.log1p(-threshold))
        return (0.0 if self.kind == "signs" else 0.5) if threshold is None else threshold

    def labels(self, output: Any) -> Any:
        """Return the label of each row's class; of several labels 0 or 1 for each.

        Raises:
            ValueError: The output tells no class.
        """
        index = self.indices(output)
        return index if self.task == "multilabel" else np.asarray(self.classes)[index]

    def target_indices(self, y: Any, output: Any) -> Any:
        """Return targets as `indices` returns outputs: one-hot, −1 and 1, and shape (rows, 1) are understood."""
        y, output = np.asarray(y), np.asarray(output)
        if self.task != "multilabel" and self._wide(output):
            if y.shape == output.shape:
                return y.argmax(axis=-1)
            y = y[..., 0] if y.ndim == output.ndim and y.shape[-1] == 1 else y
        elif self.task == "binary" and y.ndim > 1 and y.shape[-1] == 1:
            y = y[..., 0]
        if self.task == "multiclass":
            return y.astype("int64")
        return (y > (0 if self.classes == (-1, 1) or self.kind == "signs" else 0.5)).astype("int64")

    def _wide(self, output: Any) -> bool:
        """Return whether the last axis of an output is that of the classes."""
        return output.ndim > 1 and output.shape[-1] > 1 and (self.task != "binary" or output.shape[-1] == 2)

    @property
    def _named(self) -> str:
        return f" '{self.name}'" if self.name else ""


def named(model: Any, given: Any) -> list[tuple[str | None, Any]]:
    """Return each output of a model, or what belongs to it, with the output's name; a single one has none."""
    if isinstance(given, Mapping):
        return list(given.items())
    if not isinstance(given, list | tuple):
        return [(None, given)]
    names = list(getattr(model, "output_names", None) or ())
    if len(set(names)) != len(given):
        names = [f"output_{index}" for index in range(len(given))]
    return list(zip(names, given, strict=True))


def of_output(given: Any, name: str | None, at: int) -> Any:
    """Return what `compile` was given for an output: by name, by position, or one for all."""
    if isinstance(given, Mapping):
        return given.get(name)
    if isinstance(given, list | tuple):
        return given[at] if at < len(given) else None
    return given


def decide(
    model: Any, x: Any, given: Any, task: str, classes: Sequence[Any], *, targets: Any = None
) -> tuple[Meaning, ...]:
    """Return what each output of a model means.

    The operation that made the output comes first: what ends in a sigmoid is a probability, whatever the loss was
    told. Then the compiled loss. Layers are followed by their operations, so their order in a list means nothing.

    Args:
        model: The model.
        x: Some rows, as the model takes them.
        given: What it predicts for them.
        task: The study's task.
        classes: The study's classes.
        targets: Some targets, which tell labels from other numbers between 0 and 1 where there are several outputs.
    """
    import keras

    followed = _is_called(model, x, given)
    loss = getattr(model, "loss", None) if followed else None
    made = _operations(model, x) if followed else []
    order = {id(output): at for at, output in enumerate(keras.tree.flatten(given))}
    wanted = dict(named(model, targets)) if targets is not None else {}
    found = []
    for at, (name, output) in enumerate(named(model, given)):
        operation = made[order[id(output)]] if len(made) == len(order) else None
        of_loss = _by_loss(of_output(loss, name, at))
        if task in ("binary", "multiclass", "multilabel"):
            meaning = _of_task(operation, of_loss, np.shape(output), task, tuple(map(_plain, classes)))
        else:
            meaning = _by_itself(operation, of_loss, np.shape(output), wanted.get(name), several=task == "several")
        found.append(replace(meaning, name=name))
    return tuple(found)


_Found = tuple[Kind, bool] | None


def _of_task(operation: _Found, loss: _Found, shape: tuple[int, ...], task: str, classes: tuple[Any, ...]) -> Meaning:
    """Return what an output means of which the data say the task."""
    width = shape[-1] if len(shape) > 1 else 1
    if width not in ((1, 2) if task == "binary" else (len(classes),)):
        whole = all(isinstance(label, int) and 0 <= label < width for label in classes)
        if task == "multilabel" or not whole or len(shape) < 2:
            return Meaning("numbers")
        task, classes = "multiclass", tuple(range(width))  # labels are the indices of the outputs themselves
    if operation is not None and operation[0] != "signs":
        return Meaning(operation[0], task, classes, operation[1])
    if loss is not None:
        mean: Kind = "signs" if classes == (-1, 1) else "probabilities"  # which a squared error learns
        return Meaning(mean if loss[0] == "numbers" else loss[0], task, classes, loss[1])
    signs = operation is not None and classes == (-1, 1)
    return Meaning("signs" if signs else "unknown", task, classes)


def _by_itself(operation: _Found, loss: _Found, shape: tuple[int, ...], y: Any, *, several: bool) -> Meaning:
    """Return what an output means of which only the model says the task."""
    width = shape[-1] if len(shape) > 1 else 1
    kind, independent = operation if operation is not None and operation[0] != "signs" else loss or ("unknown", True)
    labels = y is not None and (np.asarray(y).dtype.kind in "iub" or bool(np.isin(y, (-1, 0, 1)).all()))
    if kind in ("numbers", "unknown"):
        return Meaning("unknown" if kind == "unknown" and several and labels else "numbers")
    if not independent and width > 1 and (several or (loss is not None and not loss[1])):
        return Meaning(kind, "multiclass", tuple(range(width)))
    if not several or not labels:  # a picture's pixels, for example
        return Meaning("numbers")
    if width == 1:
        return Meaning(kind, "binary", (0, 1), independent)
    return Meaning(kind, "multilabel", tuple(range(width)), independent)


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _by_loss(loss: Any) -> _Found:
    """Return what a loss takes an output for; None for one of the user's own that does not say `from_logits`."""
    import keras

    keywords: Mapping[str, Any] = {}
    if isinstance(loss, functools.partial):
        loss, keywords = loss.func, loss.keywords
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # "crossentropy", which Keras resolves by the shapes
            return ("probabilities", True)
    logits = keywords.get("from_logits", getattr(loss, "from_logits", None))
    module, name = getattr(loss, "__module__", ""), getattr(loss, "__name__", "")
    if isinstance(loss, keras.losses.Loss):
        bases = [base for base in type(loss).__mro__ if base.__module__.startswith("keras.")]
        module, name = "keras.", bases[0].__name__
    found = _LOSSES.get(name.replace("_", "").lower()) if module.startswith("keras.") else None
    if found is not None and found[0] != "probabilities":
        return found
    if logits is not None:
        return ("logits" if logits else "probabilities", found is None or found[1])
    return found


def _operations(model: Any, x: Any) -> list[_Found]:
    """Return what made each output, in the order of `keras.tree.flatten`; nothing where it cannot be followed."""
    import keras

    try:
        if _is_graph(model):
            tensors = model.outputs
        else:
            symbols = keras.tree.map_structure(_symbol, x)
            training = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
            tensors = keras.tree.flatten(model.call(symbols, **training))
        return [_made_by(tensor) for tensor in tensors]
    except Exception:  # what a model of the user's own raises when it is called with symbols
        return []


def _is_called(model: Any, x: Any, given: Any) -> bool:
    """Return whether a model predicts what calling it returns: `predict_step` may be the user's own."""
    import keras

    if all(getattr(type(model), name) is getattr(keras.Model, name) for name in ("predict_step", "predict")):
        return True
    plain = keras.ops.convert_to_numpy
    try:
        called, predicted = keras.tree.flatten(model(x, training=False)), keras.tree.flatten(given)
    except Exception:  # it is called with something else than its rows
        return True
    return len(called) == len(predicted) and all(
        np.allclose(plain(one), plain(other), equal_nan=True) for one, other in zip(called, predicted, strict=True)
    )


def _is_graph(operation: Any) -> bool:
    """Return whether an operation is a model made of a graph of others, whose outputs are known."""
    return bool(getattr(operation, "outputs", None)) and type(operation).call.__module__.startswith("keras.")


def _symbol(array: Any) -> Any:
    import keras

    return keras.KerasTensor((None, *array.shape[1:]), str(keras.backend.standardize_dtype(array.dtype)))


def _made_by(tensor: Any) -> _Found:
    """Return what the last operation behind a symbolic tensor makes of it."""
    import keras

    # Keras has no public way from a tensor to its operation (keras 3.15).
    operation, node, index = getattr(tensor, "_keras_history", (None, 0, 0))
    if operation is None:
        return None
    name = type(operation).__name__
    if _is_graph(operation):
        return _made_by(operation.outputs[index])
    arguments = operation._inbound_nodes[node].arguments  # noqa: SLF001
    if name in _OPERATIONS and not isinstance(operation, keras.layers.Layer):
        last = getattr(operation, "axis", -1) in (-1, len(tensor.shape) - 1)
        return _OPERATIONS[name] if last else None
    if name in _KEEPING:
        kinds = {_made_by(keras_tensor) for keras_tensor in arguments.keras_tensors}
        return kinds.pop() if len(kinds) == 1 else None
    if isinstance(operation, keras.layers.Layer) and not isinstance(operation, keras.layers.InputLayer):
        inner = keras.tree.flatten(operation.call(*arguments.args, **arguments.kwargs))[index]
        return None if inner is tensor else _made_by(inner)
    return None
