"""What became of the frames of one camera, and whether that is well: counters, rates, ages, a diagnostic status."""

from __future__ import annotations

import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from transkd_ros.frames import CAUSES
from transkd_ros.nodes.segmentation.gaps import StampGaps
from transkd_ros.timing import Rate, Timings, diagnostic_name, diagnostic_status, drop_values, latency_values, stamp_ns

SKIPS = {"rate": "segmenting", "unwanted": "idle: nobody listens", "disabled": "disabled"}
"""Why a frame is not wanted, and what the camera's status says then."""
DROPS = ("superseded", "stale", *CAUSES, "engine", "internal", "stopped", *SKIPS)
"""Why a frame got no mask. Frames received = masks + drops + those at work or waiting."""
SILENCE = 3.0  # seconds without a frame that are worth a warning
NO_MASK = 3.0  # seconds with frames and without a mask that are worth a warning
NO_MASK_ERROR = 10.0  # … and an error
AHEAD = 0.2  # seconds; a stamp further in the future means a clock that is ahead


class Account:
    """Of one camera. Drops may be counted by any thread, the rest by one thread each."""

    def __init__(self, node: Node, name: str) -> None:
        self._node, self._name = node, name
        self.drops = dict.fromkeys(DROPS, 0)
        self._counting = threading.Lock()
        self._logged: dict[str, float] = {}  # cause -> when it was last logged
        self._bad_input_reported = 0
        self._received = self._answered = 0
        self._lost = 0  # before they came here, as the middleware tells
        self._bad_stamps = self._from_the_future = 0
        self._age_on_arrival: float | None = None
        self._gaps = StampGaps()
        self._rate_in, self._rate_out = Rate(), Rate()
        self._ages = Timings()
        self.begin()

    def begin(self) -> None:
        """The camera is listened to from now on."""
        self._last_heard = self._last_mask = time.monotonic()
        self._unanswered: float | None = None  # since when frames come without a mask
        self._fine = "segmenting"  # what the status says while nothing is wrong
        self._last_drop = ""  # cause and reason, since the last mask

    # ---- what happens --------------------------------------------------------------------------------

    def received(self, stamp: Any) -> None:
        self._received += 1
        self._last_heard = time.monotonic()
        self._rate_in.tick(self._now())
        taken = stamp_ns(stamp)
        if taken is None:
            self._bad_stamps += 1
            self._log("stamp", f"a frame's stamp is no time: {stamp.sec} s, {stamp.nanosec} ns; its age is unknown")
        elif taken:
            self._gaps.add(taken / 1e9)
        self._age_on_arrival = self.age(stamp)
        if self._age_on_arrival is not None and self._age_on_arrival < -AHEAD:
            self._from_the_future += 1

    def drop(self, cause: str) -> None:
        """Count a frame that gets no mask; `cause` is one of DROPS."""
        with self._counting:
            self.drops[cause] += 1

    def skipped(self, cause: str) -> None:
        """A frame that was received is not wanted; `cause` is one of SKIPS."""
        self.drop(cause)
        self._fine = SKIPS[cause]
        if cause != "rate":  # nobody waits for a mask any more
            self._unanswered, self._last_drop = None, ""

    def accepted(self) -> None:
        """A frame that was received is to get its mask."""
        self._fine = "segmenting"
        if self._unanswered is None:
            self._unanswered = time.monotonic()

    def lost(self, count: int) -> None:
        """`count` frames that the middleware has lost on their way here."""
        self._lost += count

    def answered(self, stamp: Any) -> None:
        """A mask was published."""
        self._answered += 1
        self._rate_out.tick(self._now())
        self._last_mask = time.monotonic()
        self._unanswered, self._last_drop = None, ""
        age = self.age(stamp)
        if age is not None:
            self._ages.add("age", age)

    @property
    def masks(self) -> int:
        """How many were published."""
        return self._answered

    def problem(self, cause: str, reason: str) -> None:
        """Something went wrong with a frame that has its mask."""
        self._log(cause, f"{cause}: {reason}")

    def dropped(self, cause: str, reason: str) -> None:
        """Count a frame that gets no mask for a reason, logged at most once a second per cause."""
        self._log(cause, f"dropped a frame ({cause}): {reason}")
        self._last_drop = f"{cause}: {reason}"
        self.drop(cause)

    def stale(self, age: float, limit: float) -> None:
        """Drop a frame that is `age` seconds old, and say whose fault that is."""
        came = self._age_on_arrival
        if came is not None and came > limit:
            why = f"frames are {came:.1f} s old when they come: camera clock {came:.1f} s behind, or a slow link"
        else:
            why = "the frame waited too long for the engine"
        self.dropped("stale", f"{age:.3f} s old, max_frame_age is {limit} s; {why}")

    def age(self, stamp: Any) -> float | None:
        """Seconds since `stamp` on the node's clock; None if it is 0 or no time, or the clock has not started.

        Negative if the camera's clock is ahead of the node's, or simulated time has jumped back.
        """
        taken, now = stamp_ns(stamp), self._node.get_clock().now().nanoseconds
        return (now - taken) / 1e9 if taken and now else None

    # ---- what is told --------------------------------------------------------------------------------

    def status(self, reliability: str, trouble: str, pause: float = 0.0) -> DiagnosticStatus:
        """What happened since the start, and whether masks come.

        `reliability` is that of the subscription, `trouble` why nothing may come through it, or "". `pause`: seconds
        between two masks that a budget demands.
        """
        level, message = self._health(trouble, pause)
        now = self._now()
        values = {
            "reliability": reliability,
            "rate in (Hz)": self._rate_in.hz(now),
            "rate out (Hz)": self._rate_out.hz(now),
            "received": self._received,
            "processed": self._answered,
            "lost on the way": self._lost,
            "missing between stamps": self._gaps.missing,
            "bad stamp": self._bad_stamps,
            "from the future": self._from_the_future,
            **drop_values(self.drops),
            **latency_values(self._ages.snapshot(), ("p50", "p95")),
        }
        return diagnostic_status(f"{diagnostic_name(self._node)}: {self._name}", level, message, values)

    def _health(self, trouble: str, pause: float) -> tuple[bytes, str]:
        """Level and text: OK while every frame that is heard leads to masks."""
        bad_input = sum(self.drops[cause] for cause in CAUSES)
        new, self._bad_input_reported = bad_input - self._bad_input_reported, bad_input
        now, unanswered, ahead = time.monotonic(), self._unanswered, -(self._age_on_arrival or 0.0)
        if now - self._last_heard > SILENCE:
            text = f"no frame for {now - self._last_heard:.0f} s"
            return DiagnosticStatus.WARN, f"{text}: {trouble}" if trouble else text
        if unanswered is not None and now - unanswered > NO_MASK + pause:
            level = DiagnosticStatus.ERROR if now - unanswered > NO_MASK_ERROR + pause else DiagnosticStatus.WARN
            cause = self._last_drop or "the engine is still at work on one frame"
            return level, f"frames come, but no mask for {now - self._last_mask:.0f} s: {cause}"
        if new:
            return DiagnosticStatus.WARN, f"dropped {new} bad frames"
        if ahead > AHEAD:
            return DiagnosticStatus.WARN, f"frames from the future: camera clock {ahead:.1f} s ahead"
        return DiagnosticStatus.OK, self._fine

    def _log(self, cause: str, text: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(cause, float("-inf")) >= 1.0:
            self._logged[cause] = now
            self._node.get_logger().warning(f"{self._name}: {text}")

    def _now(self) -> float:
        return self._node.get_clock().now().nanoseconds / 1e9
