"""What comparing teacher and student costs: the time of a pair of 640x480 masks, and whether the node's memory grows.

The time is that of the node's work on the two masks, without pictures: decode, pair, compare. For the memory the real
node hears the masks of a long run over ROS.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from transkd_ros.bags.messages import image_message, serialize
from transkd_ros.benchmark.measurement import Measurement, Settings, Target, table
from transkd_ros.benchmark.memory import growth_target, resident
from transkd_ros.cli import CommandError
from transkd_ros.compare.agreement import Comparison
from transkd_ros.compare.pairing import SIDES
from transkd_ros.demo.child_node import NodeProcess
from transkd_ros.demo.graph import set_environment
from transkd_ros.frames import decode_image
from transkd_ros.model.labels import LabelTable
from transkd_ros.scenes import Drive

SIZE = (480, 640)  # (height, width) of the masks
MOST = 4.0  # ms
WARM_UP = 1000  # pairs, after which every window and history is full
AHEAD = 16  # pairs on their way to the node at most
PATIENCE = 30.0  # seconds without news of the node


def measure(settings: Settings) -> Measurement:
    pairs = settings.count(full=2000, quick=20)
    cost = _cost(pairs)
    rows = table("comparison of a pair of 640x480 masks", "")
    rows.add_row("decode, pair, compare (ms)", f"{cost:.2f}")
    values: dict[str, Any] = {"mask_size": list(SIZE), "pairs": pairs, "ms": cost}
    targets = [Target("a pair of masks", cost, "≤", MOST, "ms")]
    if find_spec("rclpy") is None:
        return Measurement(values, rows, targets, ["memory skipped: rclpy not installed"])

    before, after, cpu = _run_node(20 if settings.quick else WARM_UP, pairs)
    rows.add_row("CPU time of the node, receiving included (ms)", f"{cpu:.2f}")
    rows.add_row("resident memory of the node, warm (MB)", f"{before['now']:.1f}")
    rows.add_row(f"{pairs} pairs later (MB)", f"{after['now']:.1f}")
    notes = [f"warm: after {WARM_UP} pairs, when every window and history is full"]
    values |= {"node_cpu_ms": cpu, "resident_mb": {"warm": before, "end": after}}
    return Measurement(values, rows, [*targets, growth_target(before["now"], after["now"])], notes)


def _masks() -> list[tuple[Any, Any]]:
    """Messages of teacher and student: rendered streets, and the same a little displaced."""
    labels = [Drive(seed, SIZE).frame(0)[1] for seed in range(8)]
    moved = [np.roll(label, 5, axis=1) for label in labels]
    messages = [[image_message(mask, "mono8", 0) for mask in masks] for masks in (labels, moved)]
    return list(zip(*messages, strict=True))


def _cost(pairs: int) -> float:
    """ms, the median."""
    masks, comparison = _masks(), Comparison(LabelTable.load("camvid"))
    times = []
    for index in range(1, pairs + 1):
        start = time.perf_counter()
        for side, message in zip(SIDES, masks[index % len(masks)], strict=True):
            comparison.hear(side, index, decode_image(message).pixels, now=0.1 * index, latency=0.05)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def _run_node(warm_up: int, pairs: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Resident memory of the node after `warm_up` pairs and `pairs` later, and its CPU time for one of these in ms."""
    set_environment()
    with TemporaryDirectory() as folder:
        parameters = {
            "labels": "camvid",
            "output": "",
            "diagnostics_period": 0.05,
            "qos_reliability": "reliable",
            "qos_depth": 4 * AHEAD,
        }
        with NodeProcess(parameters, Path(folder) / "node.log", "comparison") as process:
            import rclpy
            from rclpy.signals import SignalHandlerOptions

            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
            try:
                feed = _Feed(process)
                feed.play(warm_up)
                before, cpu = resident(process.pid), _cpu_seconds(process.pid)
                feed.play(pairs)
                after, spent = resident(process.pid), _cpu_seconds(process.pid) - cpu
                return before, after, 1e3 * spent / pairs
            finally:
                rclpy.try_shutdown()


class _Feed:
    """Publishes the masks of both sides, no faster than the node compares them."""

    def __init__(self, process: NodeProcess) -> None:
        import rclpy
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import Image
        from std_msgs.msg import String

        self._process = process
        self._node = rclpy.create_node("mask_feed")
        self._masks = _masks()
        self._sent = self._compared = 0
        qos = QoSProfile(depth=4 * AHEAD)
        self._publishers = [
            self._node.create_publisher(Image, f"{side}/camera/segmentation/mask", qos) for side in SIDES
        ]
        self._node.create_subscription(String, "camera/comparison/summary", self._on_summary, 1)
        self._wait(self._is_answered)
        self._sent = self._compared

    def play(self, pairs: int) -> None:
        """Publish so many more pairs and return when the node has compared all."""
        for _ in range(pairs):
            self._wait(lambda: self._sent - self._compared < AHEAD)
            self._send()
        self._wait(lambda: self._compared >= self._sent)

    def _is_answered(self) -> bool:
        """Whether a pair has arrived: until all have found each other, masks get lost."""
        self._send()
        return self._compared > 0

    def _send(self) -> None:
        self._sent += 1
        stamp_ns = self._node.get_clock().now().nanoseconds
        for publisher, message in zip(self._publishers, self._masks[self._sent % len(self._masks)], strict=True):
            publisher.publish(serialize(message, stamp_ns))

    def _on_summary(self, message: Any) -> None:
        self._compared = json.loads(message.data)["pairs"]["complete"]

    def _wait(self, condition: Callable[[], bool]) -> None:
        import rclpy

        deadline = time.monotonic() + PATIENCE
        while not condition():
            self._process.check()
            if time.monotonic() > deadline:
                raise CommandError(f"the comparison node does not answer: {self._process.last_words()}")
            rclpy.spin_once(self._node, timeout_sec=0.02)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, as proc(5) tells it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
