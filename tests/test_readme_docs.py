"""The guides in docs/ are tested as the README is: what they tell a person to type exists, their studies are read."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from search.studyfile.load import load_definition
from tests.conftest import command
from tests.docs import flags, mistakes, study_file

ROOT = Path(__file__).parent.parent
GUIDES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
README = (ROOT / "README.md").read_text(encoding="utf-8")
TYPED = sorted(
    {
        (module, flag)
        for text in (README, *GUIDES.values())
        for line in re.sub(r"\\\n\s*", " ", text).splitlines()
        for module, rest in re.findall(r"python -m (search\.\w+)([^#`]*)", line)
        for flag in ["--help", *re.findall(r"--[a-z-]+", rest)]
    }
)
CODE = """
def load():
    return None


def build(trial, data):
    return None


def fit(trial, model, data, **settings):
    return None
"""


@cache
def help_of(module: str) -> str:
    done = command(module, "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(("module", "flag"), TYPED)
def test_every_command_and_flag_that_is_shown_exists(module: str, flag: str) -> None:
    """A guide would send people to commands that are refused."""
    assert re.search(rf"{flag}\b", help_of(module))


@pytest.mark.parametrize("guide", [name for name, text in GUIDES.items() if "```toml" in text])
def test_every_study_file_that_is_shown_is_a_study(guide: str, tmp_path: Path) -> None:
    """The first thing that a person copies would be refused."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").write_text("size,price\n1,2\n")
    (tmp_path / "mine.py").write_text(CODE)
    for study in blocks(GUIDES[guide], "toml"):
        (tmp_path / "mine.toml").write_text(study)
        assert load_definition(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize("guide", [name for name, text in GUIDES.items() if "```python" in text])
def test_every_python_that_is_shown_parses_and_names_what_there_is(guide: str) -> None:
    """A guide would show a mistyped example."""
    import search

    for block in blocks(GUIDES[guide], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "search":
                assert node.attr in search.__all__


def test_the_guides_are_all_in_the_menu_and_in_the_readme() -> None:
    """A guide would be written that nobody finds."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in GUIDES if f"- {name}.md" not in menu] == []
    assert [name for name in GUIDES if name != "index" and f"docs/{name}.md" not in README] == []


def test_the_reference_of_the_study_file_is_that_of_the_schema() -> None:
    """The page would lack a new key; `python -m tests.docs.study_file` writes it anew."""
    assert study_file.PAGE.read_text(encoding="utf-8") == study_file.page()
    assert "default" in study_file.page()


def test_the_page_of_mistakes_has_the_lines_that_are_printed() -> None:
    """A newcomer would look for a line that is worded otherwise; `python -m tests.docs.mistakes` writes it anew."""
    assert mistakes.PAGE.read_text(encoding="utf-8") == mistakes.page()


def test_the_readme_has_each_flag_of_a_search() -> None:
    """A new option would have no line in the table; `python -m tests.docs.flags` writes it anew."""
    assert flags.written() == README
    assert "--trial-timeout SECONDS" in README


def test_the_readme_is_a_front_page() -> None:
    """A newcomer would scroll through a manual to find the two commands."""
    assert len(README.splitlines()) < 150
