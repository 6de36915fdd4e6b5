"""When messages of a bag are due, on a clock that the test moves."""

from __future__ import annotations

import threading

import pytest

from transkd_ros.bags import playback
from transkd_ros.bags.playback import Playback

SECOND = 1_000_000_000


class Time:
    """Stands for the module `time` of playback; `now` is in seconds."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    stopped = Time()
    monkeypatch.setattr(playback, "time", stopped)
    return stopped


@pytest.mark.parametrize("rate, after_a_second", [(1.0, 8.0), (0.5, 7.5), (4.0, 11.0)])
def test_bag_time_runs_at_the_rate(clock, rate, after_a_second):
    running = Playback(rate)
    running.start(7 * SECOND)
    assert running.now() == 7 * SECOND
    clock.now += 1
    assert running.now() == after_a_second * SECOND
    assert running.wait(round(after_a_second * SECOND), timeout=0)
    assert not running.wait(round(after_a_second * SECOND) + 1, timeout=0)


def test_bag_time_stands_still_while_paused_and_goes_on_from_there(clock):
    running = Playback(rate=2.0, paused=True)
    running.start(SECOND)
    clock.now += 5
    assert running.now() == SECOND
    running.pause(False)
    running.pause(False)
    clock.now += 1
    assert running.now() == 3 * SECOND
    running.pause(True)
    clock.now += 50
    assert running.now() == 3 * SECOND
    assert not running.wait(4 * SECOND, timeout=0)


def test_what_is_overdue_is_due_even_while_paused(clock):
    running = Playback(paused=True)
    running.start(10 * SECOND)
    assert running.wait(9 * SECOND, timeout=0)


@pytest.mark.parametrize("paused", [True, False])
def test_closing_ends_a_wait_that_would_last_for_hours(paused):
    running = Playback(paused=paused)
    running.start(0)
    threading.Timer(0.05, running.close).start()
    assert running.wait(10_000 * SECOND, timeout=10_000)
    assert running.closed
    running.sleep(10_000)


def test_going_on_wakes_a_wait_that_began_while_paused():
    running = Playback(paused=True)
    running.start(0)
    threading.Timer(0.05, running.pause, [False]).start()
    assert running.wait(SECOND // 100, timeout=60)
    assert not running.closed
