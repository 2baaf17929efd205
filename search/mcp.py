"""`python -m search.mcp`: the commands as tools of an MCP server, so that an assistant can run a study.

Built on the Python API. A promotion passes the gate here or does not happen: no tool forces one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from search.api import Result, Study
from search.cli import main_of
from search.errors import SearchError, UsageError
from search.study import ranking

_INSTRUCTIONS = (
    "Hyperparameter searches for Keras. A study is a file in studies/. Start a search, watch it, enqueue trials of "
    "your own, stop it, and read its result; promote makes the challenger champion only where it is surely better."
)
_running: dict[str, threading.Thread] = {}
_ended: dict[str, Result | Exception] = {}


def start(study: str, n_trials: int | None = None, workers: int | str | None = None, resume: bool = False) -> str:
    """Start a search of a study in the background, or resume a paused one; `watch` shows it, `result` what came of it.

    What is left out is as the study file has it; a search that is resumed trains what is left of its own budget.
    """
    if study in _running and _running[study].is_alive():
        raise UsageError(f"a search of study '{study}' runs already; watch it, or stop it")
    wanted = Study(study)

    def search() -> None:
        try:
            _ended[study] = wanted.optimize(n_trials, workers=workers, resume=resume, progress=False)
        except Exception as error:  # told by `result`
            _ended[study] = error

    _ended.pop(study, None)
    _running[study] = threading.Thread(target=search, daemon=True)
    _running[study].start()
    return f"a search of study '{study}' has begun"


def watch(study: str) -> dict[str, Any]:
    """Say how many trials are in which state, which run now, and the best one so far."""
    wanted = Study(study)
    trials = wanted.study.get_trials(deepcopy=False)
    ranked = ranking.leading_trials(wanted.definition, wanted.study)
    best = {"number": ranked[0].number, "values": ranked[0].values, "params": ranked[0].params} if ranked else None
    running = [{"number": each.number, "params": each.params} for each in trials if each.state.name == "RUNNING"]
    return {"trials": Counter(each.state.name for each in trials), "running": running, "best": best}


def result(study: str) -> dict[str, Any]:
    """Return what the search that `start` began came to, as `search.run --json` prints it."""
    if study in _running and _running[study].is_alive():
        return {"state": "running", **watch(study)}
    ended = _ended.get(study)
    if ended is None:
        raise UsageError(f"no search of study '{study}' was started here")
    if isinstance(ended, Exception):
        raise ended
    return {"state": "finished", **ended.outcome.as_json()}


def enqueue(study: str, params: dict[str, Any]) -> str:
    """Try this configuration next, in the running search or the next one; what it leaves out is sampled."""
    Study(study).enqueue(params)
    return "enqueued"


def stop(study: str, reason: str, trial: int | None = None, now: bool = False, pause: bool = False) -> str:
    """End a running search, wherever it runs, or one of its trials; a paused search can be resumed."""
    return Study(study).stop(trial, now=now, pause=pause, reason=reason)


def exclude(study: str, trial: int, reason: str, undo: bool = False) -> str:
    """Leave a trial out, so that it is never best or registered again; or take it back."""
    return Study(study).exclude(trial, reason, undo=undo)


def report(study: str) -> list[str]:
    """Write a study's table and plots to reports/, and return the files."""
    return list(map(str, Study(study).report()))


def promote(study: str, reason: str, dry_run: bool = False) -> dict[str, Any]:
    """Make the challenger champion, where it is surely better on the test rows; else say why not."""
    return Study(study).promote(reason=reason, dry_run=dry_run).as_json()


def rollback(study: str, reason: str) -> dict[str, Any]:
    """Give `champion` back to the version that carried it before."""
    return Study(study).rollback(reason=reason).as_json()


TOOLS = (start, watch, result, enqueue, stop, exclude, report, promote, rollback)


def server() -> Any:
    """Return the server with its tools.

    Raises:
        UsageError: The package `mcp` is missing.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ModuleNotFoundError:
        raise UsageError("search.mcp needs mcp; pip install 'search[mcp]'") from None

    def told(tool: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(tool)
        def call(*args: Any, **named: Any) -> Any:
            try:
                return tool(*args, **named)
            except SearchError as error:  # its line helps; the server hides other errors
                raise ToolError(str(error)) from None

        return call

    made = MCPServer("search", instructions=_INSTRUCTIONS, log_level="WARNING")
    for tool in TOOLS:
        made.add_tool(told(tool))
    return made


def mcp_command() -> None:
    """MCP: serve the commands as tools on standard input and output, for an assistant that speaks MCP.

    Example: python -m search.mcp
    """
    server().run("stdio")


main = main_of(mcp_command)

if __name__ == "__main__":
    main()
