"""Data larger than memory: `tf.data` datasets, Keras's PyDatasets, PyTorch's loaders, Python's generators.

They are never copied, only cut.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

import numpy as np

from search.data.preprocessing import leaves
from search.errors import DataError, one_line

_PY_DATASET = "keras.PyDataset"
_STREAMS = {
    *("tensorflow.DatasetV2", _PY_DATASET, "torch.DataLoader"),
    *("grain.MapDataset", "grain.IterDataset", "grain.DataLoader"),
}
_LOOK_SECONDS, _FEW = 3.0, 20  # how long an end is looked for, and batches that may be alike by chance
_LOOKED_AT = 32  # batches of targets that are read to find the classes
_SAMPLE = 4  # batches by which other data are known
_INFINITE = -1  # TensorFlow's cardinality of a dataset without end
_MOST = 10**9  # batches; nothing with more comes to its end
_EMPTY = "data.source: the stream is empty; give at least one batch of (x, y)"
_WORDS = {"train": "training", "validation": "validation", "test": "test"}


def is_stream(loaded: Any) -> bool:
    """Return whether `loaded` yields batches; nothing is imported to find out."""
    return bool(_STREAMS & _kinds(loaded)) or isinstance(loaded, GeneratorType)


def _kinds(loaded: Any) -> set[str]:
    return {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(loaded).__mro__}


def is_spent_by_reading(stream: Any) -> bool:
    """Return whether a stream gives each batch once: a generator, which every trial needs anew."""
    return isinstance(stream, GeneratorType)


def peek(stream: Any) -> tuple[Any, Any]:
    """Return the first batch, and a stream that begins with it.

    Raises:
        DataError: The stream yields no batches.
    """
    if not is_spent_by_reading(stream):
        return first_batch(stream), stream
    try:
        first = next(stream)
    except StopIteration:
        raise DataError(_EMPTY) from None

    def with_first() -> Iterator[Any]:
        yield first
        yield from stream

    return _unpacked(first), with_first()


def first_batch(stream: Any) -> tuple[Any, Any]:
    """Return inputs and targets of the first batch as arrays; targets None when it has none.

    Raises:
        DataError: The stream yields no batches.
    """
    for batch in batches(stream):
        return batch
    raise DataError(_EMPTY)


def sample(stream: Any) -> list[Any]:
    """Return the first few batches, by which other data are known; none of a stream that gives others each time."""
    if is_spent_by_reading(stream):
        return []
    return [list(batch) for batch in batches(stream, _SAMPLE)] if _begins_alike(stream) else []


def _begins_alike(stream: Any) -> bool:
    """Return whether two passes begin with the same batch."""
    once, again = first_batch(stream), first_batch(stream)
    return all(map(np.array_equal, leaves(list(once)), leaves(list(again))))


def head(stream: Any) -> Any:
    """Return a stream of the first batch of another, as it is; the other is not changed by reading it."""
    if hasattr(stream, "take"):
        return stream.take(1)
    if hasattr(stream, "__getitem__"):
        return _view(stream, 0, 1)
    return (batch for batch in itertools.islice(stream, 1))


def batches(stream: Any, steps: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and targets of each batch as arrays, read one at a time; at most `steps` of them."""
    if hasattr(stream, "__getitem__"):
        raw: Iterator[Any] = (stream[index] for index in range(length(stream) or steps or 1))
    else:
        raw = iter(stream)
    return map(_unpacked, itertools.islice(raw, steps))


def _unpacked(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list):
        return _arrays(batch), None
    if not 1 <= len(batch) <= 3:
        raise DataError(
            f"data.source: the stream yields {len(batch)} values at once; yield x, (x, y) or (x, y, sample_weight)"
        )
    return _arrays(batch[0]), None if len(batch) == 1 or batch[1] is None else _arrays(batch[1])


def targets(stream: Any, first: Any) -> Any:
    """Return the targets of the first batches, to see which classes there are.

    Args:
        stream: Where they are read from.
        first: The targets of the first batch: all that can be read of a generator, or of several targets.
    """
    if isinstance(first, np.ndarray) and first.ndim == 0:
        raise DataError("data.source: the stream yields single rows; yield batches, for example dataset.batch(32)")
    if is_spent_by_reading(stream) or not isinstance(first, np.ndarray):
        return first
    # Sequences may be longer in one batch than in another.
    return np.concatenate([y for _, y in batches(stream, _LOOKED_AT) if y.shape[1:] == first.shape[1:]])


def length(stream: Any) -> int | None:
    """Return how many batches a stream has; None when it does not know, or has no end."""
    try:
        count = stream.num_batches if _PY_DATASET in _kinds(stream) else len(stream)
    except (TypeError, NotImplementedError, ValueError, OverflowError):  # an endless `tf.data` dataset: TypeError
        return None
    return count if isinstance(count, int) else None


