"""Which running trials have reported nothing for long: they may hang."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 60.0  # a silence that is long in any search
_FACTOR = 10.0  # how many times longer than any before a silence must be, where epochs take long


class Silence:
    """Finds the trials of a search that are silent for much longer than any was before.

    Args:
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[int, tuple[int, float]] = {}  # by trial: its reports, and when the last one came
        self._told: set[int] = set()
        self._longest = 0.0  # silence that came to an end

    def look(self, number: int, reports: int) -> float:
        """Take note of how often a running trial has reported.

        Returns:
            For how many seconds it has been silent, when that is too long and was not returned before; else 0.
        """
        now = self._clock()
        before, since = self._heard.setdefault(number, (reports, now))
        if reports != before:
            self._broken(number, now - since)
            self._heard[number] = reports, now
        elif now - since >= max(_SECONDS, _FACTOR * self._longest) and number not in self._told:
            self._told.add(number)
            return now - since
        return 0.0

    def ended(self, number: int) -> None:
        """Take note that a trial ended."""
        _, since = self._heard.pop(number, (0, self._clock()))
        self._broken(number, self._clock() - since)

    def forget(self, number: int) -> None:
        """Forget a trial that was given up: its silence says nothing of what is usual."""
        self._heard.pop(number, None)
        self._told.discard(number)

    def _broken(self, number: int, seconds: float) -> None:
        self._longest = max(self._longest, seconds)
        self._told.discard(number)
