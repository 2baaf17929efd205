"""Checks of a study file that need more than one key: keys that contradict each other, files that are missing."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping

from search.errors import nearest_first
from search.studyfile.messages import Finding
from search.studyfile.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    Scalar,
    contains_value,
    describe,
    written,
)
from search.studyfile.registry import parted
from search.studyfile.schema import TRIAL_METRICS, Definition, FitDefinition, is_file, parse_constraint

FIT_PARAMETERS = ("epochs", "batch_size")

# What the built-in model takes: each kind of value, its bounds (included, but for dropout's 1).
MLP_BOUNDS: Mapping[str, Parameter] = {
    "width": IntParameter(type="int", low=1, high=10**6),
    "depth": IntParameter(type="int", low=0, high=1000),
    "dropout": FloatParameter(type="float", low=0.0, high=1 - 1e-9),
    "learning_rate": FloatParameter(type="float", low=0.0, high=1e6),
    "weight_decay": FloatParameter(type="float", low=0.0, high=1e6),
    "batch_norm": CategoricalParameter(type="categorical", choices=(True, False)),
}
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

MLP_LOGS = ("loss", "accuracy", "binary_accuracy", "mae")  # of all tasks; after validation with `val_` before it

_METRIC_NAME = re.compile(r"\w[\w.-]{0,99}")
_PARAMETER_NAME = re.compile(r"[\w./ -]{1,200}")


def check_together(definition: Definition) -> None:
    """Check a study file as a whole.

    Raises:
        StudyFileError: Keys contradict each other, or something named does not exist; it names all of them.
    """
    checks = (_objectives, _search, _space, _fit_parameters, _fit, _builder, _enqueued, _data, _files)
    wrong: dict[str, Finding] = {}
    for check in checks:
        for each in check(definition):
            wrong.setdefault(each[0], each)
    if wrong:
        (key, found, expected), *others = wrong.values()
        raise definition.wrong(key, found, expected, *others)


def _objectives(definition: Definition) -> Iterator[Finding]:
    metrics, directions = definition.metrics, definition.directions
    if not metrics or not all(metrics):
        yield "metric", "empty", "give a metric's name, for example 'val_loss'"
    for metric in metrics:
        if metrics.count(metric) > 1:
            yield "metric", f"'{metric}' is named twice", "name each metric once"
        if metric.startswith("test_"):
            yield "metric", f"'{metric}' would choose by the test part", f"use 'val_{metric.removeprefix('test_')}'"
    if len(metrics) != len(directions):
        yield (
            "direction",
            f"{len(directions)} for {len(metrics)} metric{'s' if len(metrics) > 1 else ''}",
            "give one direction for each metric",
        )


_HIGH = (
    "acc|accuracy|auc|precision|recall|sensitivity|specificity|f|f\\d(?:score)?|f_?beta|r2|iou|io_u|dice|jaccard|kappa|mcc|"
    "ndcg|corrcoef|correlation|spearmanr?|pearsonr?|explained_variance|concordance|psnr|ssim|bleu|rouge|"
    "hit_rate|true_positives|true_negatives"
)
_LOW = (
    "loss|log_?loss|error|[mr]?mse|r?msle|mae|medae|[sw]?mape|wape|[bc]ce|crossentropy|nll|hinge|huber|deviance|"
    "perplexity|kl_divergence|kld|poisson|log_?cosh|brier|brier_score|wer|cer|false_positives|false_negatives"
)
_BETTER_HIGH = re.compile(rf"(.*_)?({_HIGH})(_.*)?")
_BETTER_LOW = re.compile(rf"(.*_)?({_LOW})(_rate|_\d+)?")


def wrong_directions(definition: Definition) -> Iterator[str]:
    """Yield what to say of each metric whose name says that the other direction is better."""
    for metric, direction in zip(definition.metrics, definition.directions, strict=True):
        name = metric.removeprefix("val_").lower()
        low = metric in TRIAL_METRICS or _BETTER_LOW.fullmatch(name)
        right = "minimize" if low else "maximize" if _BETTER_HIGH.fullmatch(name) else direction
        if right != direction:
            of = f" for {metric}" if len(definition.metrics) > 1 else ""
            yield f'direction = "{direction}" makes the worst {metric} the best; use direction = "{right}"{of}'


def _search(definition: Definition) -> Iterator[Finding]:
    search = definition.search
    several = len(definition.metrics) > 1
    for key, given in (("repeats", search.repeats > 1), ("target", search.target), ("terminator", search.terminator)):
        if several and given is not None and given is not False:
            yield f"search.{key}", "given with several metrics", "use one metric, or leave it out"
    if search.repeats > 1 and definition.data.folds:
        yield "search.repeats", "given with data.folds", "use one of the two"
    for index, text in enumerate(search.constraints):
        metric = parse_constraint(text)[0]
        if metric.startswith("test_"):
            yield f"search.constraints[{index}]", f"'{metric}' would choose by the test part", "use a val_ metric"
    wanted = search.warm_start
    if wanted and wanted.study == definition.name and wanted.storage is None:
        yield "search.warm_start.study", f"'{wanted.study}' is this study itself", "name another study"


def _space(definition: Definition) -> Iterator[Finding]:
    suggests = definition.model.build != "mlp" or definition.fit.function or definition.data.kind == "python"
    if not definition.space and not suggests:
        yield "space", "empty", "give at least one parameter to search"
    for name in definition.space:
        key = f"space.{name}"
        if not _PARAMETER_NAME.fullmatch(name) or posixpath.normpath(name) != name or name.startswith(("/", "..")):
            yield key, "not a valid parameter name", "use letters, digits, '_', '-', '.' and single '/' inside"
        if name in definition.model.fixed:
            yield f"model.{name}", "fixed here and searched in [space]", "leave one of the two out"
        if name == "build":
            yield key, "the name of a key of [model]", "use another name"


def _fit_parameters(definition: Definition) -> Iterator[Finding]:
    for name in definition.model.fixed:
        if name in FitDefinition.model_fields:
            right = "[fit] or [space]" if name in FIT_PARAMETERS else "[fit]"
            yield f"model.{name}", "a setting of fit, not of the model", f"put it in {right}"
    for name in definition.space:
        if name in FitDefinition.model_fields and name not in FIT_PARAMETERS:
            yield f"space.{name}", "cannot be searched", "put it in [fit]"
    if "epochs" not in definition.space and definition.fit.epochs is None:
        yield "space.epochs", "epochs is not given", "add epochs to [space] or to [fit]"
    for name in FIT_PARAMETERS:
        parameter = definition.space.get(name)
        if parameter is not None and not _counts(parameter):
            yield f"space.{name}", "not only whole numbers of at least 1", 'use type = "int" with low of at least 1'
        if parameter is not None and name in definition.fit.model_fields_set:
            yield f"fit.{name}", "fixed here and searched in [space]", "leave one of the two out"
    yield from _batches_of_gpus(definition)


def _batches_of_gpus(definition: Definition) -> Iterator[Finding]:
    gpus, parameter = definition.fit.gpus, definition.space.get("batch_size")
    right = f"use multiples of {gpus}: [fit] gpus = {gpus} shares each batch out"
    if parameter is None and definition.fit.batch_size % gpus:
        yield "fit.batch_size", str(definition.fit.batch_size), right
    sizes = parameter.choices if isinstance(parameter, CategoricalParameter) else ()
    if isinstance(parameter, IntParameter):
        sizes = (parameter.low, parameter.step or 1)
    if parameter is not None and _counts(parameter) and any(int(size) % gpus for size in sizes):
        yield "space.batch_size", describe(parameter), right


def _fit(definition: Definition) -> Iterator[Finding]:
    for name in definition.own_metrics:
        if not _METRIC_NAME.fullmatch(name) or name.startswith(("val_", "test_")):
            yield f"metrics.{name}", "not a valid metric name", "use letters, digits and '_'; 'val_' is put before it"


def _counts(parameter: Parameter) -> bool:
    if isinstance(parameter, CategoricalParameter):
        return all(type(choice) is int and choice >= 1 for choice in parameter.choices)
    return isinstance(parameter, IntParameter) and parameter.low >= 1


def _builder(definition: Definition) -> Iterator[Finding]:
    build = definition.model.build
    if build == "mlp":
        yield from _mlp(definition)
    elif not all(parted(build)):
        yield (
            "model.build",
            f"{written(build)} is not a builder",
            nearest_first(build, ["mlp"], "use 'mlp', '<file.py>:<function>' or '<module>:<function>'"),
        )


def _mlp(definition: Definition) -> Iterator[Finding]:
    known = (*FIT_PARAMETERS, *MLP_PARAMETERS)
    from_code = definition.data.kind == "python"  # a data function may take further parameters: `check_parameters`
    for table, keys in (("space", definition.space if not from_code else {}), ("model", definition.model.fixed)):
        for key in keys:
            if key not in known:
                yield (
                    f"{table}.{key}",
                    "the built-in 'mlp' has no such parameter",
                    nearest_first(key, known, f"it has {', '.join(known)}"),
                )
    for name, value in definition.model.fixed.items():
        if not _suits(name, value):
            yield f"model.{name}", written(value), f"use {_wanted(name)}"
    for name, parameter in definition.space.items():
        extremes = parameter.choices if isinstance(parameter, CategoricalParameter) else (parameter.low, parameter.high)
        for value in extremes if name in MLP_PARAMETERS else ():
            if not _suits(name, value) or (isinstance(parameter, FloatParameter) and name in ("width", "depth")):
                yield f"space.{name}", f"{describe(parameter)}", f"'{name}' takes {_wanted(name)}"


def check_parameters(definition: Definition, taken: tuple[str, ...]) -> None:
    """Refuse parameters of `[space]` that neither the built-in model nor the data function takes.

    Args:
        taken: The parameters that the data function takes.

    Raises:
        StudyFileError: One has no effect.
    """
    known = (*FIT_PARAMETERS, *MLP_PARAMETERS, *taken)
    for name in definition.space if definition.model.build == "mlp" else ():
        if name not in known:
            raise definition.wrong(
                f"space.{name}",
                "neither the built-in 'mlp' nor the data function has such a parameter",
                nearest_first(name, known, f"there are {', '.join(known)}"),
            )


def _suits(name: str, value: Scalar) -> bool:
    return contains_value(MLP_BOUNDS[name], value) if name in MLP_BOUNDS else isinstance(value, str) and value != ""


def _wanted(name: str) -> str:
    bounds = MLP_BOUNDS.get(name)
    if bounds is None:
        return "a name that Keras knows"
    if isinstance(bounds, CategoricalParameter):
        return "true or false"
    kind = "whole numbers" if isinstance(bounds, IntParameter) else "numbers"
    return f"{kind} of at least {bounds.low:g}{' and below 1' if name == 'dropout' else ''}"


def _enqueued(definition: Definition) -> Iterator[Finding]:
    for index, configuration in enumerate(definition.enqueue):
        if not configuration:
            yield f"enqueue[{index}]", "empty", "give at least one parameter"
        for name, value in configuration.items():
            key, parameter = f"enqueue[{index}].{name}", definition.space.get(name)
            if parameter is None and definition.model.build == "mlp" and definition.data.kind != "python":
                has = f"[space] has {', '.join(definition.space)}"
                yield key, "not in [space]", nearest_first(name, definition.space, has)
            if parameter is not None and not contains_value(parameter, value):
                yield key, f"{written(value)} is outside the space", f"use {describe(parameter)}"
            if isinstance(value, float) and not math.isfinite(value):
                yield key, written(value), "use a finite number"


def _data(definition: Definition) -> Iterator[Finding]:
    data = definition.data
    if data.reader.table and data.target is None:
        yield "data.target", "missing", "name the target column"
    for key in ("target", "features"):
        if getattr(data, key) in ("", ()):
            yield f"data.{key}", "empty", "name at least one column, or leave it out"
    yield from _columns(definition)


def _columns(definition: Definition) -> Iterator[Finding]:
    data = definition.data
    for key, given in (("features", data.features or ()), ("drop", data.drop)):
        for column in given:
            if column in data.targets:
                yield f"data.{key}", f"names the target '{column}'", "a model must not see its target; leave it out"
    both = set(data.features or ()) & set(data.drop)
    if both:
        yield "data.drop", f"'{min(both)}' is in features too", "leave one of the two out"
    for key in ("group", "time", "sample_weight"):
        if getattr(data, key) is not None and getattr(data, key) in data.targets:
            yield f"data.{key}", "is the target", "name another column"
    if data.sample_weight is not None and data.sample_weight in (data.features or ()):
        yield "data.sample_weight", f"'{data.sample_weight}' is in features too", "leave one of the two out"


def _files(definition: Definition) -> Iterator[Finding]:
    for key, file in definition.files.items():
        if not is_file(definition.folder / file):
            yield key, f"no file {definition.folder / file}", "paths are relative to the study file"
