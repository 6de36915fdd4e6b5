"""One camera of the segmentation node: the topics of its masks, and what is made for them.

The subscription belongs to the node, which decides when to listen; what happened to the frames is in `account.py`, the
work on a frame in `worker.py`.
"""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from transkd_ros.frames import Frame, SampleBits, image_message
from transkd_ros.model.bundle import Bundle
from transkd_ros.nodes.qos_overrides import qos_overrides
from transkd_ros.nodes.segmentation.account import Account
from transkd_ros.nodes.segmentation.budget import FrameBudget
from transkd_ros.nodes.segmentation.camera_info import image_size, mask_info
from transkd_ros.nodes.segmentation.parameters import CameraSource
from transkd_ros.segmenter import Segmentation

TOPICS = ("mask", "mask/compressed", "camera_info", "overlay", "confidence")
"""Below <camera>/segmentation/."""


class Camera:
    """Publishers of one camera, and the account of its frames.

    Raises InvalidParameterValueException for QoS that the user has set wrongly for one of its topics.
    """

    def __init__(self, node: LifecycleNode, source: CameraSource, settings: SimpleNamespace, bundle: Bundle) -> None:
        name = source.name
        # Reliable publishers serve best-effort and reliable subscribers alike (REP 2003), and RViz asks for reliable.
        qos = {"depth": settings.qos_depth, "reliability": ReliabilityPolicy.RELIABLE}

        names = {topic: f"{name}/segmentation/{topic}" for topic in TOPICS}
        given = {topic: qos_overrides(node, "publisher", names[topic]) for topic in TOPICS}  # before there is one

        def publisher(topic: str, message_type: type = Image) -> LifecyclePublisher:
            return node.create_lifecycle_publisher(message_type, names[topic], QoSProfile(**(qos | given[topic])))

        self.name, self.source, self.region = name, source, source.region
        self.info: CameraInfo | None = None  # the calibration that was heard last
        self._info = publisher("camera_info", CameraInfo)
        self._mask = publisher("mask")
        self._png = publisher("mask/compressed", CompressedImage)
        self._overlay: Any = publisher("overlay") if settings.overlay else None
        with_confidence = settings.confidence and "confidence" in bundle.manifest.outputs
        self._confidence: Any = publisher("confidence") if with_confidence else None
        self._labels = bundle.manifest.labels
        self._label_info = _publish_label_info(node, name, bundle, settings.confidence_threshold)
        self._node = node
        self.account = Account(node, name)
        self.budget = FrameBudget()
        self.bits = SampleBits(settings.sample_bits)

    def destroy(self) -> None:
        for publisher in (*self._outputs(), self._info):
            self._node.destroy_lifecycle_publisher(publisher)
        if self._label_info:
            self._node.destroy_publisher(self._label_info)

    def is_listened_to(self) -> bool:
        """Whether someone listens to anything that comes of its frames."""
        return any(map(_has_listener, self._outputs()))

    def has_viewer(self) -> bool:
        """Whether someone listens to the overlay."""
        return _has_listener(self._overlay)

    def has_confidence_listener(self) -> bool:
        return _has_listener(self._confidence)

    def publish(self, header: Any, frame: Frame, segmentation: Segmentation) -> None:
        """The mask first: it is what others wait for. The rest only if someone listens."""
        self._mask.publish(image_message(segmentation.mask, "mono8", header))
        self.account.answered(header.stamp)
        if self.info and _has_listener(self._info):
            self._publish_info(self.info, header, frame, segmentation)
        if _has_listener(self._png):
            self._png.publish(png_message(segmentation.mask, header))
        if segmentation.confidence is not None:
            self._confidence.publish(image_message(segmentation.confidence, "mono8", header))
        if self.has_viewer():
            alpha, legend = (self._node.get_parameter(f"overlay_{name}").value for name in ("alpha", "legend"))
            rgb = frame.rgb(segmentation.mask.shape) if segmentation.image is None else segmentation.image
            overlay = self._labels.overlay(rgb, segmentation.mask, alpha, legend)
            self._overlay.publish(image_message(overlay, "rgb8", header))

    def _publish_info(self, info: CameraInfo, header: Any, frame: Frame, segmentation: Segmentation) -> None:
        if image_size(info) == frame.size:
            self._info.publish(mask_info(info, segmentation.mask.shape, segmentation.mapping, header))
        else:
            sizes = "{1}x{0}".format(*image_size(info)), "{1}x{0}".format(*frame.size)
            text = f"{self.name}: camera_info is of {sizes[0]} images, the frames are {sizes[1]}"
            self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def _outputs(self) -> list[Any]:
        return [publisher for publisher in (self._mask, self._png, self._overlay, self._confidence) if publisher]


def png_message(mask: Any, header: Any) -> CompressedImage:
    """A (H, W) uint8 mask as PNG, which loses nothing; `header` is shared, not copied."""
    data = array.array("B")
    data.frombytes(cv2.imencode(".png", mask)[1].data)
    return CompressedImage(header=header, format="mono8; png compressed ", data=data)


def _has_listener(publisher: Any) -> bool:
    return publisher is not None and publisher.get_subscription_count() > 0


def _publish_label_info(node: LifecycleNode, name: str, bundle: Bundle, threshold: float) -> Any | None:
    """Publish the class names, latched, where vision_msgs is installed; the publisher, or None without it.

    `threshold`: the confidence below which a pixel is in no class.
    """
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError:
        return None
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(LabelInfo, f"{name}/segmentation/label_info", qos)
    names = bundle.manifest.labels.names
    classes = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(names)]
    message = LabelInfo(class_map=classes, threshold=threshold)
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    return publisher
