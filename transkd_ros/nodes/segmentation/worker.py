"""The worker of the segmentation node: the thread on which frames become masks, and which opens a failed engine again.

Callbacks leave the newest frame of each camera with it; it serves the cameras in turn. What happens to the pixels is in
`transkd_ros.segmenter`, what a camera publishes and counts in `camera.py` and `account.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Image

from transkd_ros.cli import one_line
from transkd_ros.frames import Frame, FrameError, decode_compressed, decode_image
from transkd_ros.mailbox import Mailbox
from transkd_ros.nodes.segmentation.budget import FrameBudget
from transkd_ros.nodes.segmentation.camera import Camera
from transkd_ros.nodes.segmentation.engine import Engine
from transkd_ros.segmenter import EngineFailure
from transkd_ros.timing import Timings

FAILURES_IN_A_ROW = 3  # of the engine, after which it is opened again
BACK_OFF = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before each attempt to open it; after the last it is given up
BUDGET_LOOK = 0.1  # seconds between two looks whether max_total_rate has changed
JOIN_LIMIT = 5.0  # seconds for the frame at work when the node is deactivated


class Worker:
    """Runs from its making until `stop`. `on_broken` is called, in its thread, when the engine is given up."""

    def __init__(self, node: Node, engine: Engine, on_broken: Callable[[], None]) -> None:
        self.timings = Timings()
        self.problem = ""  # the engine's last one, until there is a mask again
        self.attempts = 0  # to open the engine since the last mask
        self.reopened = 0
        self.broken = False
        self._node, self._engine, self._on_broken = node, engine, on_broken
        self._failures = 0  # of the engine, in a row
        self._mailbox: Mailbox[tuple[Camera, Any]] = Mailbox()
        self._budget = FrameBudget()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="segmentation worker", daemon=True)
        self._thread.start()

    def put(self, camera: Camera, message: Any) -> None:
        """Leave a frame, in place of an older one that still waits."""
        if self._mailbox.put(camera.name, (camera, message)):
            camera.account.drops["superseded"] += 1

    def stop(self) -> None:
        """Take no more frames; the one at work may be finished."""
        if not self._stopping.is_set():
            self._deadline = time.monotonic() + JOIN_LIMIT
            self._stopping.set()
            for camera, _ in self._mailbox.close():
                camera.account.drops["stopped"] += 1

    def join(self) -> bool:
        """Wait for the end, JOIN_LIMIT seconds from `stop` on at most; whether it has come."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return not self._thread.is_alive()

    def close_engine(self) -> None:
        """Close the engine: at once, or when an inference that does not end has ended."""
        if self.join():
            self._engine.close()
        else:
            late = (self._thread.join, self._engine.close)
            threading.Thread(target=lambda: [step() for step in late], name="late end", daemon=True).start()

    def _run(self) -> None:
        while item := self._next():
            _, (camera, message) = item
            masks = camera.account.masks
            try:
                self._segment(camera, message)
            except FrameError as error:
                camera.account.dropped(error.cause, str(error))
            except EngineFailure as error:
                self._failures += 1
                self.problem = one_line(error)
                camera.account.dropped("engine", self.problem)
                if self._failures >= FAILURES_IN_A_ROW and not self._reopen():
                    self.broken = True
                    self._on_broken()
                    return
            except Exception as error:  # ROS's, or ours; the next frame may well be fine
                if not self._node.context.ok():  # a signal has ended ROS while we were publishing
                    return
                count = camera.account.dropped if camera.account.masks == masks else camera.account.problem
                count("internal", f"{type(error).__name__}: {one_line(error)}")

    def _next(self) -> tuple[Any, tuple[Camera, Any]] | None:
        """The next frame, which is the newest when the budget of all cameras allows one; None at the end."""
        while pause := self._budget.wait(time.monotonic(), self._rate()):
            if self._stopping.wait(min(pause, BUDGET_LOOK)):
                return None
        item = self._mailbox.take()
        self._budget.spend(time.monotonic(), self._rate())
        return item

    def _rate(self) -> float:
        return float(self._node.get_parameter("max_total_rate").value)

    def _decode(self, camera: Camera, message: Any) -> Frame:
        """Raises FrameError."""
        bits = camera.bits.bits
        if isinstance(message, Image):
            frame = decode_image(message, camera.bits)
        else:  # decoded no larger than the network needs, unless its pixels are to be shown, or cut out of
            all_pixels = camera.has_viewer() or camera.region
            size = None if all_pixels else self._engine.runtime.input_size
            limit = self._node.get_parameter("max_compressed_pixels").value
            frame = decode_compressed(message, size, camera.bits, limit)
        if camera.bits.bits != bits:
            self._node.get_logger().info(f"{camera.name}: samples of 16 bits use {camera.bits.bits}")
        return frame

    def _reopen(self) -> bool:
        """Open the engine again; False where that is not wanted, or was in vain too often."""
        if self._node.get_parameter("on_engine_failure").value == "exit":
            return False
        log = self._node.get_logger()
        log.error(f"the engine failed {self._failures} times in a row: {self.problem}")
        while self.attempts < len(BACK_OFF):
            if self._stopping.wait(BACK_OFF[self.attempts]):
                return True
            self.attempts += 1
            try:
                self._engine.reopen()
            except Exception as error:  # whatever its library throws
                self.problem = one_line(error)
                log.error(f"the engine cannot be opened again, attempt {self.attempts}: {self.problem}")
            else:
                self._failures = 0
                self.reopened += 1
                log.info(f"the engine is open again: {self._engine.runtime.reason}")
                return True
        return False

    def _segment(self, camera: Camera, message: Any) -> None:
        limit = self._node.get_parameter("max_frame_age").value
        age = camera.account.age(message.header.stamp)
        if limit and age is not None and age > limit:
            camera.account.stale(age, limit)
            return

        segmenter = self._engine.segmenter
        start = time.perf_counter()
        frame = self._decode(camera, message)
        decoded = time.perf_counter()
        segmentation = segmenter(frame, camera.has_confidence_listener(), camera.region)
        segmented = time.perf_counter()
        camera.publish(message.header, frame, segmentation)
        end = time.perf_counter()
        self._failures = self.attempts = 0
        self.problem = ""

        stages = {"decode": decoded - start, **segmentation.timings, "publish": end - segmented, "total": end - start}
        for stage, seconds in stages.items():
            self.timings.add(stage, seconds)
