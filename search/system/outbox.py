"""Sends numbered items in the background, in order, and again and again until each is sent or refused."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds between two tries while the receiver is away
_QUIET_SECONDS = 0.05  # without a new item, before anything is sent: the sender needs Python's one interpreter lock
_LONGEST_YIELD = 5.0  # seconds after which something is sent all the same
SILENT = "does not answer"  # the fault of a receiver that neither takes nor refuses anything
_TRIES = 4  # of an item that is refused while others are taken


class NotSent(Exception):
    """An item could not be sent.

    Args:
        fault: What is wrong, as `does not answer (reason)`.
        reason: The reason alone.
        refused: Whether it lies in the item, so that others may be sent.
        for_good: Whether another try is of no use.
    """

    def __init__(self, fault: str, reason: str, *, refused: bool, for_good: bool = False) -> None:
        super().__init__(fault)
        self.fault, self.reason, self.refused, self.for_good = fault, reason, refused, for_good


@dataclass(frozen=True)
class Left:
    """What is not sent.

    Attributes:
        numbers: The items that wait and those that were refused.
        seconds: How long sending them takes, by the pace of the last wait; None where nothing was sent in it.
    """

    numbers: tuple[int, ...] = ()
    seconds: float | None = None


class Outbox:
    """Items that wait to be sent, and the threads that send them, one item at a time each.

    Args:
        receiver: Who gets the items; for messages.
        item: What an item is; for messages.
        send: Sends the item of a number as it is now; returns whether the receiver was asked, and so answered.
            It raises `NotSent`.
        threads: How many items are sent side by side.
        on_message: Told once when the receiver is away, when it is back, and when an item is refused for good.
    """

    def __init__(
        self, receiver: str, item: str, send: Callable[[int], bool], threads: int, on_message: Callable[[str], None]
    ) -> None:
        self._receiver, self._item, self._send, self._on_message = receiver, item, send, on_message
        self._due: dict[int, None] = {}  # in the order in which they were added
        self._busy: set[int] = set()
        self._refused: set[int] = set()
        self._tries: dict[int, tuple[int, int]] = {}  # of a refused item: how many, and what `_sent` was at the last
        self._changed = threading.Condition()
        self._pause, self._paused_until, self._fault = 0.0, 0.0, ""
        self._sent, self._progress, self._added = 0, time.monotonic(), -math.inf
        self._began, self._sent_before = self._progress, 0  # of the last wait
        self._draining = self._stalled = self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def add(self, number: int, *, urgent: bool = False) -> None:
        """Send an item soon; `urgent`: at once."""
        with self._changed:
            self._due[number] = None
            self._added = -math.inf if urgent else time.monotonic()
            self._changed.notify()

    def wait_for(self, there: Callable[[], bool], seconds: float) -> None:
        """Wait until something is there that sending brings about; not where the receiver is away."""
        with self._changed:
            self._changed.wait_for(lambda: self._pause > 0 or there(), seconds)

    def drain(
        self,
        patience: float,
        longest: float = math.inf,
        first: Iterable[int] = (),
        on_wait: Callable[[Left], bool] = lambda _: True,
    ) -> Left:
        """Wait until every item is sent, or nothing moves for a while; return what is left.

        Args:
            patience: Seconds without progress after which it ends.
            longest: Seconds after which it ends, once those of `first` are sent.
            first: Items that are sent before all others.
            on_wait: Called a few times a second while something is left; returns whether to wait on.
        """
        with self._changed:
            ahead = {number: None for number in first if number in self._due}
            self._due = ahead | self._due
            self._began = self._progress = time.monotonic()
            self._sent_before, self._draining, self._stalled = self._sent, True, False
            self._paused_until = 0.0  # try once more at once
            self._changed.notify_all()
        while self.waits:
            with self._changed:
                now, awaited = time.monotonic(), not ahead.keys().isdisjoint({*self._due, *self._busy})
                self._stalled = now - self._progress >= patience
                if self._stalled or (now - self._began >= longest and not awaited):
                    break
                self._changed.wait(0.2)
            if not on_wait(self.left):
                break
        return self.left

    @property
    def left(self) -> Left:
        """What is not sent."""
        with self._changed:
            numbers = tuple(sorted({*self._due, *self._busy, *self._refused}))
            sent, passed = self._sent - self._sent_before, self._progress - self._began
            return Left(numbers, len(numbers) * passed / sent if sent else None)

    @property
    def fault(self) -> str:
        """What was wrong with the last item that was sent, or that none was in the last wait; else empty."""
        with self._changed:
            return self._fault if self._pause > 0 else SILENT if self._stalled else ""

    @property
    def waits(self) -> bool:
        """Whether an item is not sent yet."""
        with self._changed:
            return bool(self._due or self._busy)

    def close(self) -> None:
        """End the threads; what they are sending now is finished first, for two seconds at most."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + 2.0
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (number := self._take()) is not None:
            try:
                if self._send(number):
                    self._answered()
            except NotSent as error:
                self._failed(number, error)
            finally:
                with self._changed:
                    self._busy.discard(number)
                    self._changed.notify_all()

    def _take(self) -> int | None:
        with self._changed:
            while not self._closed:
                number = next((each for each in self._due if each not in self._busy), None)
                pause = None if number is None else self._seconds_to_wait()
                if number is not None and pause is not None and pause <= 0:
                    del self._due[number]
                    self._busy.add(number)
                    return number
                self._changed.wait(pause)
        return None

    def _seconds_to_wait(self) -> float:
        """Return for how long nothing is sent."""
        now = time.monotonic()
        quiet = 0.0 if self._draining else min(self._added + _QUIET_SECONDS, self._progress + _LONGEST_YIELD)
        return max(self._paused_until, quiet) - now

    def _answered(self) -> None:
        with self._changed:
            self._progress = time.monotonic()
            self._sent += 1
            was_away, self._pause, self._paused_until = self._pause > 0, 0.0, 0.0
        if was_away:
            self._on_message(f"{self._receiver} answers again")

    def _failed(self, number: int, error: NotSent) -> None:
        if error.refused and (error.for_good or self._given_up(number)):
            with self._changed:  # it answered
                self._refused.add(number)
                self._pause = self._paused_until = 0.0
            self._on_message(f"{self._item} {number} cannot be written to {self._receiver}: {error.reason}")
            return
        with self._changed:
            self._fault, first = error.fault, self._pause == 0
            self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
            self._paused_until = time.monotonic() + self._pause
            self._due.setdefault(number, None)
        if first:
            self._on_message(f"{self._receiver} {error.fault}; training goes on, {self._item}s are sent later")

    def _given_up(self, number: int) -> bool:
        """Count a try of an item while others were taken; return whether it was the last one."""
        tries, sent = self._tries.get(number, (0, 0))
        tries += self._draining or not tries or self._sent > sent
        self._tries[number] = tries, self._sent
        return tries >= _TRIES
