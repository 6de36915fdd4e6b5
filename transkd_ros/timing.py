"""How long the stages take and how often things happen, and how ROS diagnostics are told.

Nothing here reads a clock: durations and times are passed in, so that ROS time (simulated or not) works.
All classes may be used from several threads.
"""

from __future__ import annotations

import math
import re
import threading
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BIN = 1.01  # how much longer the durations of a histogram's bin are than those of the bin before
_SHORTEST = 1e-6  # ms


class Timings:
    """Percentiles of the last `window` durations of each stage; None keeps them all, at 8 bytes each."""

    def __init__(self, window: int | None = 512) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._seconds: dict[str, deque[float] | array[float]] = {}
        self._counts: dict[str, int] = {}

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            if stage not in self._seconds:
                self._seconds[stage] = array("d") if self._window is None else deque(maxlen=self._window)
                self._counts[stage] = 0
            self._seconds[stage].append(seconds)
            self._counts[stage] += 1

    @property
    def seconds(self) -> dict[str, NDArray[np.float64]]:
        """The durations of the window by stage, in the order in which they were added."""
        with self._lock:
            return {stage: np.array(seconds) for stage, seconds in self._seconds.items()}

    def snapshot(self) -> dict[str, dict[str, float]]:
        """{stage: {"p50", "p95", "p99", "mean": ms over the window, "count": durations ever added}}."""
        with self._lock:
            windows = {stage: np.array(seconds) for stage, seconds in self._seconds.items()}
            counts = dict(self._counts)
        summary = {}
        for stage, seconds in windows.items():
            p50, p95, p99 = (1e3 * np.percentile(seconds, (50, 95, 99))).tolist()
            mean = 1e3 * float(seconds.mean())
            summary[stage] = {"p50": p50, "p95": p95, "p99": p99, "mean": mean, "count": counts[stage]}
        return summary


def histogram(seconds: Iterable[float]) -> dict[str, int]:
    """How many durations there are by bin: bin `n` holds those up to 1.01 ** n ms and above that of the bin before.

    The histograms of parts add up to that of the whole, exactly, and tell its percentiles to one per cent.
    """
    milliseconds = 1e3 * np.fromiter(seconds, float)
    bins = np.ceil(np.log(np.maximum(milliseconds, _SHORTEST)) / math.log(_BIN)).astype(int)
    return {str(number): int(count) for number, count in zip(*np.unique(bins, return_counts=True), strict=True)}


def percentiles_of(counts: Mapping[str, int], wanted: Sequence[float]) -> list[float]:
    """The percentiles in ms of the durations of a histogram that is not empty, each the middle of its bin."""
    ordered = sorted((int(number), count) for number, count in counts.items())
    reached = np.cumsum([count for _, count in ordered])
    places = [int(np.searchsorted(reached, percent / 100 * reached[-1])) for percent in wanted]
    return [_BIN ** (ordered[min(place, len(ordered) - 1)][0] - 0.5) for place in places]


class Rate:
    """Events per second of a clock that may jump back (a looped bag): in the last `window` seconds, and in all."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._start: float | None = None  # the first event only opens the first interval
        self._latest = 0.0
        self._events: deque[float] = deque()
        self.count = 0
        self.last = 0.0  # when the last event was
        self._elapsed = 0.0

    def tick(self, now: float) -> None:
        """Count an event at `now`, in seconds."""
        with self._lock:
            if self.count:
                self._elapsed += max(0.0, now - self.last)
            self.count += 1
            self.last = now
            self._advance(now)
            if self._start is None:
                self._start = now
            else:
                self._events.append(now)

    @property
    def mean(self) -> float:
        """Events per second from the first to the last, without what the clock jumped back; 0.0 before the second."""
        with self._lock:
            return (self.count - 1) / self._elapsed if self._elapsed > 0 else 0.0

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


_LATENCY = re.compile(r"(?P<stage>.+) (?P<percentile>p\d+) \(ms\)")
_DROPPED = "dropped "


def latency_values(snapshot: Mapping[str, Mapping[str, float]], keys: Iterable[str]) -> dict[str, float]:
    """What diagnostics say of these `keys` (p50, …) of a snapshot of Timings: {"infer p50 (ms)": …}."""
    return {f"{stage} {key} (ms)": times[key] for stage, times in snapshot.items() for key in keys}


def read_latencies(values: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """{stage: {"p50": ms, …}} of the values of a diagnostic status; what `latency_values` made them of."""
    found: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        if match := _LATENCY.fullmatch(key):
            found.setdefault(match["stage"], {})[match["percentile"]] = float(value)
    return found


def drop_values(drops: Mapping[str, int]) -> dict[str, int]:
    """What diagnostics say of frames dropped, by cause: {"dropped stale": …}."""
    return {f"{_DROPPED}{cause}": count for cause, count in drops.items()}


def read_drops(values: Mapping[str, str]) -> dict[str, int]:
    """{cause: frames} of the values of a diagnostic status; what `drop_values` made them of."""
    return {key.removeprefix(_DROPPED): int(value) for key, value in values.items() if key.startswith(_DROPPED)}


def read_others(values: Mapping[str, str]) -> dict[str, str]:
    """The values of a diagnostic status that are neither latencies nor drops."""
    return {key: value for key, value in values.items() if not _LATENCY.fullmatch(key) and not key.startswith(_DROPPED)}


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
