"""The parameters of a study file's `[space]`: what each can be, checked. It never samples."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from search.errors import redact

Scalar = bool | int | float | str

LARGEST = 2**53  # whole numbers beyond it are not exact in Optuna's storages, which keep floats
_NAME = re.compile(r"\w[\w. -]*")
_LONGEST_NAME = 200  # bytes: with a suffix it is a file's name, which has at most 255
_LONGEST = 500  # characters of a choice; MLflow keeps no longer parameter


def as_tuple(value: object) -> object:
    """Return a list of the file as a tuple, which cannot change."""
    return tuple(value) if isinstance(value, list) else value


def _named(name: str) -> str:
    legal = _NAME.fullmatch(name) and name == name.strip() and not name.endswith(".")
    if not legal or len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        found = f"{written(name)} is not a valid name for an MLflow experiment and model"
        right = f"use letters, digits, '_', '-', '.' and spaces inside, at most {_LONGEST_NAME} bytes"
        raise ValueError(f"{found}; {right}")
    return name


StudyName = Annotated[str, AfterValidator(_named)]


class Table(BaseModel):
    """A table of the file: frozen, no key in it that is not declared, and shown without the secrets in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def __repr__(self) -> str:
        return redact(super().__repr__())

    def __str__(self) -> str:
        return redact(super().__str__())


Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(gt=0, lt=1)]
Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]


class _Range(Table):
    log: bool = False
    before: Whole | float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        low, high, step = (getattr(self, key) for key in ("low", "high", "step"))
        if low > high:
            raise ValueError(f"low = {low} is above high = {high}; low must be at most high")
        if self.log and low <= 0:
            raise ValueError(f"low = {low} with log = true; low must be above 0")
        if self.log and step is not None:
            raise ValueError("step with log = true; leave one of the two out")
        if step is not None:
            self._in_steps(low, high, step)
        return self

    def _in_steps(self, low: float, high: float, step: float) -> None:
        if step <= 0:
            raise ValueError(f"step = {step}; step must be above 0")
        if not math.isfinite(high - low) or (high - low) / step > LARGEST:
            raise ValueError(f"step = {step} is too small for {low} to {high}; use a larger step")
        if abs(math.remainder(high - low, step)) > 1e-8 * step:
            right = low + math.floor((high - low) / step) * step
            raise ValueError(f"high = {high} cannot be reached in steps of {step}; use high = {right:.12g}")


class IntParameter(_Range):
    """A whole number between `low` and `high`, both included.

    Attributes:
        low: The lowest value.
        high: The highest value.
        step: Only `low` and whole multiples of `step` above it.
        log: Sample on a logarithmic scale.
        before: The value that trials had before the parameter was added.
    """

    type: Literal["int"]
    low: Whole
    high: Whole
    step: Whole | None = None


class FloatParameter(_Range):
    """A number between `low` and `high`, both included.

    Attributes:
        low: The lowest value.
        high: The highest value.
        step: Only `low` and whole multiples of `step` above it.
        log: Sample on a logarithmic scale.
        before: The value that trials had before the parameter was added.
    """

    type: Literal["float"]
    low: float
    high: float
    step: float | None = None


class CategoricalParameter(Table):
    """One of `choices`.

    Attributes:
        choices: The values: texts, numbers, or true and false.
        was: What choices were called before: `{ relu6 = "relu" }`.
        before: The choice that trials had before the parameter was added.
    """

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], BeforeValidator(as_tuple)] = Field(min_length=1)
    was: dict[str, Scalar] = Field(default_factory=dict)
    before: Scalar | None = None

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        for index, choice in enumerate(choices):
            twin = next((each for each in choices[:index] if each == choice), None)
            if twin is not None:  # also 1 and 1.0, or 1 and true, which Optuna cannot tell apart
                raise ValueError(f"{written(twin)} and {written(choice)} are the same choice; name each once")
            if isinstance(choice, str) and len(choice) > _LONGEST:
                raise ValueError(f"a choice of {len(choice)} characters; use at most {_LONGEST}")
            if isinstance(choice, int) and abs(choice) > LARGEST:
                raise ValueError(f"{choice} is too large to be kept exactly; write it as text")
        return choices

    @model_validator(mode="after")
    def _renamed(self) -> Self:
        known = [str(choice) for choice in self.choices]
        for name, old in self.was.items():
            if name not in known:
                raise ValueError(f"was = {{ {name} = {written(old)} }}, but {name} is no choice; write {{ NEW = OLD }}")
            if old in self.choices:
                raise ValueError(f"was = {{ {name} = {written(old)} }}, but {written(old)} is a choice still")
        return self


Parameter = Annotated[IntParameter | FloatParameter | CategoricalParameter, Field(discriminator="type")]


def contains_value(parameter: Parameter, value: Any) -> bool:
    """Return whether `value` is one that the parameter can take."""
    if isinstance(parameter, CategoricalParameter):
        return any(type(value) is type(choice) and value == choice for choice in parameter.choices)
    if type(value) not in (int, float) or not math.isfinite(value) or not parameter.low <= value <= parameter.high:
        return False
    step = 1 if isinstance(parameter, IntParameter) and parameter.step is None else parameter.step
    return step is None or abs(math.remainder(value - parameter.low, step)) <= 1e-8 * step


def describe(parameter: Parameter) -> str:
    """Return in words what the parameter can be."""
    if isinstance(parameter, CategoricalParameter):
        return f"one of {written(parameter.choices)}"
    step = f" in steps of {parameter.step}" if parameter.step is not None else ""
    kind = "a whole number" if isinstance(parameter, IntParameter) else "a number"
    return f"{kind} from {parameter.low} to {parameter.high}{step}"


def written(value: object) -> str:
    """Return a value as it would stand in the file, shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(written, value[:20]))}]"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, int) and abs(value) > LARGEST:
        text = "a huge number"  # too long a number has no text at all
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:76]} …"
