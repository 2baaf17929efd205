"""From parameters and data to a compiled Keras model, and from the trained one to the model to register.

It trains nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.outputs import fixed_rows, outputs_of
from search.data.dataset import Data
from search.errors import ModelError, one_line, raised
from search.studyfile.checks import MLP_PARAMETERS
from search.studyfile.objects import called
from search.studyfile.parameters import Scalar
from search.studyfile.references import load_object
from search.studyfile.schema import Definition
from search.training.fit import as_tensors

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial

_EXAMPLE_ROWS = 3

Builder = Callable[..., "keras.Model"]
_TRAINED = "_search_trained"  # marks weights that an earlier model was given to train


class Refused(ModelError):
    """This configuration has no model: the user's code raised, or the model takes no batch. Others may work."""


@contextmanager
def refusing(
    key: str, reference: str, hint: str = "", let_pass: type[BaseException] = KeyboardInterrupt
) -> Iterator[None]:
    """Turn what the user's code raises in the block into `Refused`.

    Args:
        key: The key that names that code.
        reference: Its name.
        hint: What would be right.
        let_pass: An exception that is raised as it is.

    Raises:
        Refused: The code raised.
    """
    try:
        yield
    except (ModelError, KeyboardInterrupt, let_pass):
        raise
    except BaseException as error:
        raise Refused(f"{key}: {raised(called(reference), error)}{hint}") from error


def build(definition: Definition, trial: BaseTrial, data: Data) -> keras.Model:
    """Return the compiled model of a trial.

    Args:
        definition: The study file; its `[model]` names the builder and fixes arguments.
        trial: Its `params` hold the sampled `[space]`; a builder may `suggest_*` more.
        data: What the model will be trained on.

    Raises:
        ModelError: The builder cannot be called.
        Refused: It returns no compiled Keras model.
    """
    import keras

    name = definition.model.build
    builder = mlp if name == "mlp" else load_object(name, definition.folder, "model.build")
    keras.config.set_dtype_policy(definition.fit.precision)
    _count_layers_anew(builder)
    try:
        inspect.signature(builder).bind(trial, data, **definition.model.fixed)
    except TypeError as error:
        raise ModelError(f"model.build: {called(name)}: {error}; write build(trial, data, …) -> keras.Model") from None
    told = settings_of(definition, trial)
    data = replace(data, epochs=told.get("epochs", 0), batch_size=told["batch_size"])
    model = builder(trial, data, **definition.model.fixed)
    if not isinstance(model, keras.Model):
        raise Refused(f"model.build: {called(name)} returned {type(model).__name__}; return a compiled keras.Model")
    if not model.compiled and not definition.fit.function:
        raise Refused(f"model.build: {called(name)} returned a model that is not compiled; call model.compile(…)")
    return model


def settings_of(definition: Definition, trial: BaseTrial) -> dict[str, int]:
    """Return for how many epochs a trial's model is trained, and how many rows its batches have."""
    fit = definition.fit
    given = {"epochs": fit.epochs, "batch_size": fit.batch_size, **trial.params}
    return {name: int(given[name]) for name in ("epochs", "batch_size") if given[name] is not None}


def _count_layers_anew(builder: Builder) -> None:
    """Count layer names from 0, so that `search.graphs` recognises a built-in model.

    Layers that the builder's module made when it was imported, to be part of every model, keep their numbers.
    """
    import keras
    from keras.src.utils.naming import reset_uids

    reset_uids()
    module = sys.modules.get(str(getattr(builder, "__module__", "")))
    for layer in list(vars(module).values()) if module is not None else ():
        if isinstance(layer, keras.layers.Layer):
            prefix, _, number = layer.name.rpartition("_")
            taken = int(number) if prefix and number.isdigit() else 0
            while keras.backend.get_uid(prefix if taken or number == "0" else layer.name) <= taken:
                pass


def refuse_trained(definition: Definition, model: keras.Model) -> None:
    """Refuse a model whose weights were trained in an earlier model, and mark the weights of this one.

    Raises:
        ModelError: The builder returned a model, or a layer in it, a second time.
    """
    weights = model.trainable_variables
    if any(hasattr(weight, _TRAINED) for weight in weights):
        raise ModelError(
            f"model.build: {called(definition.model.build)} returned the same model or layer again, with what an "
            "earlier trial learned; make both anew in each call"
        )
    for weight in weights:
        setattr(weight, _TRAINED, True)


