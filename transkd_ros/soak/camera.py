"""The camera of a soak: too many frames of several sizes, malformed ones between them, under a clock that jumps.

The last decimal of a frame's stamp (ns) says what it is: the index of its size, or MALFORMED. Its frame_id is the time
of the system's clock at which it left, in ns. SIGUSR1 makes the clock jump.
"""

from __future__ import annotations

import array
import random
import signal
import sys
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from transkd_ros.frames import image_message
from transkd_ros.nodes import process
from transkd_ros.scenes import Drive

CAMERA = "camera"
SIZES = ((240, 320), (480, 640), (361, 643))  # (height, width)
MALFORMED = 9
NO_TIME_SIZE = 0  # of the frames whose stamp is no time (sec = -1)
JUMP = 30.0  # seconds at the most, either way


class SoakCamera(Node):
    def __init__(self) -> None:
        super().__init__("soak_camera")
        rate = float(self.declare_parameter("rate", 60.0).value or 60.0)
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self.create_publisher(Image, f"{CAMERA}/image_raw", qos)
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10)
        pixels = [np.ascontiguousarray(Drive(7, size).frame(0)[0][..., ::-1]) for size in SIZES]
        self._good = [image_message(one, "bgr8", Image().header) for one in pixels]
        self._bad = [broken(pixels[0], how) for how in range(5)]
        self._offset = self._last = 0
        self._random = random.Random()
        signal.signal(signal.SIGUSR1, lambda *_: self._jump())
        self.create_timer(1 / rate, self._publish)

    def _jump(self) -> None:
        self._offset += round(1e9 * self._random.uniform(-JUMP, JUMP))

    def _publish(self) -> None:
        now = time.time_ns()
        stamp = now + self._offset
        self._clock_publisher.publish(Clock(clock=Time(nanoseconds=stamp).to_msg()))
        kind = self._random.choice((*range(len(SIZES)), *range(len(SIZES)), MALFORMED))
        message = self._random.choice(self._bad) if kind == MALFORMED else self._good[kind]
        message.header.stamp = Time(nanoseconds=stamp // 10 * 10 + kind).to_msg()
        message.header.frame_id = str(now)
        if kind == NO_TIME_SIZE and self._random.random() < 0.05:
            message.header.stamp.sec = -1
        self._images.publish(message)


def broken(pixels: np.ndarray, how: int) -> Image:
    """A message that holds no frame."""
    message: Any = image_message(pixels, "bgr8", Image().header)
    if how == 0:
        message.step = 1
    elif how == 1:
        message.data = array.array("B", bytes(100))
    elif how == 2:
        message.encoding = "plaid8"
    elif how == 3:
        message.height = 0
    else:
        message.height = message.width = 2**31
    return message


if __name__ == "__main__":
    sys.exit(process.run(SoakCamera, None))
