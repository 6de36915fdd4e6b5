"""How many frames a second may be worked on."""

from __future__ import annotations


class FrameBudget:
    """Grants at most `rate` frames a second in the long run; 0 is no limit. `now`: seconds, of a clock that goes on."""

    def __init__(self) -> None:
        self._due = 0.0  # when the next one is granted

    def wait(self, now: float, rate: float) -> float:
        """Seconds until the next frame is granted."""
        return max(0.0, self._due - now) if rate else 0.0

    def spend(self, now: float, rate: float) -> None:
        """Take a frame. One that came late lets the next come earlier, so that the rate is met on the average."""
        if rate:
            self._due = max(self._due, now - 0.5 / rate) + 1 / rate

    def grant(self, now: float, rate: float) -> bool:
        """Take a frame if it is granted."""
        granted = self.wait(now, rate) == 0
        if granted:
            self.spend(now, rate)
        return granted
