"""The data of a study: loaded, checked, split. It knows nothing of models, trials or MLflow."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from search import features
from search.definition import DataDefinition, Definition, Task
from search.errors import DataError, ModelError, UsageError, did_you_mean, one_line
from search.features import Column, Preparation

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """Some rows of the data.

    Attributes:
        x: An array whose first axis is the rows, a dictionary or list of such, or a stream:
            anything `model.fit` takes that yields batches.
        y: Targets, first axis the rows; None for a stream.
    """

    x: Any
    y: NDArray[Any] | None

    @property
    def streamed(self) -> bool:
        """Whether `x` yields batches of its own instead of holding rows."""
        return self.y is None

    def __len__(self) -> int:
        return 0 if self.y is None else len(self.y)

    def take(self, rows: Any) -> Part:
        """Return these rows as a part of their own."""
        assert self.y is not None
        return Part(features.take(self.x, rows), self.y[rows])


@dataclass(frozen=True)
class Data:
    """What a model's builder is given.

    Attributes:
        task: `binary`, `multiclass`, `multilabel` or `regression`.
        classes: The labels behind the class indices 0, 1, …; empty for regression.
        columns: The columns of a table as the user sends them; empty for arrays.
        train: The rows to learn from.
        validation: The rows to choose by; None when a model is refitted on everything.
        test: The rows held out.
        normalize: Whether the preprocessing layers scale numbers.
        name: What to call the data in MLflow.
        digest: Eight hexadecimal digits that change when a value in the data changes.
        folds: Row numbers (training, validation) of each fold, counted in `rest`.
        rest: All rows but the test part.
    """

    task: Task
    classes: tuple[Any, ...]
    columns: tuple[Column, ...]
    train: Part
    validation: Part | None
    test: Part
    normalize: bool
    name: str
    digest: str
    folds: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = ()
    rest: Part | None = None
    _fitted: list[Preparation] = field(default_factory=list, repr=False, compare=False)

    @property
    def x(self) -> Any:
        """The training inputs."""
        return self.train.x

    @property
    def y(self) -> NDArray[Any] | None:
        """The training targets, class indices for classes."""
        return self.train.y

    @property
    def input_shape(self) -> Any:
        """The shape of one example, without the batch axis; by name or position for several inputs."""
        x = self.example(1)
        if isinstance(x, dict):
            return {name: tuple(each.shape[1:]) for name, each in x.items()}
        if isinstance(x, list | tuple):
            return [tuple(each.shape[1:]) for each in x]
        return tuple(x.shape[1:])

    @property
    def outputs(self) -> int:
        """How many numbers the model's last layer gives: classes, labels or targets."""
        if self.task == "multiclass":
            return len(self.classes)
        y = self.example_targets()
        return 1 if y.ndim == 1 else int(y.shape[1])

    def inputs(self) -> tuple[Any, Any]:
        """Return the Keras inputs and the prepared tensor, ready for the model's first layer.

        The inputs take the user's raw arrays, or the columns of a table; the preprocessing layers
        behind them were fitted on the training part alone.
        """
        if not self._fitted and not self.train.streamed:
            self._fitted.append(features.fit_preparation(self.train.x, self.normalize))
        preparation = self._fitted[0] if self._fitted else Preparation()
        return features.make_inputs(self.example(1), preparation)

    def example(self, rows: int = 3) -> Any:
        """Return the inputs of the first few training rows."""
        if not self.train.streamed:
            return features.take(self.train.x, slice(0, rows))
        return features.take(_first_batch(self.train.x)[0], slice(0, rows))

    def example_targets(self, rows: int = 3) -> NDArray[Any]:
        """Return the targets of the first few training rows."""
        y = self.train.y if self.train.y is not None else _first_batch(self.train.x)[1]
        return np.asarray(y[:rows])

    def fold(self, index: int) -> Data:
        """Return the data with training and validation rows of one fold."""
        assert self.rest is not None
        training, validation = self.folds[index]
        return replace(self, train=self.rest.take(training), validation=self.rest.take(validation), _fitted=[])

    def refit(self) -> Data:
        """Return the data with everything but the test part as training rows."""
        assert self.rest is not None
        return replace(self, train=self.rest, validation=None, _fitted=[])


