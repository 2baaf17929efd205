"""Reads records that another version of this package wrote."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

from search.errors import NewerVersionError

T = TypeVar("T")
VERSION = metadata.version("search")


def read(kind: type[T], content: Mapping[str, Any], what: str) -> T:
    """Return a dataclass with the values that a record has; fields that this version does not know are ignored.

    Args:
        kind: The dataclass.
        content: The record.
        what: What the record is of, for the error.

    Raises:
        NewerVersionError: A field that this version needs is missing.
    """
    known: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    try:
        return kind(**{name: value for name, value in content.items() if name in known})
    except (AttributeError, TypeError) as error:
        raise NewerVersionError(what, VERSION) from error
