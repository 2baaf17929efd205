"""The README is tested: what it tells a person to type works, and what it lists exists."""

from __future__ import annotations

import re
from pathlib import Path

from search.studyfile.load import load_definition
from tests.conftest import Searcher, command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    """If this fails, CI is green while the command that people type fails."""
    assert 'pip install -e ".[test]" && pytest' in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert 'pip install --quiet -e ".[test]"' in ci
    assert "pytest" in ci


def test_every_flag_of_the_readme_exists(tmp_path: Path) -> None:
    """If this fails, the README promises flags that are refused, or keeps silent about some."""
    told = set(re.findall(r"`(--[a-z-]+)[ `\\]", README.split("| flag of `search.run`")[1].split("Exit status")[0]))
    helped = command("search.run", "--help", cwd=tmp_path)
    known = set(re.findall(r"--[a-z-]+", helped.stdout)) - {"--help", "--debug", "--json"}  # which each command has
    assert told == known


def test_the_readmes_study_file_is_a_study(folder: Path) -> None:
    """If this fails, the first thing a person copies is refused."""
    (study,) = blocks("toml")
    (folder / "data").mkdir()
    (folder / "data" / "mine.csv").write_text("size,price\n1,2\n")
    (folder / "mine.toml").write_text(study)
    assert load_definition(folder / "mine.toml").name == "mine"


def test_the_readmes_model_trains(folder: Path, run_search: Searcher) -> None:
    """If this fails, the first model a person copies fails."""
    (builder,) = blocks("python")
    (folder / "model.py").write_text(builder)
    (folder / "mine.toml").write_text(
        'name = "mine"\nmetric = "val_loss"\ndirection = "minimize"\n'
        '[data]\nsource = "sklearn:load_breast_cancer"\nnormalize = true\n'
        '[model]\nbuild = "model.py:build"\n[fit]\nepochs = 1\n'
        '[space]\nwidth = { type = "int", low = 4, high = 8 }\n'
    )
    outcome = run_search(load_definition(folder / "mine.toml"), n_trials=1)
    assert set(outcome.best.params) == {"width", "depth"}
    assert outcome.newly_registered