def load(definition: Definition) -> Data:
    """Load, check and split the data of a study.

    Raises:
        DataError: They cannot be read, have no such column, or hold nothing to learn.
    """
    settings = definition.data
    try:
        loaded = _READERS[settings.kind](definition)
    except UsageError:
        raise
    except Exception as error:
        raise DataError(f"data.source: {settings.source} cannot be loaded ({one_line(error)})") from error
    name = settings.source.rpartition(":")[2] if settings.kind in ("sklearn", "python") else Path(settings.source).stem
    if _is_stream(loaded) or (isinstance(loaded, tuple | list) and loaded and _is_stream(loaded[0])):
        return _streamed(loaded, settings, name)
    if _is_pair(loaded):
        (x, y), (x_test, y_test) = loaded
        pool, test = _Pool.of(x, y, settings), _Pool.of(x_test, y_test, settings)
        return _split(pool, settings, name, test)
    if _is_frame(loaded):
        return _split(_Pool.of_frame(loaded, settings), settings, name)
    if not (isinstance(loaded, tuple | list) and len(loaded) == 2):
        raise DataError(
            f"data.source: {settings.source} returned {type(loaded).__name__}; return (x, y), "
            "((x_train, y_train), (x_test, y_test)), a data frame, or streams (train, test)"
        )
    return _split(_Pool.of(*loaded, settings), settings, name)


def load_object(reference: str, folder: Path, key: str) -> Any:
    """Return what `<file.py>:<name>` or `<module>:<name>` stands for.

    Raises:
        ModelError: The module cannot be imported, or has no such name.
    """
    where, _, name = reference.partition(":")
    try:
        module = _load_file(folder / where) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise ModelError(f"{key}: {where} cannot be imported ({one_line(error)})") from error
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise ModelError(f"{key}: {where} has no '{name}'{did_you_mean(name, known)}")
    return getattr(module, name)


def _load_file(path: Path) -> ModuleType:
    """Import a user's file once, under its own name, with its neighbours importable."""
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _read_sklearn(definition: Definition) -> Any:
    from sklearn import datasets

    name = definition.data.source.partition(":")[2]
    known = [each for each in dir(datasets) if each.startswith(("load_", "make_", "fetch_"))]
    if name not in known:
        raise DataError(f"data.source: scikit-learn has no '{name}'{did_you_mean(name, known)}")
    loaded = _call(getattr(datasets, name), definition.data.options, "data.options")
    if isinstance(loaded, dict):  # a Bunch, of arrays or of a data frame
        return loaded["data"], loaded["target"]
    return loaded[0], loaded[1]


def _read_csv(definition: Definition) -> Any:
    import pandas as pd

    return _call(pd.read_csv, definition.data.options, "data.options", _path(definition))


def _read_parquet(definition: Definition) -> Any:
    import pandas as pd

    return _call(pd.read_parquet, definition.data.options, "data.options", _path(definition))


def _read_npz(definition: Definition) -> Any:
    names = {"x": "x", "y": "y", **definition.data.options}
    with np.load(_path(definition)) as arrays:
        if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
            return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
        for name in names.values():
            if name not in arrays:
                raise DataError(
                    f"data.source: {definition.data.source} has no array '{name}' (it has {', '.join(arrays)}); "
                    "name arrays x and y, or say options = { x = …, y = … }"
                )
        return arrays[names["x"]], arrays[names["y"]]


def _read_python(definition: Definition) -> Any:
    try:
        function = load_object(definition.data.source, definition.folder, "data.source")
    except ModelError as error:
        raise DataError(str(error)) from error
    return _call(function, definition.data.options, "data.options")


_READERS: dict[str, Callable[[Definition], Any]] = {
    "sklearn": _read_sklearn,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "npz": _read_npz,
    "python": _read_python,
}


def _path(definition: Definition) -> Path:
    return definition.folder / definition.data.source.partition(":")[2]


def _call(function: Callable[..., Any], options: dict[str, Any], key: str, *args: Any) -> Any:
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        known = list(inspect.signature(function).parameters)
        hints = "".join(did_you_mean(option, known) for option in options if option not in known)
        raise DataError(f"{key}: {function.__name__}: {error}{hints}") from None
    return function(*args, **options)


def _is_frame(loaded: Any) -> bool:
    return hasattr(loaded, "columns") and hasattr(loaded, "iloc")


