"""Objects of a program: large data are sent to no worker with each trial, and are found where they are read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from search.studyfile import objects
from search.studyfile.objects import Objects

ROWS = 300_000
LARGE: dict[str, Any] = {
    "array": np.arange(ROWS, dtype="float64"),
    "frame": pd.DataFrame({"a": np.arange(ROWS) % 7, "text": [f"row {index}" for index in range(ROWS)]}),
    "series": pd.Series(np.arange(ROWS), name="y"),
    "texts": np.array([f"a longer text {index}" for index in range(ROWS)], object),
    "words": [f"a longer text {index}" for index in range(ROWS)],
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    objects.provide(b"")


def given(data: Any) -> tuple[Objects, bytes]:
    made = Objects()
    made.refer_to_data(data)
    return made, made.pickled()


def same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)) and type(one) in (type(other), np.memmap))


@pytest.mark.parametrize("kind", LARGE)
def test_large_data_lie_in_a_file(kind: str) -> None:
    """Half a gigabyte would be sent to a worker with each trial, and hashed there."""
    made, pickled = given({"train": (LARGE[kind], np.zeros(3)), "test": [LARGE[kind]]})
    assert len(pickled) < 20_000
    objects.provide(pickled)
    found = objects.provided("data", "data.source")()
    assert same(found["train"][0], LARGE[kind])
    assert same(found["test"][0], LARGE[kind])
    assert made.folder is not None


def test_what_a_large_function_holds_is_sent_once() -> None:
    """A function over large arrays, or a generator of the program's own, would be sent with each trial."""
    held = LARGE["array"]
    made, pickled = given(lambda: held)
    assert len(pickled) < 20_000
    objects.provide(pickled)
    assert same(objects.provided("data", "data.source")(), held)
    assert made.folder is not None


def test_a_class_of_the_main_program_stays_one() -> None:
    """A builder that asks whether the data are of its class would be told that they are not."""
    main = vars(sys.modules["__main__"])
    rows = "class Rows:\n    def __init__(self):\n        self.kept = bytes(2_000_000)\n"
    exec(f"{rows}\ndef build():\n    return Rows", main)
    made = Objects()
    made.refer_to_data(main["Rows"]())
    made.refer("build", main["build"])
    pickled = made.pickled()
    del main["Rows"], main["build"]
    objects.provide(pickled)
    data, build = (objects.provided(name, name) for name in ("data", "build"))
    assert isinstance(data(), build())


@pytest.mark.parametrize("kind", ["array", "frame"])
def test_files_are_found_on_a_machine_that_they_were_shipped_to(kind: str, tmp_path: Path) -> None:
    """Data given from Python would be lost on a cluster of other machines."""
    made, pickled = given(LARGE[kind])
    files = objects.files_of(pickled)
    assert len(files) == 1
    for each in files:
        shutil.copy(each, tmp_path / each.name)
    assert made.folder is not None
    made.folder.cleanup()
    objects.provide(pickled, tmp_path)
    assert same(objects.provided("data", "data.source")(), LARGE[kind])
