"""The outbox: what the receiver does not take is sent later, once, and the sender goes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from search.system import outbox
from search.system.outbox import Left, NotSent, Outbox


def soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def test_the_sender_goes_first_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many slots would wait for their trials while MLflow is written to, or MLflow for the end of a busy search."""
    sent: list[int] = []
    monkeypatch.setattr(outbox, "_QUIET_SECONDS", 1e6)
    monkeypatch.setattr(outbox, "_LONGEST_YIELD", 1e6)
    sending = Outbox("MLflow", "trial", lambda number: not sent.append(number), 1, lambda _: None)
    sending.add(1)
    time.sleep(0.1)
    assert not sent
    sending.add(2, urgent=True)
    assert soon(lambda: sent == [1, 2])
    monkeypatch.setattr(outbox, "_LONGEST_YIELD", 0.0)
    sending.add(3)
    assert soon(lambda: sent == [1, 2, 3])
    sending.close()


def test_what_a_receiver_misses_is_sent_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour without MLflow would lose the hour's trials, or be told a hundred times."""
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.01)
    said, sent, away = list[str](), list[int](), threading.Event()
    away.set()

    def send(number: int) -> bool:
        if away.is_set():
            raise NotSent("does not answer (refused)", "refused", refused=False)
        sent.append(number)
        return True

    sending = Outbox("MLflow", "trial", send, 2, said.append)
    sending.add(1, urgent=True)
    sending.add(2, urgent=True)
    assert soon(lambda: sending.fault == "does not answer (refused)")
    assert sending.drain(patience=0.2).numbers == (1, 2)
    away.clear()
    assert sending.drain(patience=20.0).numbers == ()
    assert sorted(sent) == [1, 2]
    assert said == ["MLflow does not answer (refused); training goes on, trials are sent later", "MLflow answers again"]
    assert sending.fault == ""
    sending.close()


def test_an_item_that_is_refused_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trial that MLflow does not take would keep all later ones from being shown."""
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.01)
    said, sent = list[str](), list[int]()

    def send(number: int) -> bool:
        if number == 1:
            raise NotSent("does not answer (bad name)", "bad name", refused=True)
        sent.append(number)
        return True

    sending = Outbox("MLflow", "trial", send, 1, said.append)
    for number in (1, 2, 3):
        sending.add(number, urgent=True)
    assert sending.drain(patience=20.0).numbers == (1,)
    assert sent == [2, 3]
    assert "trial 1 cannot be written to MLflow: bad name" in said
    sending.close()


def test_a_wait_ends_in_time_and_some_items_are_sent_before_all_others() -> None:
    """A search would wait for ever for a slow MLflow, or end before the trial whose model it registers is there."""
    sent = list[int]()

    def send(number: int) -> bool:
        time.sleep(0.1)
        return not sent.append(number)

    sending = Outbox("MLflow", "trial", send, 1, lambda _: None)
    for number in range(50):
        sending.add(number)
    told = list[Left]()
    left = sending.drain(20.0, longest=0.0, first=[30, 40], on_wait=lambda left: not told.append(left))
    assert {30, 40} <= set(sent[:3])  # one was under way
    assert 40 <= len(left.numbers) <= 48
    assert left.seconds is not None
    assert left.seconds == pytest.approx(0.1 * len(left.numbers), rel=1.0)
    assert len(told) > 0
    assert sending.fault == ""
    assert sending.drain(20.0, on_wait=lambda _: False).numbers, "whoever waits may give up"
    sending.close()