def input_shapes(stream: Any) -> dict[Any, tuple[int | None, ...]]:
    """Return the shape of each input of a `tf.data` dataset by its name or place, None for sizes that differ."""
    spec = getattr(stream, "element_spec", None)
    x = spec[0] if isinstance(spec, tuple) else spec
    inputs = x if isinstance(x, dict) else dict(enumerate(x if isinstance(x, tuple) else [x]))
    shapes: dict[Any, Any] = {name: getattr(tensor, "shape", None) for name, tensor in inputs.items()}
    return {name: tuple(shape) for name, shape in shapes.items() if getattr(shape, "rank", None) is not None}


def is_endless(stream: Any) -> bool:
    """Return whether a stream says that it has no end, or cannot say it: an epoch of it needs a number of steps."""
    if isinstance(stream, GeneratorType):
        return True
    if hasattr(stream, "cardinality"):
        cardinality = int(stream.cardinality())
        return cardinality == _INFINITE or cardinality > _MOST
    return hasattr(stream, "__getitem__") and length(stream) is None


def _is_uncounted(stream: Any) -> bool:
    """Return whether Keras cannot tell how many batches one of its PyDatasets has, not even that it has no end."""
    if _PY_DATASET not in _kinds(stream):
        return False
    try:
        count = stream.num_batches
    except Exception:  # whatever a `__len__` of the user's own raises
        return True
    return count is not None and not (isinstance(count, int) and 0 <= count <= _MOST)


def check_ends(stream: Any, steps: int | None, part: str) -> None:
    """Refuse a stream without end where the study file does not say how many batches are an epoch.

    Raises:
        DataError: Says which key says it, or that Keras could not train from this stream.
    """
    if _is_uncounted(stream):
        raise DataError(
            f"data.source: the {_WORDS[part]} part does not say how many batches it has; return a whole number from "
            "its __len__, or, where it has no end, None from its property num_batches"
        )
    if steps is None and is_endless(stream):
        raise DataError(f"data.source: the {_WORDS[part]} part has no end; {_passes(part)}, or leave out repeat()")


def look_for_end(stream: Any, part: str) -> str:
    """Read a stream that does not know its length, for a few seconds at most.

    Returns:
        What to say when its end was not seen; else an empty text.

    Raises:
        DataError: It gives the same batches again and again.
    """
    if length(stream) is not None or is_spent_by_reading(stream):
        return ""
    began, seen, count = time.monotonic(), set(), 0
    for batch in batches(stream):
        count += 1
        seen.add(hash(b"".join(map(_bytes, leaves(list(batch))))))
        if time.monotonic() - began > _LOOK_SECONDS:
            break
    else:
        return ""
    if count > _FEW and 2 * len(seen) < count:
        raise DataError(f"data.source: the {_WORDS[part]} part gives the same batches without end; {_passes(part)}")
    return (
        f"the {_WORDS[part]} part gave {count} batches in {_LOOK_SECONDS:g} s and does not say how many it has; "
        f"where it has no end, {_passes(part)}"
    )


def _passes(part: str) -> str:
    key = "steps_per_epoch" if part == "train" else "validation_steps"
    return f"say in [fit] how many batches are one pass, for example {key} = 100"


def _bytes(array: Any) -> bytes:
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def cut(stream: Any, share: float, key: str) -> tuple[Any, Any]:
    """Cut a stream in two, the second with about `share` of its batches.

    Raises:
        DataError: It has too few batches, or gives others in each pass, so that its parts would mix.
    """
    count = length(stream)
    ahead = (count or 0) - max(1, round((count or 0) * share))
    if ahead < 1 or not (hasattr(stream, "take") or hasattr(stream, "__getitem__")):
        many = "unknown many" if count is None else count
        raise DataError(
            f"data.{key}: a stream of {many} batches cannot be cut; return (train, validation, test), "
            'or {"train": …, "validation": …} where there is no test part'
        )
    if not hasattr(stream, "take"):
        return _view(stream, 0, ahead), _view(stream, ahead, count or 0)
    if not _begins_alike(stream):
        raise DataError(
            f"data.{key}: the stream gives its batches in another order in each pass, so its parts would mix; "
            "return parts, for example those of image_dataset_from_directory(…, validation_split=0.2, "
            'subset="both", seed=0) as {"train": …, "validation": …}, or shuffle with reshuffle_each_iteration=False'
        )
    return stream.take(ahead), stream.skip(ahead)


def _arrays(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _arrays(inner) for name, inner in x.items()}
    if isinstance(x, tuple | list):
        return [_arrays(inner) for inner in x]
    try:
        return np.asarray(x)
    except Exception as error:  # ragged and sparse tensors have no array
        raise DataError(f"data.source: a batch cannot be read as an array ({one_line(error)})") from None


def _view(stream: Any, start: int, stop: int) -> Any:
    """Return a PyDataset of some batches of another.

    The other's `on_epoch_end` is never called: one that shuffles there would mix the parts.
    """
    if _PY_DATASET not in _kinds(stream):  # Grain's
        return stream[start:stop]
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
        def __len__(self) -> int:
            return stop - start

        def __getitem__(self, index: int) -> Any:
            return stream[start + index]

    return Batches(workers=stream.workers, use_multiprocessing=stream.use_multiprocessing)