def refuse_batches(definition: Definition, model: keras.Model, data: Data, batch_size: int) -> None:
    """Refuse batches that a model of a fixed number of rows, `Input(batch_shape=(16, …))`, does not take.

    Raises:
        Refused: The batch size is another, or the rows of a part are no multiple.
    """
    import keras

    fixed = fixed_rows(model)
    if fixed is None or data.train.streamed or definition.fit.function:
        return
    if isinstance(model, keras.Sequential) and _takes(model, data.example(fixed + 1)):
        return  # it names the rows of its first call, and takes any number
    what = f"model.build: {called(definition.model.build)}: the model takes {fixed} rows at once"
    if batch_size != fixed:
        raise Refused(f"{what}, and batch_size is {batch_size}; set batch_size = {fixed}")
    for name, part in (("training", data.train), ("validation", data.validation), ("test", data.test)):
        over = 0 if part is None or part.streamed else len(part) % fixed
        if part is not None and over:
            fewer, more = len(part) - over, len(part) - over + fixed
            raise Refused(f"{what}, and the {name} part has {len(part)}; {fewer or more} or {more} would do")


def try_build(definition: Definition, trial: BaseTrial, data: Data) -> keras.Model:
    """Build a model before the first trial, so that a builder that cannot work is found at once.

    Raises:
        ModelError: As `build`.
        Refused: Likewise, or the builder raised.
    """
    with refusing("model.build", definition.model.build):
        return build(definition, trial, data)


