"""Data larger than memory: `tf.data` datasets, Keras's PyDatasets, PyTorch's loaders. Never copied, only cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from search.errors import DataError, one_line

_STREAMS = {"tensorflow.DatasetV2", "keras.PyDataset", "torch.DataLoader"}
_LOOKED_AT = 32  # batches of targets that are read to find the classes


def is_stream(loaded: Any) -> bool:
    """Return whether `loaded` yields batches; nothing is imported to find out."""
    return bool(_STREAMS & {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(loaded).__mro__})


def first_batch(stream: Any) -> tuple[Any, Any]:
    """Return inputs and targets of the first batch as arrays.

    Raises:
        DataError: The stream yields no batches of inputs and targets.
    """
    for x, y in batches(stream):
        return x, y
    raise DataError("data.source: the stream is empty; give at least one batch of (x, y)")


def batches(stream: Any) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and targets of each batch as arrays, read one at a time."""
    if hasattr(stream, "__getitem__"):
        raw: Iterator[Any] = (stream[index] for index in range(length(stream) or 1))
    else:
        raw = iter(stream)
    for batch in raw:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise DataError("data.source: the stream yields no (x, y); give batches of inputs and targets")
        yield _arrays(batch[0]), np.asarray(batch[1])


def targets(stream: Any) -> np.ndarray[Any, Any]:
    """Return the targets of the first batches, to see which classes there are."""
    return np.concatenate([y for _, y in itertools.islice(batches(stream), _LOOKED_AT)])


def length(stream: Any) -> int | None:
    """Return how many batches a stream has; None when it does not know."""
    try:
        return len(stream)
    except (TypeError, NotImplementedError):  # an endless `tf.data` dataset raises TypeError
        return None


def cut(stream: Any, share: float, key: str) -> tuple[Any, Any]:
    """Cut a stream in two, the second with about `share` of its batches.

    Raises:
        DataError: It has too few batches, or gives others in each pass, so that its parts would mix.
    """
    count = length(stream)
    ahead = (count or 0) - max(1, round((count or 0) * share))
    if ahead < 1 or not (hasattr(stream, "take") or hasattr(stream, "__getitem__")):
        many = "unknown many" if count is None else count
        raise DataError(f"data.{key}: a stream of {many} batches cannot be cut; return (train, validation, test)")
    if not hasattr(stream, "take"):
        return _view(stream, 0, ahead), _view(stream, ahead, count or 0)
    once, again = first_batch(stream), first_batch(stream)
    if not all(map(np.array_equal, _leaves(once), _leaves(again))):
        raise DataError(
            f"data.{key}: the stream shuffles anew in each pass, so its parts would mix; "
            "shuffle with reshuffle_each_iteration=False, or return (train, validation, test)"
        )
    return stream.take(ahead), stream.skip(ahead)


def _leaves(nested: Any) -> list[Any]:
    if isinstance(nested, dict):
        return [leaf for name in sorted(nested) for leaf in _leaves(nested[name])]
    if isinstance(nested, tuple | list):
        return [leaf for each in nested for leaf in _leaves(each)]
    return [nested]


def _arrays(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _arrays(each) for name, each in x.items()}
    if isinstance(x, tuple | list):
        return [_arrays(each) for each in x]
    try:
        return np.asarray(x)
    except Exception as error:  # ragged and sparse tensors have no array
        raise DataError(f"data.source: a batch cannot be read as an array ({one_line(error)})") from None


def _view(stream: Any, start: int, stop: int) -> Any:
    """Return a PyDataset of some batches of another.

    The other's `on_epoch_end` is never called: one that shuffles there would mix the parts.
    """
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
        def __len__(self) -> int:
            return stop - start

        def __getitem__(self, index: int) -> Any:
            return stream[start + index]

    return Batches(workers=stream.workers, use_multiprocessing=stream.use_multiprocessing)
