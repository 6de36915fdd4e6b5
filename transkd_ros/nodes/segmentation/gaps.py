"""Frames that never arrived, told from the stamps of those that did."""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW = 64  # intervals
PAUSE = 20  # so many intervals without a frame are a camera that was stopped, not one whose frames got lost


class StampGaps:
    """Counts the frames missing between stamps, in seconds; one thread only.

    The camera's interval is the mean of the shorter ones among the last, those within 75 % above their lower quartile:
    where more than half of the frames get lost, the median is already a gap. It is right as long as a quarter of the
    frames follow the one before.
    """

    def __init__(self) -> None:
        self.missing = 0
        self._latest: float | None = None
        self._intervals: deque[float] = deque(maxlen=WINDOW)

    def add(self, stamp: float) -> None:
        """The stamp of a frame that arrived; one that is not later than the one before starts anew (a bag again)."""
        latest, self._latest = self._latest, stamp
        if latest is None or stamp == latest:
            return
        if stamp < latest:
            self._intervals.clear()
            return
        self._intervals.append(stamp - latest)
        last = np.array(self._intervals)
        interval = last[last <= 1.75 * np.quantile(last, 0.25)].mean()
        count = round((stamp - latest) / interval)
        if count <= PAUSE:
            self.missing += max(0, count - 1)
