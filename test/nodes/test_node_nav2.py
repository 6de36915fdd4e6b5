"""What the semantic segmentation layer of Nav2 (kiwicampus/semantic_segmentation_layer) hears of the node.

It wants a mono8 mask and a mono8 confidence of the size and with the stamp of its cloud, best effort, and a latched,
reliable LabelInfo.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_graph import wait_until
from segmentation_graph import change_state, image, log_lines, pixels_of, running
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from transkd_ros.model.labels import LabelTable
from transkd_ros.nodes.segmentation.node import SegmentationNode

pytestmark = pytest.mark.ros
PARAMETERS = Path(__file__).resolve().parents[2] / "config" / "nav2_semantic_layer.yaml"


@dataclass
class VisionClass:
    """vision_msgs/VisionClass: uint16 class_id, string class_name."""

    class_id: int = 0
    class_name: str = ""


@dataclass
class LabelInfo:
    """vision_msgs/LabelInfo: std_msgs/Header header, VisionClass[] class_map, float32 threshold."""

    header: Header = field(default_factory=Header)
    class_map: list[VisionClass] = field(default_factory=list)
    threshold: float = 0.0


@pytest.fixture
def label_infos(monkeypatch):
    """(topic, QoS, message) of every LabelInfo, with a stand-in for vision_msgs, which is not on PyPI."""
    try:
        import vision_msgs.msg  # noqa: F401

        pytest.skip("vision_msgs is installed: the stand-in would hide it")
    except ImportError:
        pass
    module = ModuleType("vision_msgs.msg")
    module.LabelInfo, module.VisionClass = LabelInfo, VisionClass
    monkeypatch.setitem(sys.modules, "vision_msgs", ModuleType("vision_msgs"))
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)
    published = []

    class Publisher:
        def __init__(self, topic, qos):
            self.publish = lambda message: published.append((topic, qos, message))

    create = SegmentationNode.create_publisher

    def create_publisher(self, message_type, topic, qos, **more):
        if message_type is LabelInfo:
            return Publisher(topic, qos)
        return create(self, message_type, topic, qos, **more)

    monkeypatch.setattr(SegmentationNode, "create_publisher", create_publisher)
    return published


def test_label_info_is_latched_and_names_the_classes(bundle_path, label_infos):
    with running(bundle_path, confidence_threshold=0.5):
        (topic, qos, message) = wait_until(lambda: label_infos, "the label info")[0]
    assert topic == "camera/segmentation/label_info"
    assert (qos.durability, qos.reliability) == (DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [(0, "red"), (1, "green"), (2, "blue")]
    assert message.threshold == 0.5


def test_mask_and_confidence_have_the_size_and_stamp_of_the_cloud_and_doubtful_pixels_no_class(
    user, bundle_path, colours
):
    masks, confidences = (
        user.listen(Image, f"camera/segmentation/{topic}", "BEST_EFFORT") for topic in ("mask", "confidence")
    )
    frame = np.where(np.arange(96)[:, None] < 48, colours, colours // 4)  # the brightest channels are 250 and 62
    with running(bundle_path, mask_size="48x32", confidence_threshold=0.5):
        user.send_until(lambda: masks and confidences, "both", "camera/image_raw", image(frame, sec=9))
    mask, confidence = masks[-1], confidences[-1]
    assert mask.header == confidence.header and mask.header.stamp.sec == 9
    for message in (mask, confidence):
        assert (message.encoding, message.height, message.width) == ("mono8", 32, 48)
    doubtful = pixels_of(confidence) < 128
    np.testing.assert_array_equal(pixels_of(mask) == 255, doubtful)
    assert doubtful[:, 24:].all() and not doubtful[:, :24].any()


def test_a_threshold_without_a_confidence_output_is_refused(user, bundle_path, capfd):
    with running(bundle_path, confidence=False, confidence_threshold=0.5, autostart=False):
        assert not change_state(user, "configure")
    assert any("needs the confidence output" in line for line in log_lines(capfd, "ERROR"))


def test_the_parameter_file_for_the_layer_names_every_class_of_the_shipped_models_once():
    costmap = yaml.safe_load(PARAMETERS.read_text())["local_costmap"]["local_costmap"]["ros__parameters"]
    layer = costmap["semantic_segmentation_layer"]
    source = layer[layer["observation_sources"]]
    named = [name for kind in source["class_types"] for name in source[kind]["classes"]]
    assert sorted(named) == sorted(LabelTable.load("camvid").names)
    topics = {key: value for key, value in source.items() if key.endswith("_topic")}
    assert topics == {
        "segmentation_topic": "/camera/camera/color/segmentation/mask",
        "confidence_topic": "/camera/camera/color/segmentation/confidence",
        "labels_topic": "/camera/camera/color/segmentation/label_info",
        "pointcloud_topic": "/camera/camera/aligned_points",
    }
