"""How many frames a second may be worked on."""

from __future__ import annotations


class FrameBudget:
    """Grants at most `rate` frames a second in the long run; 0 is no limit. `now`: seconds, of a clock that goes on.

    The rate may change from call to call; a wait is never longer than one frame at the rate of now.
    """

    def __init__(self) -> None:
        self._last = float("-inf")  # when the last one was granted, or would have been had it come in time

    def wait(self, now: float, rate: float) -> float:
        """Seconds until the next frame is granted."""
        return max(0.0, self._last + 1 / rate - now) if rate else 0.0

    def spend(self, now: float, rate: float) -> None:
        """Take a frame. One that came late lets the next come earlier, so that the rate is met on the average."""
        if rate:
            self._last = min(now, max(self._last + 1 / rate, now - 0.5 / rate))

    def grant(self, now: float, rate: float) -> bool:
        """Take a frame if it is granted."""
        granted = self.wait(now, rate) == 0
        if granted:
            self.spend(now, rate)
        return granted
