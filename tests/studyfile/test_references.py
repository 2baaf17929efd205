"""What a study file may name in Python: its own files and packages, never a command of the system."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest

from search.errors import ModelError
from search.studyfile.references import check_reference, from_outside, load_object
from search.studyfile.registry import parted


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed package of somebody else's."""
    place = tmp_path / "installed"
    place.mkdir()
    (place / "somebody.py").write_text(
        "import functools, os\nfrom os import system\nfrom subprocess import Popen\nNUMBER = 5\n\n\n"
        "def load(rows=3):\n    return rows\n\n\nhalf = functools.partial(load, rows=2)\n"
    )
    monkeypatch.syspath_prepend(str(place))
    yield "somebody"
    sys.modules.pop("somebody", None)


@pytest.mark.parametrize(
    "reference",
    [
        "os:system",
        "subprocess:check_output",
        "builtins:exec",
        "posix:system",
        "os.path:join",
        "__main__:main",
        "pty:spawn",
    ],
)
def test_a_command_of_the_system_is_not_run(reference: str, tmp_path: Path) -> None:
    """If this fails, a study file from a stranger runs whatever it likes, without a word."""
    module = reference.partition(":")[0]
    with pytest.raises(ModelError, match=f"data.source: {module} is Python's own module; name a function of yours"):
        load_object(reference, tmp_path, "data.source")


@pytest.mark.parametrize("name", ["system", "Popen"])
def test_nor_by_way_of_a_package_that_imports_it(name: str, package: str, tmp_path: Path) -> None:
    """If this fails, the refusal is passed by naming the same function elsewhere."""
    with pytest.raises(ModelError, match=f"somebody:{name} is Python's own '{name}'; name a function of yours"):
        load_object(f"{package}:{name}", tmp_path, "data.source")


@pytest.mark.parametrize(("name", "kind"), [("NUMBER", "int"), ("os", "module")])
def test_only_what_can_be_called(name: str, kind: str, package: str, tmp_path: Path) -> None:
    """If this fails, a mistake is found as a TypeError in the first trial."""
    with pytest.raises(ModelError, match=f"somebody:{name} is {kind}; name a function or a class"):
        load_object(f"{package}:{name}", tmp_path, "data.source")


def test_a_packages_function_and_its_variant_are_taken(package: str, tmp_path: Path) -> None:
    """If this fails, data loaders that a team has packaged cannot be named."""
    assert load_object(f"{package}:load", tmp_path, "data.source")() == 3
    assert load_object(f"{package}:half", tmp_path, "data.source")() == 2


def test_what_lies_outside_the_folder_is_named(package: str, tmp_path: Path) -> None:
    """If this fails, a person runs code of a study that they never saw."""
    folder = tmp_path / "studies"
    references = {
        "model.build": "../other.py:build",
        "data.source": "csv:/data/x.csv",
        "metrics.score.function": f"{package}:load",
        "fit.function": "own.py:fit",
        "fit.callbacks[0]": "EarlyStopping",
        "metrics.f1.function": "sklearn.metrics:f1_score",
    }
    assert from_outside(references, folder) == [
        f"model.build = ../other.py:build (file {tmp_path}/other.py)",
        "data.source = csv:/data/x.csv (file /data/x.csv)",
        f"metrics.score.function = somebody:load (module {tmp_path}/installed/somebody.py)",
    ]
    assert from_outside({"data.source": "sklearn:make_blobs", "model.build": "mlp"}, folder) == []


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        (r"C:\models\mine.py:build", (r"C:\models\mine.py", "build")),
        ("d:/models/mine.py:build", ("d:/models/mine.py", "build")),
        (r"sub\mine.py:build", (r"sub\mine.py", "build")),
        (r"csv:C:\data\rows.csv", ("csv", r"C:\data\rows.csv")),
        ("m:load", ("m", "load")),
        (r"C:\models\mine.py", (r"C:\models\mine.py", "")),
        ("mine", ("mine", "")),
    ],
)
def test_a_drive_is_part_of_the_path(reference: str, parts: tuple[str, str]) -> None:
    """On Windows a file named by its whole path would be looked for as module `C`."""
    assert parted(reference) == parts
    assert not PureWindowsPath(parts[0]).suffix or PureWindowsPath(parts[0]).suffix == ".py"


def test_a_name_that_a_neighbour_gives_is_there(tmp_path: Path) -> None:
    """A builder of `from base import *` would be refused for a local one that is called almost alike."""
    (tmp_path / "base.py").write_text("def build(trial, data): ...\n")
    (tmp_path / "mine.py").write_text("from base import *\ndef build_small(trial, data): ...\n")
    check_reference("mine.py:build", tmp_path, "model.build")
    with pytest.raises(ModelError, match=r"mine.py has no 'biuld'; did you mean 'build'\?"):
        check_reference("mine.py:biuld", tmp_path, "model.build")
