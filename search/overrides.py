"""Whether an object does something in a way of its own, or as the class that it comes from."""

from __future__ import annotations


def overrides(made: object, base: type, *names: str) -> bool:
    """Return whether an object, or a class, has other methods of these names than `base` has."""
    found = (getattr(made, name) for name in names)
    return any(
        getattr(each, "__func__", each) is not getattr(base, name) for each, name in zip(found, names, strict=True)
    )
