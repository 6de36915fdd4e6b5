"""How long the stages take and how often things happen, and how ROS diagnostics are told.

Nothing here reads a clock: durations and times are passed in, so that ROS time (simulated or not) works.
All classes may be used from several threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np


class Timings:
    """Percentiles of the last `window` durations of each stage."""

    def __init__(self, window: int = 512) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._seconds: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds.setdefault(stage, deque(maxlen=self._window)).append(seconds)
            self._counts[stage] = self._counts.get(stage, 0) + 1

    def snapshot(self) -> dict[str, dict[str, float]]:
        """{stage: {"p50", "p95", "p99": ms over the window, "count": durations ever added}}."""
        with self._lock:
            windows = {stage: list(seconds) for stage, seconds in self._seconds.items()}
            counts = dict(self._counts)
        summary = {}
        for stage, seconds in windows.items():
            p50, p95, p99 = (1e3 * np.percentile(seconds, (50, 95, 99))).tolist()
            summary[stage] = {"p50": p50, "p95": p95, "p99": p99, "count": counts[stage]}
        return summary


class Rate:
    """Events per second over the last `window` seconds of a clock that may jump back (a bag played again)."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._start: float | None = None  # the first event only opens the first interval
        self._latest = 0.0
        self._events: deque[float] = deque()

    def tick(self, now: float) -> None:
        """Count an event at `now`, in seconds."""
        with self._lock:
            self._advance(now)
            if self._start is None:
                self._start = now
            else:
                self._events.append(now)

    def hz(self, now: float) -> float:
        """Events per second at `now`; 0.0 before the second event, and after `window` seconds without one."""
        with self._lock:
            self._advance(now)
            if self._start is None or not self._events:
                return 0.0
            elapsed = min(now - self._start, self._window)
            return len(self._events) / elapsed if elapsed > 0 else 0.0

    def _advance(self, now: float) -> None:
        if now < self._latest:
            self._start = None
            self._events.clear()
        self._latest = now
        while self._events and self._events[0] <= now - self._window:
            self._events.popleft()


def stamp_ns(stamp: Any) -> int | None:
    """Nanoseconds of a builtin_interfaces/Time, or None where it is no time: before 1970, or a second and more of ns.

    rclpy's Time.from_msg raises ValueError for such a stamp, which would end the node.
    """
    if stamp.sec < 0 or not 0 <= stamp.nanosec < 10**9:
        return None
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def diagnostic_name(node: Any) -> str:
    """What a node is called in diagnostics: with its namespace, because a car may have two nodes of one name."""
    return str(node.get_fully_qualified_name()).lstrip("/")


def diagnostic_status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> Any:
    """A diagnostic_msgs/DiagnosticStatus; `level` is one of its constants, floats get two decimals."""
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    def text(value: Any) -> str:
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    pairs = [KeyValue(key=key, value=text(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
