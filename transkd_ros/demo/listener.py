"""Hears what the segmentation node says: masks, diagnostics, and the lifecycle state when asked."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import Image

from transkd_ros.bags.messages import header_stamp
from transkd_ros.frames import decode_image


class Answer(NamedTuple):
    """A mask (H, W) uint8 class ids, the stamp of its frame and the time it was heard, both in ns."""

    stamp_ns: int
    heard_ns: int
    mask: NDArray[np.uint8]


class MaskListener(Node):
    """Queues the masks of one camera for another thread, keeps the last diagnostics of node `speaker`.

    `diagnostics` are the values of the last message by status (`node`, or the camera's name).
    """

    def __init__(self, camera: str, speaker: str = "segmentation_node") -> None:
        super().__init__("mask_listener")
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.state = "unknown"
        self._speaker = speaker
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._asking: Future | None = None
        self._asked = 0.0
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._masks = f"{camera}/segmentation/mask"
        self.create_subscription(Image, self._masks, self._on_mask, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._get_state = self.create_client(GetState, f"{speaker}/get_state")

    @property
    def is_answered(self) -> bool:
        """Whether somebody publishes masks of the camera."""
        return self.count_publishers(self._masks) > 0

    def take(self, timeout: float) -> Answer | None:
        """The next mask, waiting up to `timeout` seconds for it."""
        try:
            return self._answers.get(timeout=timeout) if timeout > 0 else self._answers.get_nowait()
        except Empty:
            return None

    def ask_state(self) -> str:
        """The last known lifecycle state (`active`, `unconfigured` …); asks again without waiting."""
        # A request sent while the two were still discovering each other may never be answered.
        pending = self._asking is not None and not self._asking.done() and time.monotonic() < self._asked + 2
        if not pending and self._get_state.service_is_ready():
            self._asked = time.monotonic()
            self._asking = self._get_state.call_async(GetState.Request())
            self._asking.add_done_callback(self._on_state)
        return self.state

    def _on_state(self, future: Future) -> None:
        if response := future.result():
            self.state = response.current_state.label

    def _on_mask(self, message: Image) -> None:
        heard_ns = self.get_clock().now().nanoseconds
        self._answers.put(Answer(header_stamp(message), heard_ns, decode_image(message).pixels))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        statuses = ((*status.name.partition(": "), status.values) for status in message.status)
        heard = {what: values for name, _, what, values in statuses if name == self._speaker}
        if heard:
            self.diagnostics = {what: {pair.key: pair.value for pair in values} for what, values in heard.items()}
