"""One camera of the segmentation node: its topics, and the account of what happened to its frames.

The subscription belongs to the node, which decides when to listen; the work on a frame is in `node.py`.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from transkd_ros.frames import CAUSES, Frame, image_message
from transkd_ros.model.bundle import Bundle
from transkd_ros.nodes.segmentation.gaps import StampGaps
from transkd_ros.segmenter import Segmentation
from transkd_ros.timing import Rate, Timings, diagnostic_name, diagnostic_status, stamp_ns

DROPS = ("superseded", "stale", *CAUSES, "internal")
SILENCE = 3.0  # seconds without a frame that are worth a warning


class Camera:
    """Publishers and counters of one camera. A drop cause is counted by one thread only, so no lock is needed."""

    def __init__(self, node: LifecycleNode, name: str, settings: SimpleNamespace, bundle: Bundle) -> None:
        # Reliable publishers serve best-effort and reliable subscribers alike (REP 2003), and RViz asks for reliable.
        qos = QoSProfile(depth=settings.qos_depth, reliability=ReliabilityPolicy.RELIABLE)

        def publisher(topic: str) -> LifecyclePublisher:
            return node.create_lifecycle_publisher(Image, f"{name}/segmentation/{topic}", qos)

        self.name = name
        self._mask = publisher("mask")
        self._overlay: Any = publisher("overlay") if settings.overlay else None
        with_confidence = settings.confidence and "confidence" in bundle.manifest.outputs
        self._confidence: Any = publisher("confidence") if with_confidence else None
        self._labels = bundle.manifest.labels
        self._label_info = _publish_label_info(node, name, bundle)
        self._node = node

        self.drops = dict.fromkeys(DROPS, 0)
        self._logged: dict[str, float] = {}  # cause -> when it was last logged
        self._bad_input_reported = 0
        self._received = self._processed = 0
        self._lost = 0  # before they came here, as the middleware tells
        self._gaps = StampGaps()
        self._rate_in, self._rate_out = Rate(), Rate()
        self._ages = Timings()
        self._last_heard = time.monotonic()

    def destroy(self) -> None:
        for publisher in filter(None, (self._mask, self._overlay, self._confidence)):
            self._node.destroy_lifecycle_publisher(publisher)
        if self._label_info:
            self._node.destroy_publisher(self._label_info)

    def received(self, stamp: Any) -> None:
        self._received += 1
        if taken := stamp_ns(stamp):
            self._gaps.add(taken / 1e9)
        self._rate_in.tick(self._now())
        self._last_heard = time.monotonic()

    def lost(self, count: int) -> None:
        """`count` frames that the middleware has lost on their way here."""
        self._lost += count

    def has_viewer(self) -> bool:
        """Whether someone listens to the overlay."""
        return _has_listener(self._overlay)

    def has_confidence_listener(self) -> bool:
        return _has_listener(self._confidence)

    def publish(self, header: Any, frame: Frame, segmentation: Segmentation, alpha: float, legend: bool) -> None:
        """The mask first: it is what others wait for. The rest only if someone listens."""
        self._mask.publish(image_message(segmentation.mask, "mono8", header))
        self._processed += 1
        self._rate_out.tick(self._now())
        age = self.age(header.stamp)
        if age is not None:
            self._ages.add("age", age)
        if segmentation.confidence is not None:
            self._confidence.publish(image_message(segmentation.confidence, "mono8", header))
        if self.has_viewer():
            rgb = frame.rgb(segmentation.mask.shape)
            overlay = self._labels.overlay(rgb, segmentation.mask, alpha, legend)
            self._overlay.publish(image_message(overlay, "rgb8", header))

    def dropped(self, cause: str, reason: str) -> None:
        """Count a frame that gets no mask; logged at most once a second per cause."""
        now = time.monotonic()
        if now - self._logged.get(cause, float("-inf")) >= 1.0:
            self._logged[cause] = now
            self._node.get_logger().warning(f"{self.name}: dropped a frame ({cause}): {reason}")
        self.drops[cause] += 1

    def age(self, stamp: Any) -> float | None:
        """Seconds since `stamp` on the node's clock; None if it is 0 or no time, or the clock has not started.

        Negative if the camera's clock is ahead of the node's, or simulated time has jumped back.
        """
        taken, now = stamp_ns(stamp), self._node.get_clock().now().nanoseconds
        return (now - taken) / 1e9 if taken and now else None

    def status(self, reliability: str) -> DiagnosticStatus:
        """What happened since the start, and a warning if the camera is silent or has lately sent bad frames.

        `reliability` is that of the subscription.
        """
        bad_input = sum(self.drops[cause] for cause in CAUSES)
        new = bad_input - self._bad_input_reported
        self._bad_input_reported = bad_input
        silence = time.monotonic() - self._last_heard

        level, message = DiagnosticStatus.OK, "segmenting"
        if silence > SILENCE:
            level, message = DiagnosticStatus.WARN, f"no frame for {silence:.0f} s"
        elif new:
            level, message = DiagnosticStatus.WARN, f"dropped {new} bad frames"
        now = self._now()
        ages = self._ages.snapshot().get("age", {})
        values = {
            "reliability": reliability,
            "rate in (Hz)": self._rate_in.hz(now),
            "rate out (Hz)": self._rate_out.hz(now),
            "received": self._received,
            "processed": self._processed,
            "lost on the way": self._lost,
            "missing between stamps": self._gaps.missing,
            **{f"dropped {cause}": count for cause, count in self.drops.items()},
            **{f"age {key} (ms)": ages[key] for key in ("p50", "p95") if key in ages},
        }
        return diagnostic_status(f"{diagnostic_name(self._node)}: {self.name}", level, message, values)

    def _now(self) -> float:
        return self._node.get_clock().now().nanoseconds / 1e9


def _has_listener(publisher: Any) -> bool:
    return publisher is not None and publisher.get_subscription_count() > 0


def _publish_label_info(node: LifecycleNode, name: str, bundle: Bundle) -> Any | None:
    """Publish the class names, latched, where vision_msgs is installed; the publisher, or None without it."""
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError:
        return None
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(LabelInfo, f"{name}/segmentation/label_info", qos)
    names = bundle.manifest.labels.names
    message = LabelInfo(class_map=[VisionClass(class_id=i, class_name=name) for i, name in enumerate(names)])
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    return publisher
