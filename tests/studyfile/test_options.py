"""An option is declared once: what it takes, and what it says of a wrong value, is the same wherever it is given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import search
from search.cli import application
from search.errors import StudyFileError, UsageError
from search.run import run_command
from search.study.samplers import make_pruner, make_sampler
from search.studyfile.load import find_study, load_definition
from search.studyfile.options import SearchOptions
from search.studyfile.settings import OPTIONS, arguments_of, check, flag, resolve, resume_command
from tests.studyfiles import definition

WRONG: list[tuple[str, Any, str]] = [
    ("n_trials", 0, "use a whole number of at least 1"),
    ("n_trials", -3, "use a whole number of at least 1"),
    ("n_trials", 2.5, "use a whole number of at least 1"),
    ("n_trials", "many", "use a whole number of at least 1"),
    ("timeout", 0, "use a number above 0"),
    ("timeout", "soon", "use a number above 0"),
    ("timeout", float("nan"), "use a finite number"),
    ("trial_timeout", -1, "use a number above 0"),
    ("workers", "four", "use a whole number of at least 1 or 'auto'"),
    ("workers", 0, "use a whole number of at least 1 or 'auto'"),
    ("workers", "atuo", "did you mean 'auto'?"),
    ("sampler", "tpee", "did you mean 'tpe'?"),
    ("pruner", "medium", "did you mean 'median'?"),
    ("seed", -1, "use a whole number of at least 0"),
    ("seed", 2**32, "use a whole number of at least 0"),
    ("confirm", 11, "use at most 10"),
    ("gpu_share", 0, "use a number above 0 and of at most 1"),
    ("gpu_share", 1.5, "use at most 1"),
    ("study_name", "a/b", "is not a valid name for an MLflow experiment"),
    ("storage", "env:NOT_THERE", "the environment variable 'NOT_THERE' is not set"),
    ("tracking_uri", "@nowhere", "nowhere cannot be read"),
]
ONLY_PYTHON: list[tuple[str, Any, str]] = [
    ("n_trials", True, "use a whole number of at least 1"),
    ("n_trials", [3], "use a whole number of at least 1"),
    ("timeout", "3", "use a number above 0"),
    ("sampler", 3, "use text"),
    ("pruner", {"none": 1}, "use text"),
    ("seed", "0", "use a whole number"),
    ("cluster", 8786, "use text"),
    ("resume", "yes", "use true or false"),
    ("register", 1, "use true or false"),
    ("offline", "no", "use true or false"),
    ("accept_new_data", 0, "use true or false"),
    ("storage", 3, "use a URL or a path"),
]


def run(*arguments: str) -> None:
    typer.main.get_command(application(run_command)).main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_wrong_value_is_the_same_error_in_python_and_on_the_command_line(name: str, value: Any, said: str) -> None:
    """`optimize(sampler="tpee")` would be a KeyError, `workers="four"` mean auto, and `n_trials=0` train nothing."""
    with pytest.raises(UsageError, match=f"^{name}: ") as in_python:
        resolve(definition(), **{name: value})
    with pytest.raises(UsageError) as typed:
        check(name, str(value), written_out=True)
    with pytest.raises(typer.BadParameter) as on_the_command_line:
        run("blobs", f"{flag(name)}={value}")
    assert said in str(in_python.value)
    assert said in str(typed.value)
    assert said in str(on_the_command_line.value)


@pytest.mark.parametrize(("name", "value", "said"), [case for case in WRONG if case[0] in SearchOptions.model_fields])
def test_the_study_file_says_the_same(name: str, value: Any, said: str) -> None:
    """A key of `[search]` would be taken that the command refuses."""
    with pytest.raises(StudyFileError, match=rf"search\.{name}: ") as told:
        definition({f"search.{name}": value})
    assert said in str(told.value)


@pytest.mark.parametrize(("name", "value", "said"), ONLY_PYTHON)
def test_a_value_of_another_type_is_refused_in_python(name: str, value: Any, said: str) -> None:
    """A notebook would end in a TypeError of a library, after the data were loaded."""
    with pytest.raises(UsageError, match=f"^{name}: .*{said}"):
        resolve(definition(), **{name: value})


def test_what_optimize_refuses_starts_nothing(folder: Path) -> None:
    """A notebook user would meet KeyError and ValueError instead of the command's errors."""
    study, before = search.Study("blobs"), list(folder.iterdir())
    for wrong, said in (
        ({"sampler": "tpee"}, "sampler: 'tpee'; use 'tpe'"),
        ({"seed": -1}, "seed: -1; use"),
        ({"n_trails": 3}, "no option 'n_trails'; did you mean 'n_trials'?"),
        ({"n_trials": 3, "resume": True}, "--resume finishes an interrupted search"),
        ({"on_progress": 3}, "on_progress: 3 is not a function"),
    ):
        with pytest.raises(search.UsageError, match=said):
            study.optimize(**wrong)  # type: ignore[arg-type]
    assert list(folder.iterdir()) == before