def mlp(trial: BaseTrial, data: Data, **fixed: Scalar) -> keras.Model:
    """Build a multi-layer perceptron for the data's task.

    Args:
        trial: `params` may hold `width` (units of a hidden layer, 128), `depth` (hidden layers,
            1), `activation` (`relu`), `dropout` (share dropped after each hidden layer, 0),
            `learning_rate` (the optimizer's own), `optimizer` (`adam`), `weight_decay` (0) and
            `batch_norm` (false); in brackets what holds when they stand neither here nor in `fixed`.
        data: What to learn.
        fixed: Parameters that are not searched.
    """
    import keras

    params: dict[str, Any] = {"width": 128, "depth": 1, "activation": "relu", "dropout": 0.0, "batch_norm": False}
    params.update({name: value for name, value in trial.params.items() if name in MLP_PARAMETERS})
    params.update(fixed)
    inputs, prepared = data.inputs()
    x = _flat(prepared)
    for _ in range(params["depth"]):
        if params["batch_norm"]:
            x = keras.layers.Dense(params["width"], use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.Activation(params["activation"])(x)
        else:
            x = keras.layers.Dense(params["width"], activation=params["activation"])(x)
        if params["dropout"]:
            x = keras.layers.Dropout(params["dropout"])(x)
    activation, loss, metrics = _HEADS[data.task]
    kernel = "zeros" if data.task == "regression" else "glorot_uniform"
    outputs = keras.layers.Dense(data.outputs, activation=activation, kernel_initializer=kernel, dtype="float32")(x)
    model = keras.Model(inputs, _in_unit(outputs, data) if data.task == "regression" else outputs)
    # The losses and metrics are named, not made here: Keras makes them when it first needs them.
    model.compile(optimizer=_optimizer(params), loss=loss, metrics=metrics)
    return model


_HEADS: dict[str, tuple[str | None, str, list[str]]] = {
    "binary": ("sigmoid", "binary_crossentropy", ["binary_accuracy"]),
    "multiclass": ("softmax", "sparse_categorical_crossentropy", ["accuracy"]),
    "multilabel": ("sigmoid", "binary_crossentropy", ["binary_accuracy"]),
    "regression": (None, "mean_squared_error", ["mae"]),
}


def _in_unit(outputs: Any, data: Data) -> Any:
    """Return outputs in the target's unit: they begin at the training rows' mean and are scaled by their deviation.

    The gradient is that of a target without unit, whatever its scale: every optimizer trains alike on euros and cents.
    """
    import keras

    mean, variance = data.target_moments()
    deviation = np.sqrt(variance)
    scaled = keras.layers.Rescaling(deviation.tolist(), mean.tolist(), dtype="float32")(outputs)
    moved = (outputs - keras.ops.stop_gradient(outputs)) / deviation.astype("float32")  # 0, with the gradient
    return keras.ops.stop_gradient(scaled) + moved


def _flat(prepared: Any) -> Any:
    """Return one tensor of shape (rows, numbers) for whatever the inputs are."""
    import keras

    parts = keras.tree.flatten(prepared)
    if any(part.dtype == "string" for part in parts):
        raise ModelError(
            "model.build: x holds texts, and the built-in 'mlp' reads them in tables alone; return a data frame, or "
            "name your own builder"
        )
    flat = [part if len(part.shape) == 2 else keras.layers.Flatten()(part) for part in parts]  # one axis becomes two
    return flat[0] if len(flat) == 1 else keras.layers.Concatenate()(flat)


def _optimizer(params: dict[str, Any]) -> keras.Optimizer:
    import keras

    given = {name: float(params[name]) for name in ("learning_rate", "weight_decay") if params.get(name) is not None}
    name = params.get("optimizer", "adam")
    try:
        return keras.optimizers.get({"class_name": name, "config": given})
    except (ValueError, TypeError) as error:
        raise ModelError(f"optimizer: {one_line(error)}; use an optimizer's name in keras.optimizers") from None


def has_user_code(definition: Definition) -> bool:
    """Return whether code of the user's own runs in a trial."""
    fit = definition.fit
    return definition.model.build != "mlp" or bool(fit.callbacks or fit.function or definition.own_metrics)


def is_built_in(definition: Definition) -> bool:
    """Return whether this package makes the whole model of a trial, and no code of the user's can change it."""
    wanted = definition.fit.callbacks
    own_callbacks = isinstance(wanted, str) or any(":" in callback.kind for callback in wanted)
    return definition.model.build == "mlp" and not own_callbacks and definition.fit.function is None


def user_files(definition: Definition) -> list[Path]:
    """Return the Python files that the study file names, each once."""
    return sorted({definition.folder / file for file in definition.files.values() if file.suffix == ".py"})


def exported(definition: Definition, model: keras.Model, data: Data) -> keras.Model:
    """Return the model to register: what `[model] export` makes of the trained one, or that itself.

    Raises:
        ModelError: The function cannot be imported or returned no Keras model.
    """
    import keras

    name = definition.model.export
    if name is None:
        return model
    made = load_object(name, definition.folder, "model.export")(model, data)
    if not isinstance(made, keras.Model):
        raise ModelError(f"model.export: {called(name)} returned {type(made).__name__}; return a keras.Model")
    return made


def registered_example(definition: Definition, model: keras.Model, data: Data, rows: int = _EXAMPLE_ROWS) -> Any:
    """Return inputs of a few rows that the model to register takes.

    They are the study's own where the model has such inputs; a model that takes others (a generator's noise, or
    what the user's own fit function makes of the rows) gets zeros.
    """
    rows = fixed_rows(model) or rows
    x = data.example(rows)
    if definition.model.export is None:
        return x if takes_rows(definition, model, data) or not model.inputs else _zeros(model, rows)
    if isinstance(x, dict):
        names = [tensor.name for tensor in model.inputs]
        if set(names) <= x.keys():
            several = len(names) > 1 or isinstance(_input(model), dict)
            return {name: x[name] for name in names} if several else x[names[0]]
    elif _takes(model, x):
        return x
    return _zeros(model, rows)


def takes_rows(definition: Definition, model: keras.Model, data: Data) -> bool:
    """Return whether a model takes the study's rows: a fit function of the user's own may give it others."""
    return definition.fit.function is None or _takes(model, data.example(fixed_rows(model) or 1))


def _takes(model: keras.Model, x: Any) -> bool:
    try:
        outputs_of(model, as_tensors(x))
    except Exception:  # other inputs than the study's
        return False
    return True


def _zeros(model: keras.Model, rows: int) -> Any:
    import keras

    def zeros(tensor: Any) -> Any:
        shape = (rows, *(size or 1 for size in tensor.shape[1:]))
        return np.full(shape, "", object) if tensor.dtype == "string" else np.zeros(shape, str(tensor.dtype))

    return keras.tree.map_structure(zeros, _input(model))


def _input(model: keras.Model) -> Any:
    """Return a model's symbolic inputs in the structure that it takes."""
    try:
        return model.input
    except AttributeError:  # a Sequential model that was not called on a symbolic tensor
        inputs: list[Any] = list(getattr(model, "inputs", None) or [])
    if len(inputs) != 1:
        raise ModelError("model.export: the returned model does not say what it takes; return a functional model")
    return inputs[0]
