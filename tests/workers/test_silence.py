"""Which trials count as silent for too long."""

from __future__ import annotations

from search.workers.silence import Silence


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_silent_trial_is_told_once_and_again_after_it_reported() -> None:
    """A person would not hear of a trial that hangs, or hear of it every two seconds."""
    clock = Clock()
    silence = Silence(clock)
    told = []
    for clock.now in range(0, 200, 2):
        told.append(silence.look(3, 0))
    assert [each for each in told if each] == [60.0]
    assert silence.look(3, 1) == 0.0
    clock.now += 3_000.0
    assert silence.look(3, 1) == 3_000.0


def test_where_epochs_take_long_only_a_longer_silence_is_told() -> None:
    """Every trial of a study whose epochs take five minutes would be told as one that hangs."""
    clock = Clock()
    silence = Silence(clock)
    silence.look(0, 0)
    clock.now = 300.0
    silence.ended(0)
    silence.look(1, 0)
    clock.now = 900.0
    assert silence.look(1, 0) == 0.0
    clock.now = 300.0 + 3_000.0
    assert silence.look(1, 0) == 3_000.0
    silence.forget(1)  # it was given up: what it took is not usual
    silence.ended(1)
    silence.look(2, 0)
    clock.now += 3_000.0
    assert silence.look(2, 0) == 3_000.0
