"""The study file: parsed, checked whole, frozen. It never loads data and never imports Keras."""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from search.errors import StudyFileError, UsageError, did_you_mean

Scalar = bool | int | float | str


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_frozen)]
Direction = Literal["minimize", "maximize"]
Task = Literal["binary", "multiclass", "multilabel", "regression"]
Sampler = Literal["tpe", "random", "gp", "cmaes", "qmc", "grid", "nsga2"]
Pruner = Literal["none", "median", "percentile", "hyperband", "asha", "patient", "wilcoxon"]

FIT_PARAMETERS = ("epochs", "batch_size")
MLP_PARAMETERS = (
    "width",
    "depth",
    "activation",
    "dropout",
    "learning_rate",
    "optimizer",
    "weight_decay",
    "batch_norm",
)
# Metrics this package adds to Keras's own logs; each is a property of a finished trial.
TRIAL_METRICS = ("parameters", "train_seconds", "latency_ms")

_NAME = re.compile(r"^\w[\w. -]{0,199}$")
_PARAMETER_NAME = re.compile(r"^[\w./ -]{1,200}$")
_CONSTRAINT = re.compile(r"^\s*(?P<metric>\w+)\s*(?P<operator><=|>=)\s*(?P<bound>[-+\d.eE]+)\s*$")


class _Table(BaseModel):
    """A table of the file: frozen, and no key in it that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class _Range(_Table):
    log: bool = False

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        low, high, step = (getattr(self, key) for key in ("low", "high", "step"))
        if low > high:
            raise ValueError(f"low = {low} is above high = {high}; low must be at most high")
        if self.log and low <= 0:
            raise ValueError(f"low = {low} with log = true; low must be above 0")
        if self.log and step is not None:
            raise ValueError("step with log = true; leave one of the two out")
        if step is not None and step <= 0:
            raise ValueError(f"step = {step}; step must be above 0")
        if step is not None and abs(math.remainder(high - low, step)) > 1e-8 * step:
            right = low + math.floor((high - low) / step) * step
            raise ValueError(f"high = {high} cannot be reached in steps of {step}; try high = {right:g}")
        return self


class IntParameter(_Range):
    """A whole number between `low` and `high`, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: int | None = None


class FloatParameter(_Range):
    """A number between `low` and `high`, both included."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = None


class CategoricalParameter(_Table):
    """One of `choices`."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], BeforeValidator(_frozen)] = Field(min_length=1)

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        seen = {(type(choice), choice) for choice in choices}
        if len(seen) < len(choices):
            raise ValueError(f"{list(choices)} names a choice twice; each choice must stand once")
        return choices


Parameter = Annotated[IntParameter | FloatParameter | CategoricalParameter, Field(discriminator="type")]


class DataDefinition(_Table):
    """Where the data come from and how they are split.

    Attributes:
        source: `sklearn:<loader or maker>`, `csv:<path>`, `parquet:<path>`, `npz:<path>`,
            `<file.py>:<function>` or `<module>:<function>`.
        options: Keyword arguments of the loader, maker, reader or function.
        target: The target column of a table, or several for a multilabel task.
        features: The columns to learn from; all but the target when left out.
        drop: Columns to leave out, ids for example.
        task: What to learn; inferred from the target when left out.
        test_size: Share of the rows held out and never used to choose, in (0, 1).
        validation_size: Share of the remaining rows used to choose, in (0, 1).
        seed: Seed of the splits.
        stratify: Keep the classes' shares in every part; true for classes when left out, but for
            splits by group or time.
        group: A column whose equal values stay in one part.
        time: A column to sort by: the newest rows are the test part, the next validation.
        folds: Cross-validate over this many folds of the remaining rows.
        normalize: Adapt preprocessing layers on the training part; true for tables and false for
            arrays when left out.
    """

    source: str = Field(pattern=r"^.+:.+$")
    options: dict[str, Any] = {}
    target: str | Strings | None = None
    features: Strings | None = None
    drop: Strings = ()
    task: Task | None = None
    test_size: float = Field(default=0.2, gt=0, lt=1)
    validation_size: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    stratify: bool | None = None
    group: str | None = None
    time: str | None = None
    folds: int | None = Field(default=None, ge=2)
    normalize: bool | None = None

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> Self:
        if self.group and self.time:
            raise ValueError("group and time together; split by one of the two")
        if self.stratify and (self.group or self.time):
            raise ValueError("stratify with group or time; leave stratify out")
        return self

    @property
    def kind(self) -> str:
        """`sklearn`, `csv`, `parquet`, `npz` or `python`."""
        prefix = self.source.partition(":")[0]
        return prefix if prefix in ("sklearn", "csv", "parquet", "npz") else "python"


