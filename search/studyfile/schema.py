"""The tables of a study file, each key with its type and bounds. Checks across tables are elsewhere."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from search.errors import StudyFileError
from search.studyfile.options import SearchOptions
from search.studyfile.parameters import Count, Parameter, Scalar, Seed, Share, Strings, StudyName, Table, as_tuple
from search.studyfile.registry import PYTHON, SOURCES, Source, SourceName, parted
from search.studyfile.secret import SecretUrl

Direction = Literal["minimize", "maximize"]
Task = Literal["binary", "multiclass", "multilabel", "regression"]

# Metrics this package adds to Keras's own logs; each is a property of a finished trial.
TRIAL_METRICS = ("parameters", "train_seconds", "latency_ms")

_CONSTRAINT = re.compile(r"\s*(?P<metric>[^\s<>=]+)\s*(?P<operator><=|>=)\s*(?P<bound>[-+\d.eE]+)\s*")


def _function(reference: str) -> str:
    if not all(parted(reference)):
        raise ValueError(f"{reference!r} is not a function; use '<file.py>:<function>' or '<module>:<function>'")
    return reference


Function = Annotated[str, AfterValidator(_function)]


def is_file(path: Path) -> bool:
    """Return whether there is a file; false for a path that no file can have."""
    try:
        return path.is_file()
    except OSError:  # a name too long, or a folder that may not be entered
        return False


class DataDefinition(Table):
    """Where the data come from and how they are split.

    Attributes:
        options: Keyword arguments of the loader, maker, reader or function.
        target: The target column of a table, or several for a multilabel task.
        features: The columns to learn from; all but the target when left out.
        drop: Columns to leave out, ids for example.
        task: What to learn; inferred from the target when left out.
        test_size: Share of the rows held out and never used to choose, in (0, 1).
        validation_size: Share of the remaining rows used to choose, in (0, 1).
        seed: Seed of the splits, of a scikit-learn maker without `random_state`, and of what a data function draws.
        stratify: Keep the classes' shares in every part; true for classes when left out, but for
            splits by group or time.
        group: A column whose equal values stay in one part.
        time: A column to sort by: the newest rows are the test part, the next validation; rows of one value stay
            together, and with `group` a group, which is as new as its newest row.
        sample_weight: A column of a table that says how much each row counts.
        folds: Cross-validate over this many folds of the remaining rows.
        normalize: Adapt preprocessing layers on the training part; true for tables and false for
            arrays when left out; `auto` scales arrays of one input too, but no streams.
    """

    source: SourceName
    options: dict[str, Any] = Field(default_factory=dict)
    target: str | Strings | None = None
    features: Strings | None = None
    drop: Strings = ()
    task: Task | None = None
    test_size: Share = 0.2
    validation_size: Share = 0.1
    seed: Seed = 0
    stratify: bool | None = None
    group: str | None = None
    time: str | None = None
    sample_weight: str | None = None
    folds: int | None = Field(default=None, ge=2, le=1000)
    normalize: bool | Literal["auto"] | None = None

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> Self:
        if self.stratify and (self.group or self.time):
            raise ValueError("stratify with group or time; leave stratify out")
        return self

    @property
    def kind(self) -> str:
        """`sklearn`, `csv`, `parquet`, `npz` or `python`."""
        prefix = self.source.partition(":")[0]
        return prefix if prefix in SOURCES else "python"

    @property
    def reader(self) -> Source:
        """What is known of this kind of source."""
        return SOURCES.get(self.kind, PYTHON)

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns; empty when none is named."""
        return (self.target,) if isinstance(self.target, str) else self.target or ()

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """The columns that the study names, by key."""
        single = {key: getattr(self, key) for key in ("group", "time", "sample_weight")}
        one_each = {key: (name,) for key, name in single.items() if name}
        return {"target": self.targets, "features": self.features or (), "drop": self.drop, **one_each}


