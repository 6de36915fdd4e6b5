"""A camera that is not one: publishes frames it is given, stamped with the time at which they leave."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.bags.messages import serialize


class FramePlayer(Node):
    """Publishes on `<camera>/image_raw`, or `<camera>/image_raw/compressed`."""

    def __init__(self, camera: str, compressed: bool) -> None:
        super().__init__("frame_player")
        topic = f"{camera}/image_raw/compressed" if compressed else f"{camera}/image_raw"
        # A reliable publisher matches reliable and best-effort subscriptions alike.
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = self.create_publisher(CompressedImage if compressed else Image, topic, qos)

    @property
    def is_heard(self) -> bool:
        """Whether somebody subscribes to the frames."""
        return self._publisher.get_subscription_count() > 0

    def play(self, message: Any) -> int:
        """Publish a message of `transkd_ros.bags.messages`; returns the stamp (ns) it got, and its mask will have."""
        stamp_ns = self.get_clock().now().nanoseconds
        self._publisher.publish(serialize(message, stamp_ns))
        return stamp_ns