class ModelDefinition(BaseModel):
    """What builds the model; every further key is an argument that stays fixed."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    build: str = "mlp"

    @property
    def fixed(self) -> dict[str, Scalar]:
        """The arguments of the builder that this file fixes."""
        return dict(self.model_extra or {})


class EarlyStopping(_Table):
    """Stop when the metric has not improved for `patience` epochs; best weights are restored."""

    patience: int = Field(ge=1)
    min_delta: float = Field(default=0.0, ge=0)
    start_from_epoch: int = Field(default=0, ge=0)


class LearningRateSchedule(_Table):
    """How the learning rate changes with the epochs.

    Attributes:
        type: `cosine` falls to `minimum` over all epochs, `exponential` multiplies by `factor`
            after each, `plateau` multiplies by `factor` when the metric stands still.
        factor: The multiplier of `exponential` and `plateau`, in (0, 1).
        patience: Epochs without improvement before `plateau` acts.
        minimum: The lowest learning rate.
    """

    type: Literal["cosine", "exponential", "plateau"]
    factor: float = Field(default=0.5, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)
    minimum: float = Field(default=0.0, ge=0)


class FitDefinition(_Table):
    """Settings of `fit`; `epochs` and `batch_size` may stand in `[space]` instead."""

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    early_stopping: EarlyStopping | None = None
    learning_rate_schedule: LearningRateSchedule | None = None
    class_weight: Literal["balanced"] | dict[str, float] | None = None
    callbacks: Strings = ()
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"


class WarmStart(_Table):
    """The best trials of another study are tried first.

    Attributes:
        study: The other study's name.
        storage: Where it is kept; `studies/<study>.journal` beside this study's when left out.
        n_trials: How many of its best trials to try.
    """

    study: str
    storage: str | None = None
    n_trials: int = Field(default=5, ge=1)


class SearchDefinition(_Table):
    """Defaults for the command line's flags, and how to choose between trials.

    Attributes:
        patience: Stop after this many trials without a better one.
        terminator: Stop when Optuna's terminator expects no further progress.
        target: Stop when the metric is at least this good.
        constraints: Conditions such as `latency_ms <= 5` that a best trial must meet.
        repeats: Train a configuration under this many seeds and compare the mean.
        retries: How often the configuration of a trial that died with its worker is tried again.
    """

    n_trials: int = Field(default=20, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    sampler: Sampler = "tpe"
    sampler_options: dict[str, Any] = {}
    pruner: Pruner = "median"
    pruner_options: dict[str, Any] = {}
    seed: int = Field(default=0, ge=0, lt=2**32)
    workers: int | Literal["auto"] = "auto"
    target: float | None = None
    patience: int | None = Field(default=None, ge=1)
    terminator: bool = False
    constraints: Strings = ()
    repeats: int = Field(default=1, ge=1)
    retries: int = Field(default=1, ge=0)
    warm_start: WarmStart | None = None

    @field_validator("constraints")
    @classmethod
    def _readable(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        for constraint in constraints:
            parse_constraint(constraint)
        return constraints

    @field_validator("workers")
    @classmethod
    def _some(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"{workers}; at least 1, or 'auto'")
        return workers


def parse_constraint(text: str) -> tuple[str, str, float]:
    """Return the metric, operator and bound of a constraint such as `latency_ms <= 5`."""
    match = _CONSTRAINT.match(text)
    try:
        return match["metric"], match["operator"], float(match["bound"])  # type: ignore[index]
    except (TypeError, ValueError):
        raise ValueError(f"'{text}' is no constraint; write for example 'latency_ms <= 5'") from None


class Definition(_Table):
    """A checked study file.

    Attributes:
        name: Study name, MLflow experiment and registered model.
        metric: One Keras log name or trial metric, or several for a multi-objective study.
        direction: `minimize` or `maximize`, one for each metric.
        path: Where the file stands; paths in it are relative to its folder.
        text: The file as it was read.
    """

    name: str
    metric: str | Strings
    direction: Direction | Annotated[tuple[Direction, ...], BeforeValidator(_frozen)]
    description: str = ""
    data: DataDefinition
    model: ModelDefinition = ModelDefinition()
    fit: FitDefinition = FitDefinition()
    space: dict[str, Parameter]
    enqueue: Annotated[tuple[dict[str, Scalar], ...], BeforeValidator(_frozen)] = ()
    search: SearchDefinition = SearchDefinition()
    path: Path = Field(default=Path(), exclude=True)
    text: str = Field(default="", exclude=True, repr=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics, one for each objective."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions, one for each objective."""
        return (self.direction,) if isinstance(self.direction, str) else self.direction

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.path.parent

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of the checked content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]

    def better(self, value: float, than: float, objective: int = 0) -> bool:
        """Return whether `value` is strictly better than `than`."""
        return value < than if self.directions[objective] == "minimize" else value > than


