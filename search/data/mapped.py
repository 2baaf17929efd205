"""Arrays in files that several processes map: one copy in a machine's memory; what one writes stays with it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1_000_000  # numbers that are compared at once

_maps: dict[int, tuple[weakref.ref[NDArray[Any]], NDArray[Any] | None]] = {}  # mapped arrays, and them in float32


def mapped(path: Path, axes: list[int], single: NDArray[Any] | None = None) -> NDArray[Any]:
    """Map an array's file, copy on write.

    Args:
        path: A `.npy` file.
        axes: The order in which its axes lie in the file, as `axes_of` gives it.
        single: The same numbers in single precision, mapped too; None where there are none.
    """
    array = np.asarray(np.load(path, mmap_mode="c")).transpose(np.argsort(axes))
    number = id(array)
    _maps[number] = (weakref.ref(array, lambda _: _maps.pop(number, None)), single)
    return array


def is_mapped(array: Any) -> bool:
    """Return whether this very array is one that `mapped` returned: aligned, and never moved."""
    known = _maps.get(id(array))
    return known is not None and known[0]() is array


def in_single_precision(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of double precision in single precision: mapped, unless the user's code has written into it."""
    single = _maps[id(array)][1] if is_mapped(array) else None
    if single is not None:
        one, two = _flat(array), _flat(single)
        parts = (slice(start, start + _CHUNK) for start in range(0, len(one), _CHUNK))
        if all(one[part].astype("float32").tobytes() == two[part].tobytes() for part in parts):
            return single
    return array.astype("float32")


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Return a mapped array's numbers in the order in which they lie in its file."""
    return array.transpose(axes_of(array)).reshape(-1)


def axes_of(array: NDArray[Any]) -> list[int]:
    """Return the axes from the widest stride on: results may depend in their last bit on how rows lie in memory."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
