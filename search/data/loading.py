"""From a study's source to its data: loaded, checked, split; once for all trials, or for each trial."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optree

from search.data import sources, splits, streams, targets
from search.data import table as rows
from search.data.dataset import Data, Part
from search.data.facts import merging, of_targets
from search.data.given import ALL, TEST, TRAIN, VALIDATION, Given, are_arrays, is_table, parts_of, rows_of
from search.data.table import Rows
from search.data.targets import AnyTask
from search.errors import DataError
from search.studyfile.messages import pasted
from search.studyfile.objects import PREFIX
from search.studyfile.schema import DataDefinition, Definition

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from optuna.trial import BaseTrial


_KEPT = 4  # configurations whose data stay in memory
_SECOND = (
    "of the two parts that the data function returns, the second is the test part, and the validation part is cut "
    'from the first; return {"train": …, "validation": …} if you mean otherwise'
)

_UNVALIDATED = (
    "there is no validation part, and the stream cannot be cut: trials are compared by {} of the training part; "
    'return {{"train": …, "validation": …}} to compare them on other rows'
)


class TrialData:
    """The data of each trial: the same for all, or what the data function returns for its parameters.

    Args:
        definition: The study file.
        fold_seed: Draws other folds than the study's; the test part stays.
        same: The data of all trials where they are loaded already.
    """

    def __init__(self, definition: Definition, fold_seed: int | None = None, same: Data | None = None) -> None:
        self._definition, self._fold_seed = definition, fold_seed
        if same is None and not sources.reads_trial(definition):
            same = load(definition, fold_seed=fold_seed)
        self._same = same
        self._kept: list[tuple[dict[str, Any], Data]] = []

    @property
    def same(self) -> Data | None:
        """The data of all trials; None where they depend on the trial."""
        return self._same

    def of(self, trial: BaseTrial) -> Data:
        """Return the data of a trial.

        Raises:
            DataError: They cannot be loaded for this trial.
        """
        if self._same is not None and not self._same.spent_by_reading:
            return self._same
        if self._same is not None:
            return load(self._definition, fold_seed=self._fold_seed)
        taken = sources.taken(self._definition, trial)
        data = next((data for known, data in self._kept if _same_values(known, taken)), None)
        data = load(self._definition, trial, self._fold_seed) if data is None else data
        self._kept = [(taken, data), *(kept for kept in self._kept if kept[1] is not data)][:_KEPT]
        return data


def _same_values(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether a function takes the same: equal parameters, of the same type; of a trial that trial."""
    return all(type(value) is type(other[name]) and value == other[name] for name, value in one.items())


def load(definition: Definition, trial: Any = None, fold_seed: int | None = None) -> Data:
    """Load, check and split the data of a study.

    Args:
        definition: The study file.
        trial: The trial whose parameters a data function takes; None where it takes none.
        fold_seed: Draws other folds than the study's.

    Raises:
        DataError: They cannot be read, have no such column, or hold nothing to learn.
    """
    try:
        data = _load(definition, trial, fold_seed)
    except DataError as error:
        raise DataError(_told(definition, str(error))) from error
    return replace(data, doubts=tuple(_told(definition, doubt) for doubt in data.doubts))


def _told(definition: Definition, text: str) -> str:
    """Return a sentence in the words of whoever gave the data: a study file's, or Python's."""
    if not definition.data.source.startswith(f"{PREFIX}:"):
        return pasted(text, definition)
    keys = "|".join(DataDefinition.model_fields)
    text = (
        text.replace(f"data.source: {PREFIX}:data", "data").replace(f"{PREFIX}:data", "data").replace(" in [data]", "")
    )
    return re.sub(r"\b(\w+) = (?=[\[{\"\dtf])", r"\1=", re.sub(rf"\bdata\.({keys})\b", r"\1", text))


def _load(definition: Definition, trial: Any, fold_seed: int | None) -> Data:
    settings = definition.data
    loaded = sources.read(definition, trial)
    name = settings.source.rpartition(":")[2] if settings.kind in ("sklearn", "python") else Path(settings.source).stem
    parts = parts_of(loaded, settings.source)
    if any(part.streamed for part in parts.values()):
        return _streamed(parts, definition, name, depends=trial is not None)
    together = _joined_rows(list(parts.values()), settings)
    if definition.model.build == "mlp" and not together.columns and together.doubts:
        raise DataError(f"data: {together.doubts[0]}")
    if not together.columns:
        together = replace(together, doubts=(*together.doubts, *merging(together.x)))
    lengths = {part: rows_of(given.x if given.y is None else given.y) for part, given in parts.items()}
    if settings.kind == "python" and isinstance(loaded, tuple | list) and set(parts) == {TRAIN, TEST}:
        together = replace(together, doubts=(*together.doubts, _SECOND))
    return _split(together, lengths, definition, name, depends=trial is not None, fold_seed=fold_seed)


