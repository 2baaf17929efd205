"""Which rows a model has seen: a hash of each, by which rows of a file are recognised without the data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from search.data.preprocessing import leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.data.dataset import Data

# Of each hash: 10 million rows take 60 MB, and one new row in 28 million is taken for one of them.
_BYTES = 6
_CELLS = 2**22  # numbers that are hashed at a time
_MOST = 50_000_000  # numbers of all rows, beyond which only every so many columns are hashed: 1 s


def seen_by(data: Data) -> bytes:
    """Return the hashes of the rows that train or choose a model: all but the test part; nothing for streams.

    Where most rows are there twice, a new row that equals an old one tells nothing, and there are no hashes either.
    """
    parts = [data.rest] if data.rest is not None else [data.train, *([data.validation] if data.validation else [])]
    if any(part.streamed for part in parts):
        return b""
    numbers = sum(np.size(leaf) for part in parts for leaf in leaves(part.x))
    every = min(1 + numbers // _MOST, 255)
    found = np.concatenate([hashes(part.x, every) for part in parts])
    known = np.unique(found)
    if 2 * len(known) < len(found):
        return b""
    return bytes([every]) + known.view("uint8").reshape(-1, 8)[:, :_BYTES].tobytes()


def are_seen(known: bytes, x: Any) -> NDArray[np.bool_]:
    """Return whether each row is one of the hashed rows.

    Args:
        known: What `seen_by` returned.
        x: Rows, as the model takes them.
    """
    every, packed = known[0], np.frombuffer(known, "uint8", offset=1).reshape(-1, _BYTES)
    padded = np.zeros((len(packed), 8), "uint8")
    padded[:, :_BYTES] = packed
    return np.isin(hashes(x, every), padded.view("uint64").reshape(-1))


def hashes(x: Any, every: int = 1) -> NDArray[np.uint64]:
    """Return a hash of each row, of 48 bits: the sum of its values times a key for each place (multilinear hashing).

    Numbers are hashed in double precision, so that a file's row and an array's are alike.

    Args:
        x: Rows, as the model takes them.
        every: Every so many columns are hashed.
    """
    arrays = [np.asarray(leaf) for leaf in leaves(x)]
    total, place = np.zeros(len(arrays[0]), "uint64"), 0
    for array in arrays:
        values = array.reshape(len(array), -1)[:, ::every]
        keys = _keys(place, values.shape[1])
        place += len(keys)
        step = max(1, _CELLS // max(1, values.shape[1]))
        for start in range(0, len(values), step):
            words = _words(values[start : start + step])
            total[start : start + step] += (words ^ (words >> np.uint64(32))) @ keys
    return total >> np.uint64(8 * (8 - _BYTES))


def _words(values: NDArray[Any]) -> NDArray[np.uint64]:
    if values.dtype.kind in "fiub":
        numbers = values.astype("float64") + 0.0  # -0 is 0
        numbers[np.isnan(numbers)] = np.nan
        return np.ascontiguousarray(numbers).view("uint64")
    texts, index = np.unique(values.astype(str), return_inverse=True)
    codes = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts.tolist()
    ]
    return np.asarray(codes, "uint64")[index].reshape(values.shape)


def _keys(first: int, count: int) -> NDArray[np.uint64]:
    """Return the keys of some places: SplitMix64 of their numbers."""
    z = (np.arange(first + 1, first + count + 1, dtype="uint64") * np.uint64(0x9E3779B97F4A7C15)).astype("uint64")
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)) | np.uint64(1))
