"""When to take the next frame, where it is prepared while a device infers another."""

from __future__ import annotations

import threading
import time

REMEMBERED = 8  # inferences and preparations
MARGIN = 0.002  # seconds in hand


class Pace:
    """Takes frames as late as the device allows: one that is ready sooner only grows old while it waits.

    Inferences take as long as the shortest of the last ones, and preparing as long as the longest. As long as nothing
    is known, and while no inference is under way, a frame is taken at once.
    """

    def __init__(self) -> None:
        self._inferences: tuple[float, ...] = ()  # replaced, not changed: the other thread may be reading it
        self._preparations: tuple[float, ...] = ()
        self._began = 0.0
        self._idle = threading.Event()
        self._idle.set()

    def begin_inference(self, now: float) -> None:
        self._began = now
        self._idle.clear()

    def end_inference(self, now: float) -> None:
        self._inferences = (*self._inferences, now - self._began)[-REMEMBERED:]
        self._idle.set()

    def prepared(self, seconds: float) -> None:
        self._preparations = (*self._preparations, seconds)[-REMEMBERED:]

    def early(self, now: float) -> float:
        """Seconds that it is still too early to take the next frame."""
        if self._idle.is_set() or not self._inferences:
            return 0.0
        ends = self._began + min(self._inferences)
        return max(0.0, ends - max(self._preparations, default=0.0) - MARGIN - now)

    def wait(self) -> None:
        """Until it is time, or the inference has ended sooner than expected."""
        if early := self.early(time.monotonic()):
            self._idle.wait(early)
