"""Trying again what fails for a moment, waiting for what is not there yet: a server that restarts, another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


def retried(
    function: Callable[[], T],
    passes: Callable[[Exception], bool],
    seconds: float,
    on_wait: Callable[[], object] = lambda: None,
) -> T:
    """Call a function until it succeeds, at growing intervals, for some seconds from its first failure on.

    Args:
        function: What to call; how long its calls take does not count before the first failure.
        passes: Whether an error may pass; any other is raised at once.
        seconds: How long to try again.
        on_wait: Called once, after the first failure.
    """
    deadline, pause = 0.0, _FIRST_PAUSE
    while True:
        try:
            return function()
        except Exception as error:
            if not passes(error) or (deadline and time.monotonic() + pause > deadline):
                raise
        if not deadline:
            deadline = time.monotonic() + seconds
            on_wait()
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)


def waited(ask: Callable[[], T], seconds: float, pause: float = _FIRST_PAUSE) -> T:
    """Ask until the answer is true, for some seconds at most; return the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() <= deadline:
        time.sleep(pause)
    return answer