def _read_rows(part: Given, settings: DataDefinition) -> Rows:
    """Return the rows of one part, checked."""
    if is_table(part.x):
        return rows.from_table(part.x, settings, part.y, part.weight, targets_inside=part.alone)
    return rows.from_arrays(part.x, part.y, settings, part.weight)


def _joined_rows(parts: Sequence[Given], settings: DataDefinition) -> Rows:
    """Return the rows of all parts behind one another."""
    if len(parts) == 1:
        return _read_rows(parts[0], settings)
    weights = [part.weight for part in parts]
    if any(weight is not None for weight in weights):  # as in Keras, rows without a weight count once
        weights = [np.ones(rows_of(part.x), "float32") if part.weight is None else part.weight for part in parts]
    x, y, weight = _joined([part.x for part in parts]), _joined([part.y for part in parts]), _joined(weights)
    return _read_rows(Given(x, y, weight, alone=parts[0].alone), settings)


def _joined(parts: Sequence[Any]) -> Any:
    """Return the rows of several parts behind one another; None where no part has any."""
    if all(part is None for part in parts):
        return None
    try:
        return _concatenated(parts)
    except Exception:  # whatever arrays and tables raise that do not go together
        raise DataError(
            "data.source: the given parts have different shapes; give each the same columns, inputs and weights"
        ) from None


def _concatenated(parts: Sequence[Any]) -> Any:
    import pandas as pd

    def together(*given: Any) -> Any:
        if isinstance(given[0], pd.DataFrame | pd.Series):
            return pd.concat(given, ignore_index=True)
        return np.concatenate(
            [rows.dense(array) if hasattr(array, "toarray") else targets.as_known(array) for array in given]
        )

    first = parts[0]
    if not isinstance(first, dict) and not are_arrays(first):  # a list may be the rows
        return together(*parts)
    return optree.tree_map(together, *parts)


def _split(
    together: Rows,
    lengths: Mapping[str, int],
    definition: Definition,
    name: str,
    *,
    depends: bool,
    fold_seed: int | None,
) -> Data:
    settings = definition.data
    goal = targets.read(together.y, settings, encode=definition.model.build == "mlp")
    if settings.stratify and goal.labels is None:
        raise DataError(f"data.stratify: keeps the shares of classes, and the task is {goal.task}; leave it out")
    labels = goal.labels if settings.stratify is not False else None
    chosen = splits.split(together, lengths, settings, labels, steady=depends, fold_seed=fold_seed)
    whole = replace(together, y=goal.y)

    def part(numbers: NDArray[np.intp]) -> Part:
        taken = whole.take(numbers)
        return Part(taken.x, taken.y, taken.weight)

    test, held_out = part(chosen.test), chosen.rest if chosen.folds else chosen.validation
    return Data(
        task=goal.task,
        classes=goal.classes,
        columns=together.columns,
        train=part(chosen.training),
        validation=part(chosen.validation),
        test=test,
        normalize=_normalizes(together, settings),
        name=name,
        # What a data function returns differs from trial to trial; the targets of the held-out rows do not.
        digest=rows.digest_of(test.y) if depends and test.y is not None else together.digest,
        cut="" if depends else _cut_as(lengths, together, labels),
        encoded=goal.encoded,
        given=tuple(lengths),
        doubts=(*together.doubts, *of_targets(goal, together.y, chosen)),
        folds=chosen.folds,
        rest=part(chosen.rest) if chosen.folds else None,
        test_rows=chosen.test,
        test_group=None if whole.group is None else whole.group[chosen.test],
        validation_group=None if whole.group is None else whole.group[held_out],
    )


def _cut_as(lengths: Mapping[str, int], together: Rows, labels: NDArray[Any] | None) -> str:
    """Return how rows were cut where releases differ in it, or which parts were given."""
    if len(lengths) > 1:
        return ", ".join(f"{count} {part}" for part, count in lengths.items())
    if together.time is not None and len(np.unique(together.time)) < len(together):
        return "one, cut between two times"
    return "one, cut by labels" if labels is not None and labels.ndim == 2 and together.group is None else ""


def _normalizes(together: Rows, settings: DataDefinition) -> bool:
    """Return whether preprocessing layers scale the numbers."""
    if settings.normalize == "auto":
        return bool(together.columns) or (isinstance(together.x, np.ndarray) and together.x.ndim > 1)
    return bool(together.columns) if settings.normalize is None else settings.normalize


