"""The package as others get it: typed for their programs, and whole in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
USER = """
import numpy as np
import optuna
from optuna.distributions import IntDistribution

import search

study = search.Study(
    "mine",
    data=(np.zeros((9, 2)), np.zeros(9)),
    metric="val_loss",
    direction="minimize",
    space={"width": IntDistribution(2, 9)},
)
result: search.Result = study.optimize(n_trials=2)
value: float = result.best.value
run: str = result.best.run_id
inner: optuna.Study = result.study
try:
    study.optimize(n_trials=1)
except search.SearchError as error:
    print(error)
"""
MISUSE = """
import search

search.Study("mine").optimize(n_trials="many")
search.Study("mine").optimise()
"""


@pytest.mark.heavy
def test_a_program_that_uses_the_api_is_checked(tmp_path: Path) -> None:
    """A slip in the person's own program would be found when it runs, after a night."""
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "misuse.py").write_text(MISUSE)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py", "misuse.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert 'has incompatible type "str"; expected "int | None"' in done.stdout
    assert '"Study" has no attribute "optimise"' in done.stdout
    assert "user.py" not in done.stdout
    assert "Found 2 errors in 1 file (checked 2 source files)" in done.stdout


@pytest.mark.heavy
def test_the_wheel_runs_where_there_is_no_checkout(tmp_path: Path) -> None:
    """A file that is not in the wheel is missed by every user and by no test."""
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("search-*.whl")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], env=environment, check=True)
    # The dependencies of this environment, but not its checkout: installing TensorFlow again would take minutes.
    here = tmp_path / "dependencies"
    here.mkdir()
    for folder in (Path(each) for each in sys.path if Path(each).name == "site-packages"):
        for each in folder.iterdir():
            if "search" not in each.name.lower() and not (here / each.name).exists():
                (here / each.name).symlink_to(each)
    environment["PYTHONPATH"] = str(here)
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = subprocess.run(
        [python, "-m", "search.run", "reviews", "--n-trials", "1"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "models:/reviews/1" in ran.stdout
    asked = [python, "-c", "import search; print(search.__file__)"]
    found = subprocess.run(asked, cwd=empty, env=environment, capture_output=True, text=True, check=True)
    assert str(tmp_path / "fresh") in found.stdout


def test_every_room_is_in_the_wheel() -> None:
    """A new folder would run here and be missing where the wheel is installed; the test above says so late."""
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    rooms = {".".join(each.parent.relative_to(ROOT).parts) for each in (ROOT / "search").rglob("__init__.py")}
    assert rooms | {"search.studies"} == set(written)