def _is_pair(loaded: Any) -> bool:
    return (
        isinstance(loaded, tuple | list)
        and len(loaded) == 2
        and all(isinstance(part, tuple | list) and len(part) == 2 for part in loaded)
        and not isinstance(loaded[0][0], int | float)
    )


def _is_stream(loaded: Any) -> bool:
    names = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(loaded).__mro__}
    return bool(names & {"tensorflow.DatasetV2", "keras.PyDataset", "torch.DataLoader"})


def _first_batch(stream: Any) -> tuple[Any, Any]:
    batch = stream[0] if hasattr(stream, "__getitem__") else next(iter(stream))
    x, y = batch[0], batch[1]
    to_numpy = lambda t: {k: np.asarray(v) for k, v in t.items()} if isinstance(t, dict) else np.asarray(t)  # noqa: E731
    return to_numpy(x), to_numpy(y)


@dataclass(frozen=True)
class _Pool:
    """Rows not yet split: arrays, targets as the user gave them, and the columns behind them."""

    x: Any
    y: NDArray[Any]
    columns: tuple[Column, ...] = ()
    group: NDArray[Any] | None = None
    time: NDArray[Any] | None = None

    @classmethod
    def of(cls, x: Any, y: Any, settings: DataDefinition) -> _Pool:
        if _is_frame(x):
            frame = x.assign(__target__=np.asarray(y))
            return cls.of_frame(frame, settings.model_copy(update={"target": "__target__"}))
        if settings.features or settings.drop or settings.group or settings.time:
            raise DataError("data: features, drop, group and time name columns; these data are arrays without columns")
        convert = lambda a: a if isinstance(a, np.ndarray) else np.asarray(a)  # noqa: E731
        x = {k: convert(v) for k, v in x.items()} if isinstance(x, dict) else convert(x)
        y = convert(y)
        lengths = {len(each) for each in (*features.leaves(x), y)}
        if len(lengths) != 1:
            raise DataError(f"data: x and y have different numbers of rows ({', '.join(map(str, sorted(lengths)))})")
        if isinstance(x, np.ndarray) and x.dtype == object:
            raise DataError("data: x holds Python objects; give numbers, or a data frame for mixed columns")
        return cls(x, y)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, settings: DataDefinition) -> _Pool:
        if settings.target is None:
            raise DataError("data.target: missing; name the target column")
        targets = [settings.target] if isinstance(settings.target, str) else list(settings.target)
        named = {"target": targets, "features": settings.features or (), "drop": settings.drop}
        named.update({key: [value] for key, value in (("group", settings.group), ("time", settings.time)) if value})
        for key, names in named.items():
            for name in names:
                if name not in frame.columns:
                    known = [str(each) for each in frame.columns if each != "__target__"]
                    raise DataError(
                        f"data.{key}: no column '{name}' in {settings.source} (it has {', '.join(known)})"
                        f"{did_you_mean(name, known)}"
                    )
        left_out = {*targets, *settings.drop, *filter(None, (settings.group, settings.time))}
        wanted = list(settings.features or [name for name in frame.columns if name not in left_out])
        if not wanted:
            raise DataError("data.features: no column is left to learn from")
        columns = features.columns_of(frame[wanted])
        y = frame[targets[0]].to_numpy() if len(targets) == 1 else frame[targets].to_numpy()
        return cls(
            features.to_arrays(frame[wanted], columns),
            y,
            columns,
            frame[settings.group].to_numpy() if settings.group else None,
            frame[settings.time].to_numpy() if settings.time else None,
        )

    def take(self, rows: Any) -> _Pool:
        return _Pool(
            features.take(self.x, rows),
            self.y[rows],
            self.columns,
            None if self.group is None else self.group[rows],
            None if self.time is None else self.time[rows],
        )