_COLUMN_KEYS = ("target", "features", "drop", "group", "time", "folds", "stratify", "normalize", "sample_weight")


def _streamed(parts: dict[str, Given], definition: Definition, name: str, *, depends: bool) -> Data:
    """Return the data behind streams, never copied; parts of arrays may stand beside them."""
    settings = definition.data
    for key in _COLUMN_KEYS:
        if getattr(settings, key) and (key, getattr(settings, key)) != ("normalize", "auto"):
            raise DataError(f"data.{key}: streams yield batches as they are; leave it out")
    if any(part.streamed and part.y is not None for part in parts.values()):
        raise DataError("data.source: streams beside other values; a stream yields its targets with its inputs")
    given = _cut(parts, definition)
    steps = {
        TRAIN: definition.fit.steps_per_epoch,
        **dict.fromkeys((VALIDATION, TEST), definition.fit.validation_steps),
    }
    for part, stream in given.items():
        if stream.streamed:
            streams.check_ends(stream.x, steps[part], part)
    made = {part: _stream_part(of_part, settings) for part, of_part in given.items()}
    if made[TRAIN].streamed:
        first, begun = streams.peek(made[TRAIN].x)
        made[TRAIN] = Part(begun, None)
        seen = streams.targets(begun, first[1])
    else:
        few = made[TRAIN].take(slice(0, 1))
        first, seen = (few.x, few.y), few.y
    if definition.model.build == "mlp":
        targets.check_one(seen)
    task, classes = _stream_task(seen, settings)
    counts = [np.asarray([streams.length(part.x) or 0]) for part in given.values() if part.streamed]
    return Data(
        task=task,
        classes=classes,
        columns=(),
        train=made[TRAIN],
        validation=made.get(VALIDATION),
        test=made.get(TEST),
        normalize=False,
        name=name,
        digest=sources.code_digest(definition) if depends else rows.digest_of(*first, *counts),
        cut="" if depends else _digest_of_parts(made),
        given=tuple(parts),
        doubts=() if VALIDATION in made else (_UNVALIDATED.format(", ".join(definition.metrics)),),
        _first=first,
    )


def _digest_of_parts(made: Mapping[str, Part]) -> str:
    """Return eight hexadecimal digits of the parts in memory and of the first batches of streams."""
    known = [
        streams.sample(part.x) if part.streamed else [part.x, part.y, part.sample_weight] for part in made.values()
    ]
    return rows.digest_of(np.asarray(",".join(made)), *known)


def _cut(parts: dict[str, Given], definition: Definition) -> dict[str, Given]:
    """Return the parts by name; what came as one stream, or without a validation part, is cut."""
    settings = definition.data
    if ALL in parts:
        whole = parts[ALL]
        ahead, test = streams.cut(whole.x, settings.test_size, "test_size")
        parts = {TRAIN: replace(whole, x=ahead), TEST: replace(whole, x=test)}
    if VALIDATION not in parts:
        if not parts[TRAIN].streamed:
            raise DataError('data.source: give a validation part, {"train": …, "validation": …, "test": …}')
        try:
            ahead, validation = streams.cut(parts[TRAIN].x, settings.validation_size, "validation_size")
        except DataError:
            if _validates(definition):
                raise
            return dict(parts)
        parts = {**parts, TRAIN: replace(parts[TRAIN], x=ahead), VALIDATION: replace(parts[TRAIN], x=validation)}
    return dict(parts)


def _validates(definition: Definition) -> bool:
    """Return whether something in the study needs a validation part: its metrics may be those of training."""
    chosen = (*definition.metrics, *definition.search.constraints)
    by_epoch = definition.fit.early_stopping or definition.fit.keep_epoch == "best"
    return bool(by_epoch or definition.own_metrics or any(name.startswith("val_") for name in chosen))


def _stream_part(part: Given, settings: DataDefinition) -> Part:
    if part.streamed:
        return Part(part.x, None)
    read = _read_rows(part, settings)
    return Part(read.x, read.y, read.weight)


def _stream_task(y: Any, settings: DataDefinition) -> tuple[AnyTask, tuple[int, ...]]:
    """Return the task and the class indices of a stream, whose targets are numbers already."""
    if y is None:
        return "none", ()
    if not isinstance(y, np.ndarray):
        return "several", ()
    y = targets.plain(y)
    task = settings.task or targets.infer(y)
    if task == "regression" or y.ndim > 2:
        return "regression", ()
    if task == "binary":
        return task, (0, 1)
    if y.dtype.kind not in "fiub":
        raise DataError("data.source: a stream's targets must be numbers; yield class indices 0, 1, 2 …")
    return task, tuple(range(y.shape[1] if y.ndim == 2 else int(y.max()) + 1))
