"""When the messages of a bag are due: bag time against wall time, at a rate, with pauses. Knows no ROS and no bag."""

from __future__ import annotations

import threading
import time


class Playback:
    """Bag time in ns. It runs `rate` times as fast as time itself, from `start`, and stands still while paused.

    One thread waits, others pause and close; all methods may be called from any thread.
    """

    def __init__(self, rate: float = 1.0, paused: bool = False) -> None:
        self._rate = rate
        self._paused = paused
        self._closed = False
        self._shown_ns, self._since = 0, time.monotonic()  # what bag time was, and when
        self._changed = threading.Condition()

    def start(self, stamp_ns: int) -> None:
        """It is `stamp_ns` now."""
        with self._changed:
            self._shown_ns, self._since = stamp_ns, time.monotonic()

    def now(self) -> int:
        with self._changed:
            return self._now()

    def pause(self, paused: bool) -> None:
        """Stand still, or go on; the same twice changes nothing."""
        with self._changed:
            self._shown_ns, self._since = self._now(), time.monotonic()
            self._paused = paused
            self._changed.notify_all()

    def close(self) -> None:
        """End the waiting, now and for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def sleep(self, seconds: float) -> None:
        """Let so much time itself pass, paused or not; `close` ends it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def wait(self, stamp_ns: int, timeout: float) -> bool:
        """Wait for bag time `stamp_ns`, at most `timeout` seconds; whether it has come, or `close` was called."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._closed:
                missing = (stamp_ns - self._now()) / 1e9 / self._rate
                if missing <= 0:
                    return True
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(remaining if self._paused else min(missing, remaining))
        return True

    def _now(self) -> int:
        if self._paused:
            return self._shown_ns
        return self._shown_ns + round((time.monotonic() - self._since) * 1e9 * self._rate)
