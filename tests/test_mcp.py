"""An assistant runs a study by tools: with the same checks as a person, and never past the gate."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from search import mcp
from search.study.storage import open_storage
from search.studyfile.schema import Definition

Tiny = Callable[..., Definition]


def call(tool: str, **arguments: Any) -> tuple[Any, bool]:
    """Call a tool as an assistant does; returns what it said, and whether that is an error."""
    client = pytest.importorskip("mcp").Client(mcp.server())

    async def ask() -> Any:
        async with client as session:
            return await session.call_tool(tool, arguments)

    got = asyncio.run(ask())
    return (got.structured_content or {}).get("result", got.structured_content) or got.content[0].text, got.is_error


def test_an_assistant_cannot_skip_the_gate() -> None:
    """A model that is no better would become champion because a program asked for it."""
    for tool in mcp.TOOLS:
        assert tool.__doc__, "an assistant chooses by it"
        assert not {"force", "max_loss", "alias"} & inspect.signature(tool).parameters.keys()


def test_a_study_is_run_by_tools(tiny: Tiny, folder: Path) -> None:
    """An assistant would have to write scripts, or be given a shell."""
    tiny("asked", more='\n[search]\npruner = "none"\n')
    told, wrong = call("watch", study="asked")
    assert wrong
    assert "study 'asked': there is no" in told
    assert call("start", study="asked", n_trials=2, workers=1) == ("a search of study 'asked' has begun", False)
    mcp._running["asked"].join(120)
    outcome, wrong = call("result", study="asked")
    assert not wrong
    assert outcome["n_trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    seen, _ = call("watch", study="asked")
    assert seen["best"]["number"] == outcome["best"]["number"]
    assert call("enqueue", study="asked", params={"width": 9}) == ("enqueued", False)
    told, wrong = call("enqueue", study="asked", params={"width": 9999})
    assert wrong
    assert "width = 9999 is outside the space" in told
    told, wrong = call("stop", study="asked", reason="enough")
    assert wrong
    assert "no search runs" in told
    promoted, wrong = call("promote", study="asked", reason="the first")
    assert not wrong
    assert isinstance(promoted["promoted"], bool)
    study = optuna.load_study(study_name="asked", storage=open_storage("studies/asked.journal"))
    assert study.get_trials()[-1].state.name == "WAITING"


def test_a_study_s_own_budget_holds_and_a_paused_search_goes_on(tiny: Tiny, folder: Path) -> None:
    """Each search of an assistant would train 20 trials, and one that it paused never go on."""
    tiny("own", more='\n[search]\npruner = "none"\nn_trials = 1\nworkers = 1\n')
    call("start", study="own")
    mcp._running["own"].join(120)
    assert call("result", study="own")[0]["n_trials"]["complete"] == 1
    call("start", study="own", resume=True)
    mcp._running["own"].join(120)
    told, wrong = call("result", study="own")
    assert wrong
    assert "has no interrupted search" in told