def _split(pool: _Pool, settings: DataDefinition, name: str, given_test: _Pool | None = None) -> Data:
    targets = pool.y if given_test is None else np.concatenate([pool.y, given_test.y])
    task, classes = _task_of(targets, settings)
    digest = _digest(pool.x, pool.y)
    classify = task in ("binary", "multiclass") and settings.stratify is not False
    stratified = classify and not settings.group and not settings.time
    if given_test is None:
        rest_rows, test_rows = _cut(pool, settings.test_size, settings, stratified, "test_size")
        rest, given_test = pool.take(rest_rows), pool.take(test_rows)
    else:
        rest = pool
    folds: tuple[Any, ...] = ()
    if settings.folds:
        folds = tuple(_folds(rest, settings, stratified))
        training, validation = folds[0]
    else:
        training, validation = _cut(rest, settings.validation_size, settings, stratified, "validation_size", last=True)
    encode = lambda part: Part(part.x, _encoded(part.y, task, classes))  # noqa: E731
    return Data(
        task=task,
        classes=classes,
        columns=pool.columns,
        train=encode(rest.take(training)),
        validation=encode(rest.take(validation)),
        test=encode(given_test),
        normalize=bool(pool.columns) if settings.normalize is None else settings.normalize,
        name=name,
        digest=digest,
        folds=folds,
        rest=encode(rest),
    )


def _cut(
    pool: _Pool, share: float, settings: DataDefinition, stratified: bool, key: str, last: bool = False
) -> tuple[Any, Any]:
    """Return the row numbers of both sides of a split; the second side has about `share` of them."""
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    rows, count = np.arange(len(pool.y)), len(pool.y)
    if not 1 <= round(count * share) < count:
        raise DataError(
            f"data.{key}: {share} of {count} rows leaves a part without rows; use more rows or another share"
        )
    if pool.time is not None:
        order = np.argsort(pool.time, kind="stable")
        return order[: count - round(count * share)], order[count - round(count * share) :]
    if pool.group is not None:
        if len(np.unique(pool.group)) < 2:
            raise DataError(f"data.group: one group only in '{settings.group}'; at least three are needed")
        splitter = GroupShuffleSplit(1, test_size=share, random_state=settings.seed)
        first, second = next(splitter.split(rows, groups=pool.group))
        return first, second
    if last and not stratified:  # as Keras's validation_split: the rows are in random order already
        cut = int(count * (1 - share))
        return rows[:cut], rows[cut:]
    try:
        first, second = train_test_split(
            rows, test_size=share, random_state=settings.seed, stratify=pool.y if stratified else None
        )
    except ValueError as error:
        raise DataError(f"data.{key}: {one_line(error)}; use more rows, or stratify = false") from None
    return first, second


def _folds(rest: _Pool, settings: DataDefinition, stratified: bool) -> Iterator[tuple[Any, Any]]:
    from sklearn import model_selection as ms

    count = settings.folds or 2
    splitter: Any
    if rest.time is not None:
        order = np.argsort(rest.time, kind="stable")
        for training, validation in ms.TimeSeriesSplit(count).split(order):
            yield order[training], order[validation]
        return
    if rest.group is not None:
        splitter = ms.GroupKFold(count)
    elif stratified:
        splitter = ms.StratifiedKFold(count, shuffle=True, random_state=settings.seed)
    else:
        splitter = ms.KFold(count, shuffle=True, random_state=settings.seed)
    try:
        yield from splitter.split(np.zeros(len(rest.y)), rest.y, rest.group)
    except ValueError as error:
        raise DataError(f"data.folds: {one_line(error)}; use fewer folds") from None


def _task_of(y: NDArray[Any], settings: DataDefinition) -> tuple[Task, tuple[Any, ...]]:
    """Return the task, stated or inferred, and the class labels."""
    column = f" '{settings.target}'" if settings.target and settings.target != "__target__" else ""
    missing = np.asarray([v is None or v != v for v in y.ravel()]) if y.dtype.kind in "fOmM" else np.array([False])
    if missing.any():
        raise DataError(f"data.target: the target{column} is missing in {missing.sum()} rows; fill or drop them")
    if len(y) < 2 or (y == y[0]).all():
        raise DataError(f"data.target: the target{column} is the same in every row; there is nothing to learn")
    task = settings.task or _infer(y)
    if task == "regression":
        if y.dtype.kind not in "fiub":
            raise DataError(f"data.task: regression needs numbers; the target{column} is text, so leave task out")
        return task, ()
    if task == "multilabel":
        if y.ndim != 2 or not np.isin(y, (0, 1)).all():
            raise DataError("data.task: multilabel needs a target of 0 and 1 with a column for each label")
        labels = settings.target if isinstance(settings.target, tuple) else range(y.shape[1])
        return task, tuple(labels)
    classes = (
        tuple(range(y.shape[1]))
        if y.ndim == 2
        else tuple(np.unique(y.astype(str) if y.dtype == object else y).tolist())
    )
    if task == "binary" and len(classes) != 2:
        raise DataError(f"data.task: binary needs two classes; the target{column} has {len(classes)}")
    return task, classes