def shipped_studies() -> dict[str, Path]:
    """Return the study files that ship with the package, by name."""
    checkout = Path(__file__).parent.parent / "studies"
    installed = Path(str(resources.files("search"))) / "studies"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_study(study: str) -> Path:
    """Return the study file that a path or a name stands for.

    A name is looked up in `studies/` of the working directory, then among the shipped ones.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(study)
    if path.suffix == ".toml" or path.parent != Path():
        if path.is_file():
            return path
        raise UsageError(f"{study}: no such study file; give a .toml file or a study's name")
    local = Path("studies") / f"{study}.toml"
    shipped = shipped_studies()
    if local.is_file():
        return local
    if study in shipped:
        return shipped[study]
    known = sorted({*shipped, *(file.stem for file in Path("studies").glob("*.toml"))})
    raise UsageError(
        f"no study '{study}' in studies/ or among the shipped ones ({', '.join(known)}){did_you_mean(study, known)}"
    )


def load_definition(path: Path) -> Definition:
    """Read and check a study file.

    Raises:
        StudyFileError: The file cannot be read, or says something that cannot be; the message
            names file, key, what was found and what would be right.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise StudyFileError(str(path), "", f"cannot be read ({error.strerror})", "give a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StudyFileError(str(path), "", f"no TOML ({error})", "see https://toml.io") from None
    return parse_definition(content, path, text)


def parse_definition(content: Mapping[str, Any], path: Path, text: str = "") -> Definition:
    """Check the content of a study file; `path` is what its relative paths start from.

    Raises:
        StudyFileError: As `load_definition`.
    """
    for reserved in ("path", "text"):
        if reserved in content:
            raise StudyFileError(str(path), reserved, "unknown key", _known_keys(Definition, reserved))
    try:
        definition = Definition.model_validate({**content, "path": path, "text": text})
    except ValidationError as error:
        raise StudyFileError(str(path), *_explain(error)) from None
    _check_together(definition)
    return definition


def _check_together(definition: Definition) -> None:
    """Check what no single key can know."""

    def refuse(key: str, found: str, expected: str) -> StudyFileError:
        return StudyFileError(str(definition.path), key, found, expected)

    if not _NAME.match(definition.name) or definition.name != definition.name.strip():
        raise refuse(
            "name",
            f"'{definition.name}' is no legal name for an MLflow experiment and model",
            "use letters, digits, '_', '-' and '.', at most 200",
        )
    metrics, directions = definition.metrics, definition.directions
    if not metrics or len(metrics) != len(directions) or len(set(metrics)) != len(metrics):
        raise refuse(
            "direction",
            f"{len(directions)} for {len(set(metrics))} metrics",
            "give one direction for each metric, each metric once",
        )
    for metric in metrics:
        if metric.startswith("test_"):
            raise refuse("metric", f"'{metric}' would choose by the test part", "use a val_ metric")
    if len(metrics) > 1 and definition.search.repeats > 1:
        raise refuse("search.repeats", "repeats with several metrics", "use one metric")
    for name in definition.space:
        if not _PARAMETER_NAME.match(name):
            raise refuse(f"space.{name}", "no legal parameter name", "use letters, digits, '_', '-', '.'")
        if name in definition.model.fixed:
            raise refuse(f"model.{name}", "fixed here and searched in [space]", "leave one of the two out")
    if "epochs" not in definition.space and definition.fit.epochs is None:
        raise refuse("space.epochs", "epochs is given nowhere", "add epochs to [space] or to [fit]")
    for name in FIT_PARAMETERS:
        parameter = definition.space.get(name)
        if parameter is not None and not _whole_and_positive(parameter):
            raise refuse(f"space.{name}", "not only whole numbers of at least 1", 'use type = "int" with low >= 1')
        if parameter is not None and name in definition.fit.model_fields_set:
            raise refuse(f"fit.{name}", "fixed here and searched in [space]", "leave one of the two out")
    if definition.model.build == "mlp":
        for key in (*definition.space, *definition.model.fixed):
            if key not in (*MLP_PARAMETERS, *FIT_PARAMETERS):
                where = "space" if key in definition.space else "model"
                known = (*FIT_PARAMETERS, *MLP_PARAMETERS)
                raise refuse(
                    f"{where}.{key}",
                    "the built-in 'mlp' has no such parameter",
                    f"it has {', '.join(known)}{did_you_mean(key, known)}",
                )
    elif ":" not in definition.model.build:
        raise refuse(
            "model.build",
            f"'{definition.model.build}' is no builder",
            "use 'mlp', '<file.py>:<function>' or '<module>:<function>'",
        )
    _check_enqueued(definition)
    _check_files(definition)


def _check_enqueued(definition: Definition) -> None:
    for index, configuration in enumerate(definition.enqueue):
        for name, value in configuration.items():
            parameter = definition.space.get(name)
            key = f"enqueue[{index}].{name}"
            if parameter is None:
                if definition.model.build != "mlp":
                    continue  # the build function may suggest it
                raise StudyFileError(
                    str(definition.path),
                    key,
                    "not in [space]",
                    f"[space] has {', '.join(definition.space)}{did_you_mean(name, definition.space)}",
                )
            if not contains_value(parameter, value):
                raise StudyFileError(str(definition.path), key, f"{value!r} is outside the space", _describe(parameter))


def _check_files(definition: Definition) -> None:
    named = {"model.build": definition.model.build, "data.source": definition.data.source}
    named.update({f"fit.callbacks[{i}]": name for i, name in enumerate(definition.fit.callbacks)})
    for key, reference in named.items():
        kind, _, rest = reference.partition(":")
        file = rest if kind in ("csv", "parquet", "npz") else kind
        if file.endswith(".py") or kind in ("csv", "parquet", "npz"):
            if not (definition.folder / file).is_file():
                raise StudyFileError(
                    str(definition.path),
                    key,
                    f"no file {definition.folder / file}",
                    "paths are relative to the study file",
                )
    if definition.data.kind in ("csv", "parquet") and definition.data.target is None:
        raise StudyFileError(str(definition.path), "data.target", "missing", "name the target column")


def _whole_and_positive(parameter: Parameter) -> bool:
    if isinstance(parameter, CategoricalParameter):
        return all(type(choice) is int and choice >= 1 for choice in parameter.choices)
    return isinstance(parameter, IntParameter) and parameter.low >= 1


def contains_value(parameter: Parameter, value: Scalar) -> bool:
    """Return whether `value` is one that the parameter can take."""
    if isinstance(parameter, CategoricalParameter):
        return any(type(value) is type(choice) and value == choice for choice in parameter.choices)
    if isinstance(value, bool | str) or (isinstance(parameter, IntParameter) and value != int(value)):
        return False
    step = parameter.step
    on_grid = step is None or abs(math.remainder(value - parameter.low, step)) <= 1e-8 * step
    return on_grid and parameter.low <= value <= parameter.high


def _describe(parameter: Parameter) -> str:
    if isinstance(parameter, CategoricalParameter):
        return f"one of {list(parameter.choices)}"
    step = f" in steps of {parameter.step}" if parameter.step is not None else ""
    return f"{parameter.type} from {parameter.low} to {parameter.high}{step}"


def _explain(error: ValidationError) -> tuple[str, str, str]:
    """Return the key, what was found and what would be right, for the first thing wrong."""
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda each: each["type"] != "extra_forbidden")  # a misspelt key first
    tags = ("int", "float", "categorical", "str", "bool", "literal['auto']", "dict[str,float]")
    path = [part for part in first["loc"] if part not in tags and not _is_union_branch(part)]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return key, "unknown key", _known_keys(_table_at(path[:-1]), str(path[-1]))
    if kind == "missing":
        return key, "missing", "this key is needed"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"{key}.type", "missing or unknown", "use 'int', 'float' or 'categorical'"
    if kind == "value_error":
        found, _, expected = str(context["error"]).partition("; ")
        return key, found, expected or "see the README's study file"
    if kind == "literal_error":
        return key, "unknown value", f"use {context['expected']}"
    message = first["msg"].replace("tuple", "list").replace(" after validation, not 0", "")
    message = re.sub(r"dictionary( or instance of \w+)?", "table", message)
    return key, f"{first['input']!r:.60} cannot be used", message[0].lower() + message[1:]


def _is_union_branch(part: int | str) -> bool:
    return isinstance(part, str) and bool(re.match(r"^(tuple|literal|dict|nullable|function)\b.*[\[\(]", part))


_TABLES: dict[str, type[BaseModel]] = {
    "data": DataDefinition,
    "fit": FitDefinition,
    "fit.early_stopping": EarlyStopping,
    "fit.learning_rate_schedule": LearningRateSchedule,
    "search": SearchDefinition,
    "search.warm_start": WarmStart,
}


def _table_at(path: list[int | str]) -> type[BaseModel]:
    if path and path[0] == "space":
        return FloatParameter
    return _TABLES.get(".".join(map(str, path)), Definition)


def _known_keys(table: type[BaseModel], word: str) -> str:
    known = [name for name in table.model_fields if name not in ("path", "text")]
    if issubclass(table, _Range):
        known += ["choices"]
    return f"known here: {', '.join(known)}{did_you_mean(word, known)}"