def test_every_option_is_offered_everywhere() -> None:
    """An option would be on the command line, and not in Python, or the other way round."""
    command = {each.name for each in typer.main.get_command(application(run_command)).params}
    function = inspect.signature(search.Study.optimize).parameters
    assert command >= set(OPTIONS)
    kept = {name for name, option in OPTIONS.items() if option.everywhere}
    assert set(function) - {"self", "progress", "on_progress"} == set(OPTIONS) - kept
    assert kept <= set(inspect.signature(search.Study).parameters) | {"study_name"}
    assert function["register"].default is True
    documented = search.Study.optimize.__doc__ or ""
    assert [name for name in function if name != "self" and f" {name}: " not in documented] == []
    assert set(SearchOptions.model_fields) <= set(OPTIONS)


def test_numbers_of_numpy_are_numbers() -> None:
    """`for seed in np.arange(3)` would be refused."""
    settings = resolve(definition(), seed=np.arange(3)[2], n_trials=np.int64(4), timeout=np.float32(1.5))
    assert (settings.seed, settings.n_trials, settings.timeout) == (2, 4, 1.5)


def test_the_command_that_goes_on_asks_for_the_same_search() -> None:
    """The printed command would go on on this machine, by the file's sampler, and register what it should not."""
    blobs = load_definition(find_study("blobs"))
    asked: dict[str, Any] = {
        "sampler": "random",
        "seed": 7,
        "cluster": "tcp://here:1",
        "register": False,
        "n_trials": 3,
    }
    told = resume_command(resolve(blobs, **asked, study_name="mine", workers=2))
    assert told == (
        "python -m search.run blobs --workers 2 --sampler random --seed 7 --study-name mine --cluster tcp://here:1 "
        "--no-register --resume"
    )
    assert resume_command(resolve(blobs, n_trials=3, sampler="tpe")) == "python -m search.run blobs --resume"
    assert arguments_of(resolve(blobs, sampler="random", storage="a b")) == "blobs --storage 'a b'"


MINE = """
from typing import Literal

import optuna


def sampler(seed, patience: int = 3, weights: list[float] | None = None, kind: Literal["a"] = "a"):
    return optuna.samplers.RandomSampler(seed=seed + patience)


MADE = optuna.samplers.RandomSampler()


class Pruner(optuna.pruners.NopPruner):
    def __init__(self, steps=1):
        self.steps = steps


def neither():
    return 3
"""


def test_a_sampler_and_a_pruner_of_ones_own(tmp_path: Path) -> None:
    """A method that Optuna does not have would need a change of the package."""
    (tmp_path / "mine.py").write_text(MINE)
    own = {"search.sampler": "mine.py:sampler", "search.pruner": "mine.py:Pruner"}
    options = {"patience": 1, "weights": [1.0, 2.0], "kind": "a"}
    wanted = definition({**own, "search.sampler_options": options}, folder=tmp_path)
    assert type(make_sampler(wanted, wanted.search.sampler, 0)).__name__ == "RandomSampler"
    pruner: Any = make_pruner(wanted, wanted.search.pruner)
    assert (type(pruner).__name__, pruner.steps) == ("Pruner", 1)
    assert wanted.files["search.sampler"] == Path("mine.py")
    assert type(make_sampler(wanted, "optuna.samplers:BruteForceSampler", 0)).__name__ == "BruteForceSampler"
    for changes, said in (
        ({"search.sampler": "mine.py:samplr"}, "search.sampler: mine.py has no 'samplr'; did you mean 'sampler'"),
        ({"search.sampler": "mine.py:neither"}, "search.sampler: makes a int; name what makes one of optuna.samplers"),
        ({**own, "search.sampler_options": {"patience": "x"}}, "search.sampler_options.patience: 'x'; use a whole"),
        ({**own, "search.sampler_options": {"patiens": 3}}, "takes patience, weights, kind; did you mean 'patience'"),
        ({"search.sampler": "mine.py:MADE"}, "mine.py:MADE is RandomSampler; name a function or a class"),
    ):
        wrong = definition(changes, folder=tmp_path)
        with pytest.raises(UsageError, match=said):
            make_sampler(wrong, wrong.search.sampler, 0)
