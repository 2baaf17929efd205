"""The layout keeps its promises: no import cycle, one home for each library, help for everything."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TypeGuard

import pytest
import typer
from typer.testing import CliRunner

import search
from search import exclude, new, predict, promote, report, reproduce, run, stop, studies, sync
from search.cli import application

PACKAGE = Path(search.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

# Where each library is spoken to; deferred imports count, those for types alone do not.
HOMES: dict[str, set[str]] = {
    "mlflow": {
        "tracking.agreement",
        "tracking.by_hand",
        "tracking.entries",
        "promotion.evaluated",
        "tracking.history",
        "tracking.logged_model",
        "tracking.mirror",
        "tracking.origin",
        "tracking.registry",
        "tracking.runs",
        "tracking.store",
        "tracking.pages.averaged",
        "tracking.pages.experiment",
        "tracking.pages.views",
        "tracking.versions",
    },
    "optuna_integration": {"tracking.runs"},
    "sqlalchemy": {"study.database", "study.storage", "tracking.store"},
    "pebble": {"workers.local", "workers.process", "workers.reproduction"},
    "distributed": {"workers.cluster"},
    "tensorflow": {
        "graphs",
        "training.fit",
        "training.whole_epochs",
        "serving",
        "workers.devices",
        "workers.preload",
        "workers.worker",
    },
    "typer": {"cli", "run", "stop", "exclude", "predict", "promote", "report", "reproduce", "new", "studies", "sync"},
    "rich": {"predict", "terminal"},
    "pydantic": {
        "studyfile.load",
        "studyfile.messages",
        "studyfile.options",
        "studyfile.parameters",
        "studyfile.registry",
        "studyfile.schema",
        "studyfile.settings",
    },
    "mcp": {"mcp"},
    "tomllib": {"studyfile.load", "studyfile.copy", "studyfile.messages", "studyfile.secret"},
    "matplotlib": {"promotion.plot", "reporting.plots", "reporting.side_by_side", "tracking.pages.pictures"},
    "plotly": {"reporting.interactive"},
    "sklearn": {"comparison.scores", "data.sources", "data.splits", "workers.preload"},
    "scipy": {"comparison.bootstrap", "ensemble.choice"},
    "psutil": {"system.machine"},
    "joblib": {"system.machine"},
    "platformdirs": {"study.files"},
    "filelock": {"study.files", "tracking.history"},
    "cloudpickle": {"studyfile.objects"},
    "pandas": {
        "promotion.rows",
        "data.files",
        "reporting.table",
        "data.facts",
        "data.loading",
        "data.preprocessing",
        "data.sources",
        "data.table",
        "data.targets",
        "serving.rows",
        "tracking.logged_model",
    },
}

# Each room imports only from rooms that stand before it.
ROOMS = (
    {"figures", "serving", "system"},
    {"errors"},
    {"studyfile"},
    {"code", "data", "study"},
    {"comparison", "graphs"},
    {"ensemble"},
    {"training"},
    {"tracking"},
    {"budget"},
    {"resume", "register", "stopping", "promotion"},
    {"reporting"},
    {"workers"},
    {"context"},
    {"optimize"},
    {"handover", "steering"},
    {"session"},
    {"terminal"},
    {"api"},
    {"cli"},
    {"console", "mcp", "run", "stop", "exclude", "predict", "promote", "report", "reproduce", "new", "studies", "sync"},
)
MOST_IN_ONE_ROOM = 14


def _for_types(tree: ast.Module) -> set[ast.AST]:
    """Return every node under `if TYPE_CHECKING:`."""
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    return {inner for node in guarded for child in node.body for inner in ast.walk(child)}


def _imports(tree: ast.Module) -> set[str]:
    """Return the full names that a module imports, wherever in it it does."""
    types = _for_types(tree)
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _neighbours(name: str) -> set[str]:
    found = set()
    for imported in _imports(TREES[name]):
        root, *rest = imported.split(".")
        if root == "search" and rest:
            found.add(max((each for each in (".".join(rest[:n]) for n in (1, 2, 3)) if each in MODULES), key=len))
    return found - {name}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Whoever moves one function would meet an import error somewhere else."""
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"import cycle: {' → '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for neighbour in sorted(_neighbours(name)):
                follow(neighbour, (*way, name))
            done.add(name)

    for name in MODULES:
        follow(name, ())
    assert done == set(MODULES)


def test_each_room_imports_only_from_rooms_before_it() -> None:
    """A part could not be read, tested or replaced without the parts that use it."""
    order = {room: index for index, rooms in enumerate(ROOMS) for room in rooms}
    wrong = [
        f"{name} imports {neighbour}"
        for name in MODULES
        for neighbour in _neighbours(name)
        if name != "search" and "__init__" not in name
        if name.partition(".")[0] != neighbour.partition(".")[0]
        if order[neighbour.partition(".")[0]] >= order[name.partition(".")[0]]
    ]
    assert wrong == []