def _infer(y: NDArray[Any]) -> Task:
    if y.ndim == 2 and y.shape[1] > 1:
        if not np.isin(y, (0, 1)).all():
            return "regression"
        return "multiclass" if (y.sum(axis=1) == 1).all() else "multilabel"
    values = np.unique(y.astype(str) if y.dtype == object else y)
    if len(values) == 2:
        return "binary" if y.dtype.kind != "f" or (values == np.round(values)).all() else "regression"
    if y.dtype.kind == "f" and ((values != np.round(values)).any() or len(values) > 20):
        return "regression"
    if y.dtype.kind in "iu" and len(values) > 20 and not (len(values) <= 1000 and len(y) >= 20 * len(values)):
        return "regression"
    return "multiclass"


def _encoded(y: NDArray[Any], task: Task, classes: tuple[Any, ...]) -> NDArray[Any]:
    """Return targets as Keras takes them: float32, or class indices as int32."""
    if task == "multiclass" and y.ndim == 2:
        return y.argmax(axis=1).astype("int32")
    if task in ("binary", "multiclass"):
        labels = y.astype(str) if y.dtype == object else y
        index = np.searchsorted(np.asarray(classes), labels.ravel())
        return index.astype("float32" if task == "binary" else "int32")
    return y.astype("float32")


def _digest(*arrays: Any) -> str:
    digest = hashlib.sha256()
    for leaf in features.leaves(list(arrays)):
        digest.update(f"{leaf.shape}{leaf.dtype}".encode())
        digest.update(
            "\x1f".join(map(str, leaf.ravel())).encode() if leaf.dtype == object else np.ascontiguousarray(leaf).data
        )
    return digest.hexdigest()[:8]


def _streamed(loaded: Any, settings: DataDefinition, name: str) -> Data:
    """Return the data behind streams: (train, test) or (train, validation, test), never copied."""
    parts = list(loaded) if isinstance(loaded, tuple | list) else [loaded]
    if settings.folds:
        raise DataError("data.folds: streams cannot be cut into folds; use arrays")
    if len(parts) == 1:
        parts = list(_cut_stream(parts[0], settings.test_size, "test_size"))
    if len(parts) == 2:
        parts = [*_cut_stream(parts[0], settings.validation_size, "validation_size"), parts[1]]
    y = _first_batch(parts[0])[1]
    task = settings.task or _infer(y)
    labels = np.unique(np.concatenate([np.ravel(_first_batch(p)[1]) for p in parts])) if task == "multiclass" else y
    classes: tuple[Any, ...] = ()
    if task == "multiclass":
        classes = tuple(range(y.shape[1] if y.ndim == 2 and y.shape[1] > 1 else int(labels.max()) + 1))
    elif task == "binary":
        classes = (0, 1)
    elif task == "multilabel":
        classes = tuple(range(y.shape[1]))
    train, validation, test = (Part(part, None) for part in parts)
    return Data(task, classes, (), train, validation, test, False, name, _digest(*_first_batch(parts[0])), (), None)


def _cut_stream(stream: Any, share: float, key: str) -> tuple[Any, Any]:
    """Cut a stream of batches in two, the second with about `share` of the batches."""
    batches = len(stream) if hasattr(stream, "__len__") else -1
    cut = batches - max(1, round(batches * share))
    if cut < 1:
        raise DataError(f"data.{key}: a stream of {batches} batches cannot be cut; return (train, validation, test)")
    if hasattr(stream, "take"):
        return stream.take(cut), stream.skip(cut)
    return _batches(stream, 0, cut), _batches(stream, cut, batches)


def _batches(stream: Any, start: int, stop: int) -> Any:
    """Return a view of a PyDataset that holds only some of its batches."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return stop - start

        def __getitem__(self, index: int) -> Any:
            return stream[start + index]

        def on_epoch_end(self) -> None:
            if start == 0:
                stream.on_epoch_end()

    return Batches(workers=stream.workers, use_multiprocessing=stream.use_multiprocessing)