class ModelDefinition(Table):
    """What builds the model; every further key is an argument that stays fixed.

    Attributes:
        build: `mlp`, `<file.py>:<function>` or `<module>:<function>`.
        export: `<file.py>:<function>`, called as `export(model, data)`: returns the model to register where
            that is another than the one trained.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)

    build: str = "mlp"
    export: Function | None = None

    @property
    def fixed(self) -> dict[str, Scalar]:
        """The arguments of the builder that this file fixes."""
        return dict(self.model_extra or {})


class EarlyStopping(Table):
    """Stop when the metric has not improved for `patience` epochs; best weights are restored.

    Attributes:
        patience: Epochs without improvement before training stops.
        min_delta: A smaller change than this is no improvement.
        start_from_epoch: Epochs that are trained before it begins to watch.
    """

    patience: Count
    min_delta: float = Field(default=0.0, ge=0)
    start_from_epoch: int = Field(default=0, ge=0, le=10**9)


class LearningRateSchedule(Table):
    """How the learning rate changes with the epochs.

    Attributes:
        type: `cosine` falls to `minimum` over all epochs, `exponential` multiplies by `factor`
            after each, `plateau` multiplies by `factor` when the metric stands still.
        factor: The multiplier of `exponential` and `plateau`, in (0, 1).
        patience: Epochs without improvement before `plateau` acts.
        minimum: The lowest learning rate.
    """

    type: Literal["cosine", "exponential", "plateau"]
    factor: Share = 0.5
    patience: Count = 5
    minimum: float = Field(default=0.0, ge=0)


class CallbackDefinition(Table):
    """A callback; every further key is an argument of it.

    Attributes:
        kind: The key `class`: a name in `keras.callbacks`, `<file.py>:<class>` or `<module>:<class>`.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    kind: str = Field(alias="class", min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """The callback's arguments."""
        return dict(self.model_extra or {})


def _callbacks(value: object) -> object:
    """Return a list of names and tables as tables alone; one text is a function that returns the list."""
    if isinstance(value, str) and not all(parted(value)):
        raise ValueError(f"{value!r} is not a list; use a list of names and tables, or '<file.py>:<function>'")
    if isinstance(value, list | tuple):
        return tuple({"class": each} if isinstance(each, str) else each for each in value)
    return value


Callbacks = Annotated[str | tuple[CallbackDefinition, ...], BeforeValidator(_callbacks)]


class MetricDefinition(Table):
    """A metric of the user's own, logged as `val_<name>` and `test_<name>`.

    Attributes:
        function: `<file.py>:<function>` or `<module>:<function>`, called as `f(y_true, y_pred, **options)`.
        options: Its keyword arguments.
        threshold: Give it classes instead of probabilities: above this probability (of hinge: this score) a class is
            1; of several outputs the largest. When left out: classes only if the function takes no probabilities.
        every_epoch: Measure it after each epoch, not only at the end of training.
    """

    function: Function
    options: dict[str, Any] = Field(default_factory=dict)
    threshold: float | None = None
    every_epoch: bool = False


class FitDefinition(Table):
    """Settings of `fit`; `epochs` and `batch_size` may be in `[space]` instead.

    Attributes:
        epochs: How long to train; may be in `[space]` instead.
        batch_size: Rows in a batch.
        early_stopping: Stop a trial that no longer improves.
        class_weight: `balanced`, or a weight for each class label.
        precision: Keras's dtype policy.
        callbacks: Names and tables of callbacks, or `<file.py>:<function>`, called as `callbacks(trial, data)`
            or, by its parameters, `callbacks(trial, data, model)`.
        function: `<file.py>:<function>`, the user's own training, called as `fit(trial, model, data, epochs=…,
            batch_size=…, callbacks=[…])`; it may return the trained model too: `(history, model)`.
        shuffle: Whether the training rows get a new order in each epoch.
        steps_per_epoch: Batches in an epoch, for streams that do not say.
        validation_steps: Batches of the validation and test part, for streams that do not say.
        validation_freq: After how many epochs the validation part is measured each time; also after the last.
        checkpoint: Whether a killed trial goes on from its last epoch; `auto` once an epoch takes seconds.
        keep_epoch: The epoch whose weights the model keeps and whose metrics the trial records: `last`, or
            `best` in the study's metric. When left out: `last`, or `best` with early stopping.
        gpus: How many GPUs a trial trains on; each batch is shared out among them. TensorFlow alone.
    """

    epochs: Count | None = None
    batch_size: Count = 32
    early_stopping: EarlyStopping | None = None
    learning_rate_schedule: LearningRateSchedule | None = None
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    callbacks: Callbacks = ()
    function: Function | None = None
    shuffle: bool = True
    steps_per_epoch: Count | None = None
    validation_steps: Count | None = None
    validation_freq: Count = 1
    checkpoint: Literal["auto"] | bool = "auto"
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    keep_epoch: Literal["best", "last"] | None = None
    gpus: int = Field(default=1, ge=1, le=1024)


class WarmStart(Table):
    """The best trials of another study are tried first.

    Attributes:
        study: The other study's name.
        storage: Where it is kept, also `@path` or `env:NAME`; `studies/<study>.journal` when left out.
        n_trials: How many of its best trials to try.
    """

    study: str = Field(min_length=1)
    storage: Annotated[str, AfterValidator(SecretUrl)] | None = None
    n_trials: Count = 5


class SearchDefinition(SearchOptions):
    """Defaults for the command line's flags, and how to choose between trials.

    Attributes:
        sampler_options: The sampler's keyword arguments.
        pruner_options: The pruner's keyword arguments.
        warm_start: Try the best trials of another study first.
        patience: Stop after this many trials without a better one.
        terminator: Stop when Optuna's terminator expects no further progress.
        target: Stop when the metric is at least this good.
        constraints: Conditions such as `latency_ms <= 5` that a best trial must meet.
        repeats: Train a configuration under this many seeds and compare the mean.
        retries: How often the configuration of a trial that died with its worker is tried again.
        keep: Of how many of the best trials the models are kept; the best one's alone is registered.
        refit: Train a trial that is among the best once more on training and validation rows together, for as
            many epochs as were best; with folds every trial is trained so.
    """

    sampler_options: dict[str, Any] = Field(default_factory=dict)
    pruner_options: dict[str, Any] = Field(default_factory=dict)
    target: float | None = None
    patience: Count | None = None
    terminator: bool = False
    constraints: Strings = ()
    repeats: int = Field(default=1, ge=1, le=1000)
    retries: int = Field(default=1, ge=0, le=1000)
    warm_start: WarmStart | None = None
    keep: Count = 1
    refit: bool = False

    @field_validator("constraints")
    @classmethod
    def _readable(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        for constraint in constraints:
            parse_constraint(constraint)
        return constraints


def parse_constraint(text: str) -> tuple[str, str, float]:
    """Return the metric, operator and bound of a constraint such as `latency_ms <= 5`."""
    match = _CONSTRAINT.fullmatch(text)
    try:
        bound = float(match["bound"]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise ValueError(f"'{text}' is not a valid constraint; write for example 'latency_ms <= 5'")
    return match["metric"], match["operator"], bound


class Definition(Table):
    """A checked study file.

    Attributes:
        name: Study name, MLflow experiment and registered model.
        metric: One Keras log name or trial metric, or several for a multi-objective study.
        direction: `minimize` or `maximize`, one for each metric.
        description: What the study asks, in a sentence; MLflow's pages show it.
        space: The hyperparameters by name; `preset = "mlp"` adds what is worth searching for the built-in model.
        enqueue: Configurations to try first; what is left out is sampled.
        own_metrics: The table `metrics`: metrics of the user's own, by name.
        path: Where the file stands; paths in it are relative to its folder.
        text: The file as it was read.
    """

    name: StudyName
    metric: str | Strings
    direction: Direction | Annotated[tuple[Direction, ...], BeforeValidator(as_tuple)]
    description: str = ""
    data: DataDefinition
    model: ModelDefinition = ModelDefinition()
    fit: FitDefinition = FitDefinition()
    own_metrics: dict[str, MetricDefinition] = Field(default_factory=dict, alias="metrics")
    space: dict[str, Parameter] = Field(default_factory=dict)
    enqueue: Annotated[tuple[dict[str, Scalar], ...], BeforeValidator(as_tuple)] = ()
    search: SearchDefinition = SearchDefinition()
    path: Path = Field(default=Path(), exclude=True)
    text: str = Field(default="", exclude=True, repr=False)

    def averaging(self, ensemble: int) -> Definition:
        """Return the study with this `[search] ensemble`."""
        return self.model_copy(update={"search": self.search.model_copy(update={"ensemble": ensemble})})

    def error(self, key: str, found: str, expected: str) -> StudyFileError:
        """Return the error that something under a key cannot be; the arguments are those of `StudyFileError`."""
        return StudyFileError(str(self.path), key, found, expected)

    @property
    def trainings(self) -> int:
        """How often a trial trains: once for each fold, or for each repeat."""
        return self.data.folds or self.search.repeats

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics, one for each objective."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions, one for each objective."""
        return (self.direction,) if isinstance(self.direction, str) else self.direction

    @property
    def references(self) -> dict[str, str]:
        """What the file names in Python, `<file.py>:<name>` or `<module>:<name>`, and its data, by key."""
        callbacks = self.fit.callbacks
        named = {"model.build": self.model.build, "data.source": self.data.source}
        named |= {"model.export": self.model.export or "", "fit.function": self.fit.function or ""}
        chosen = {f"search.{key}": getattr(self.search, key) for key in ("sampler", "pruner")}
        named |= {key: code for key, code in chosen.items() if ":" in code}
        if isinstance(callbacks, str):
            named["fit.callbacks"] = callbacks
        else:
            named |= {f"fit.callbacks[{index}]": each.kind for index, each in enumerate(callbacks)}
        named |= {f"metrics.{name}.function": each.function for name, each in self.own_metrics.items()}
        return {key: reference for key, reference in named.items() if reference}

    @property
    def files(self) -> dict[str, Path]:
        """The files that the study names, Python and data, by the key that names each; relative to `folder`."""
        found = {}
        for key, reference in self.references.items():
            where, rest = parted(reference)
            if key == "data.source" and self.data.reader.file:
                found[key] = Path(rest)
            elif where.endswith(".py"):
                found[key] = Path(where)
        return found

    @property
    def data_file(self) -> Path | None:
        """The file that the data lie in; None where code gives them."""
        return self.folder / self.data.source.partition(":")[2] if self.data.reader.file else None

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.path.parent

    def wrong(self, key: str, found: str, expected: str, *others: tuple[str, str, str]) -> StudyFileError:
        """Return the error that a key says what cannot be, and others too."""
        return StudyFileError(str(self.path), key, found, expected, others)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of the checked content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]

    def better(self, value: float, than: float, objective: int = 0) -> bool:
        """Return whether `value` is strictly better than `than`."""
        return value < than if self.directions[objective] == "minimize" else value > than


def value_now(key: str, values: Mapping[str, Any]) -> Any:
    """Return the value of a key of `[data]`, `[fit]` or `[model]`, as JSON, with the defaults of this release.

    Args:
        key: For example `fit.early_stopping`.
        values: Values by such keys, as this or another release wrote them; a key that is missing has its default.
    """
    table, _, name = key.partition(".")
    tables: dict[str, type[Table]] = {"data": DataDefinition, "fit": FitDefinition, "model": ModelDefinition}
    field = tables[table].model_fields.get(name) if table in tables else None
    if field is None:
        return values.get(key)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    value = values.get(key, default)
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or Any)
    try:
        return adapter.dump_python(adapter.validate_python(value), mode="json", by_alias=True)
    except ValidationError:  # another release wrote it
        return value