def test_no_room_is_crowded() -> None:
    """A newcomer would not find a part by looking at the list of files; commands are found by their names."""
    commands = ROOMS[-1]
    folders = [path.parent for name, path in MODULES.items() if path.name != "__init__.py" and name not in commands]
    assert {str(each): folders.count(each) for each in folders if folders.count(each) > MOST_IN_ONE_ROOM} == {}


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_its_home(library: str) -> None:
    """A change of a library would have to be made in modules that nobody thinks of."""
    users = {
        name
        for name, tree in TREES.items()
        if any(imported == library or imported.startswith(f"{library}.") for imported in _imports(tree))
    }
    assert users <= HOMES[library]


def test_optunas_storages_are_opened_in_one_module() -> None:
    """A second place would open storages without the waiting and the messages of the first."""
    made = re.compile(r"\b(PatientStorage\(url|JournalStorage\(|JournalFileBackend\(|GrpcStorageProxy\()")
    assert {name for name, tree in TREES.items() if made.search(ast.unparse(tree))} == {"study.storage"}


def test_serving_stands_alone() -> None:
    """A registered model could be served only where this package is installed."""
    alone = [name for name in MODULES if name.partition(".")[0] == "serving"]
    assert not [each for name in alone for each in _imports(TREES[name]) if each.split(".")[0] == "search"]


def test_modules_stay_small() -> None:
    """A reader who opens a module would not see its end."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def _is_public(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.ClassDef]:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")


def test_everything_public_says_what_it_does() -> None:
    """A reader would have to guess what a function promises."""
    silent = [name for name, tree in TREES.items() if ast.get_docstring(tree) is None]
    for name, tree in TREES.items():
        public = [each for each in tree.body if _is_public(each)]
        inner = [each for outer in public if isinstance(outer, ast.ClassDef) for each in outer.body if _is_public(each)]
        silent += [f"{name}.{each.name}" for each in [*public, *inner] if ast.get_docstring(each) is None]
    assert silent == []


def test_what_the_package_offers_is_sorted_and_there() -> None:
    """`from search import *` would fail, or a name be offered that nobody finds."""
    assert search.__all__ == sorted(search.__all__)
    assert all(hasattr(search, name) for name in search.__all__)


COMMANDS = {"run": run.run_command, "promote": promote.promote_command, "report": report.report_command}
COMMANDS |= {"predict": predict.predict_command, "reproduce": reproduce.reproduce_command}
COMMANDS |= {"stop": stop.stop_command, "exclude": exclude.exclude_command}
COMMANDS |= {"new": new.new_command, "sync": sync.sync_command, "studies": studies.studies_command}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    """A person would have to read the source to know what an option does."""
    command = typer.main.get_command(application(COMMANDS[name]))
    assert command.help
    for parameter in command.params:
        told = getattr(parameter, "help", None)
        assert told, f"{name}: {parameter.name} has no help"
        assert re.match(r"^[A-Z].*[.\])]$", told), f"{name}: help of {parameter.name} is no sentence"


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_in_a_narrow_terminal(name: str, width: int) -> None:
    """A person would read `--max-latency-…`, and neither what an option is by default nor how a command is called."""
    app = application(COMMANDS[name])
    shown = CliRunner().invoke(app, ["-h"], terminal_width=width).stdout
    whole = {word.rstrip(",") for word in shown.split()}
    for parameter in typer.main.get_command(app).params:
        names = parameter.opts if parameter.param_type_name == "option" else []
        words = [*names, *getattr(parameter, "help", "").split()]
        assert [word for word in words if word.rstrip(",") not in whole] == []
    assert f"Example: python -m search.{name}" in shown
    assert [line for line in shown.splitlines() if len(line) > width] == []


def _modules_after(*arguments: str) -> set[str]:
    """Return the modules that a fresh Python imports."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import search"),
        ("-m", "search.run", "--help"),
        ("-m", "search.promote", "--help"),
        ("-m", "search.predict", "--help"),
        ("-m", "search.report", "--help"),
        ("-m", "search.reproduce", "--help"),
        ("-m", "search.new", "--help"),
    ],
    ids=["import", "run", "promote", "predict", "report", "reproduce", "new"],
)
def test_help_answers_at_once(arguments: tuple[str, ...]) -> None:
    """`--help` would take five seconds, while TensorFlow is imported to print a page."""
    imported = _modules_after(*arguments)
    assert "search.errors" in imported
    slow = {"tensorflow", "keras", "mlflow", "sklearn", "pandas", "matplotlib"}
    assert imported & slow == set()


def test_the_server_of_workers_imports_no_mlflow() -> None:
    """Every search would begin a second later: no worker speaks to MLflow, unless the user's own code does."""
    assert not _modules_after("-c", "import search.workers.worker") & {"mlflow", "optuna.visualization", "plotly"}
