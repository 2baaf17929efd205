"""The user's own training, `[fit] function`: what it is called with, and what its answer means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.dataset import Data
from search.errors import ModelError, TrialFailed
from search.studyfile.objects import called
from search.studyfile.references import load_object
from search.studyfile.schema import Definition
from search.training import callbacks
from search.training.epochs import numbers

if TYPE_CHECKING:
    import keras
    from optuna.trial import BaseTrial

OWN_FIT = "own fit"
_PASSED = (
    "shuffle",
    "steps_per_epoch",
    "validation_steps",
    "validation_freq",
)  # settings passed on where the study file gives them


@dataclass(frozen=True)
class Answer:
    """What the user's function returned.

    Attributes:
        metrics: The metrics of the trained model.
        history: The logs of each epoch by its number, where it returned a history; of those that were validated, where
            that were fewer.
        by_keras: Whether that is Keras's own.
        model: The model that it trained, where it says so.
    """

    metrics: dict[str, float]
    history: dict[int, dict[str, float]]
    by_keras: bool
    model: keras.Model | None


def load(definition: Definition) -> Callable[..., Any]:
    """Return the function that `[fit] function` names.

    Raises:
        ModelError: It cannot be imported, or cannot be called as `fit(trial, model, data, …)`.
    """
    name = definition.fit.function or ""
    function: Callable[..., Any] = load_object(name, definition.folder, "fit.function")
    settings = ["epochs", "batch_size", "callbacks", *(n for n in _PASSED if n in definition.fit.model_fields_set)]
    settings += ["class_weight"] if definition.fit.class_weight else []
    try:
        inspect.signature(function).bind(*(None,) * 3, **_taken(function, dict.fromkeys(settings)))
    except TypeError as error:
        raise ModelError(
            f"fit.function: {called(name)}: {error}; write fit(trial, model, data, epochs, batch_size, callbacks)"
        ) from None
    return function


def _taken(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a function takes by name; a training without callbacks could not be followed."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(settings)
    needed = {name for name in settings if name not in ("epochs", "batch_size", "callbacks")}
    return {name: value for name, value in settings.items() if name in parameters or name in needed}


def class_weight(definition: Definition, data: Data) -> dict[int, float] | None:
    """Return a weight for each class as `model.fit` takes it: by the number that stands in the targets."""
    weights = callbacks.class_weight(definition, data)
    if weights is None or data.encoded or data.train.streamed or np.ndim(data.y) > 1:
        return weights
    return {int(data.classes[index]): weight for index, weight in weights.items()}


def train(
    definition: Definition,
    trial: BaseTrial,
    model: keras.Model,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    callbacks: list[keras.callbacks.Callback],
    class_weight: dict[int, float] | None,
) -> Answer:
    """Call the user's function.

    Raises:
        TrialFailed: It returned something else.
    """
    import keras

    function = load(definition)
    model.stop_training = False  # Keras's own `fit` sets it; callbacks read it
    for callback in callbacks:  # a training loop of the user's own may call them without Keras's `fit`
        callback.set_model(model)
        callback.set_params({"epochs": epochs, "verbose": 0})
    given = {name: getattr(definition.fit, name) for name in _PASSED if name in definition.fit.model_fields_set}
    settings = {"epochs": epochs, "batch_size": batch_size, "callbacks": callbacks, **given}
    if class_weight is not None:
        settings["class_weight"] = class_weight
    returned = function(trial, model, data, **_taken(function, settings))
    trained = None
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], keras.Model):
        returned, trained = returned
    return Answer(*_read(definition, returned), isinstance(returned, keras.callbacks.History), trained)


def _read(definition: Definition, returned: Any) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    import keras

    if returned is None:
        return {}, {}
    columns = returned.history if isinstance(returned, keras.callbacks.History) else returned
    if isinstance(columns, Mapping) and columns and all(isinstance(log, list | tuple) for log in columns.values()):
        return {}, _by_epoch(columns, definition.fit.validation_freq)  # a history, or its dictionary
    if isinstance(columns, Mapping):
        return {str(name): _number(definition, value, str(name)) for name, value in columns.items()}, {}
    return {definition.metrics[0]: _number(definition, returned)}, {}


def _by_epoch(columns: Mapping[str, Sequence[Any]], freq: int) -> dict[int, dict[str, float]]:
    """Return the logs of the epochs for which all names were logged: `validation_freq` leaves some out."""
    lengths = [len(column) for column in columns.values()]
    shortest, longest = max(1, min(lengths)), max(lengths)
    every = freq if longest // freq == shortest else max(1, longest // shortest)
    step = {name: every if len(column) >= every * shortest else 1 for name, column in columns.items()}
    return {
        every * (at + 1) - 1: numbers({name: column[step[name] * (at + 1) - 1] for name, column in columns.items()})
        for at in range(min(lengths))
    }


def _number(definition: Definition, value: Any, name: str = "") -> float:
    try:
        if np.size(value) == 1 and not isinstance(value, str | bytes | Mapping):
            return float(np.reshape(np.asarray(value), ()))
    except (TypeError, ValueError):
        pass
    under = f" under '{name}'" if name else ""
    raise TrialFailed(
        f"fit.function: {called(definition.fit.function)} returned {type(value).__name__}{under}; "
        "return a History, a dictionary of numbers or a number, alone or with the trained model: (history, model)"
    )
