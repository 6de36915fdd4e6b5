"""The node hears every kind of camera without being told its QoS, and says which frames never reached it."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from ros_graph import DEADLINE, client, process, wait_until
from segmentation_graph import CAMERA, NODE, get_parameter, image, running
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.nodes.reliability import ImageSubscription
from transkd_ros.nodes.segmentation import account

pytestmark = pytest.mark.ros

# A camera driver as they come: no DDS profile of ours, real stamps. An image of 640x480 (900 kB) is larger than the
# shared memory that Fast DDS then gives it.
DRIVER = """
import os, sys, time
for profile in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
    os.environ.pop(profile, None)
import array, rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

rclpy.init()
node, reliability, (width, height) = Node("driver"), ReliabilityPolicy[sys.argv[1]], map(int, sys.argv[2:])
camera = node.create_publisher(Image, "camera/image_raw", QoSProfile(depth=5, reliability=reliability))
data = array.array("B", bytes(3 * width * height))
frame = Image(width=width, height=height, step=3 * width, encoding="rgb8", data=data)

def send():
    frame.header.stamp = node.get_clock().now().to_msg()
    camera.publish(frame)
"""
ENDLESS = """
while True:
    send()
    time.sleep(0.05)
"""
# 20 frames, each sent when the one before has its mask; the very first is repeated until the graph is connected.
IN_STEP = """
masks = []
node.create_subscription(Image, "camera/segmentation/mask", masks.append, 10)
def heard_as_offered():
    listeners = node.get_subscriptions_info_by_topic("camera/image_raw")
    return any(listener.qos_profile.reliability == reliability for listener in listeners)

while not heard_as_offered():
    time.sleep(0.1)
while not masks:
    send()
    rclpy.spin_once(node, timeout_sec=0.2)
for _ in range(20):
    send()
    while masks[-1].header.stamp != frame.header.stamp:
        rclpy.spin_once(node)
"""


@pytest.mark.slow
def test_as_it_starts_the_node_loses_no_frame_of_a_stock_driver_and_hears_the_best_effort_one_that_joins(
    user, diagnostics, bundle_path, colours
):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, qos_reliability="best_available"):
        with process("-c", DRIVER + IN_STEP, "RELIABLE", "640", "480") as driver:
            output, errors = driver.communicate(timeout=DEADLINE)
            assert driver.returncode == 0, output + errors
        user.send("camera/image_raw", image(colours))
        diagnostics.wait_for(CAMERA, "reliability", "reliable")
        with process("-c", DRIVER + ENDLESS, "BEST_EFFORT", "32", "32"):
            diagnostics.wait_for(CAMERA, "reliability", "best_effort")
            wait_until(lambda: any(mask.width == 32 for mask in masks), "a mask of the best-effort camera")
            user.send_until(
                lambda: masks[-1].width == 96, "a mask of the reliable camera", "camera/image_raw", image(colours)
            )
        diagnostics.wait_for(CAMERA, "reliability", "reliable")


def test_frames_that_never_arrive_show_in_the_diagnostics(user, diagnostics, bundle_path):
    driver = process("-c", DRIVER + ENDLESS, "RELIABLE", "1280", "720")
    with running(bundle_path, qos_reliability="best_effort"), driver:
        for key in ("lost on the way", "missing between stamps"):
            wait_until(lambda key=key: int(diagnostics.value(CAMERA, key) or 0) > 0, key)


def test_qos_overrides_of_a_topic_come_first_and_a_bad_one_is_refused(user, diagnostics, bundle_path, colours):
    masks = user.listen(Image, "camera/segmentation/mask", "BEST_EFFORT")
    subscription, publisher = (
        "qos_overrides./camera/image_raw.subscription.",
        "qos_overrides./camera/segmentation/mask.",
    )
    overrides = {
        f"{subscription}reliability": "best_effort",
        f"{subscription}depth": 7,
        f"{publisher}publisher.reliability": "best_effort",
    }
    with running(bundle_path, qos_reliability="reliable", **overrides):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        diagnostics.wait_for(CAMERA, "reliability", "best_effort")
        (offer,) = user.node.get_publishers_info_by_topic("camera/segmentation/mask")
        assert offer.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        assert get_parameter(user, f"{subscription}depth") == 7
    for wrong in (f"{subscription}reliability", f"{publisher}publisher.reliability"):
        with running(bundle_path, **{wrong: "perfect"}):

            def refused(wrong=wrong):
                message = diagnostics.latest(f"{NODE}: node").message
                return message.startswith("unconfigured: ") and wrong in message and "not one of reliable" in message

            wait_until(refused, f"the refusal of {wrong}")
            assert not user.node.count_publishers("camera/segmentation/mask")


def test_a_subscription_that_cannot_hear_its_camera_says_so(user, diagnostics, bundle_path, monkeypatch):
    monkeypatch.setattr(account, "SILENCE", 0.2)
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    user.node.create_publisher(Image, "camera/image_raw", best_effort)
    with running(bundle_path, qos_reliability="reliable"):
        wait_until(
            lambda: (
                (status := diagnostics.latest(CAMERA))
                and status.message.endswith("the publisher is best effort and the subscription reliable")
            ),
            "the reason",
        )


def test_a_subscription_that_is_gone_leaves_no_trace_in_its_node():
    with Context() as context:
        node = Node("hears_now_and_then", context=context)
        before = len(node.default_callback_group.entities)
        for _ in range(10):
            ImageSubscription(node, Image, "camera/image_raw", print, "best_available", 1, on_lost=print).destroy()
        assert len(node.default_callback_group.entities) == before
        node.destroy_node()


def test_a_topic_of_another_type_is_named_as_why_nothing_comes(user, diagnostics, bundle_path, colours, monkeypatch):
    monkeypatch.setattr(account, "SILENCE", 0.2)
    with running(bundle_path, qos_reliability="best_available"):
        with client("other") as other:
            other.node.create_publisher(CompressedImage, "camera/image_raw", qos_profile_sensor_data)
            reason = "published as sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image"
            wait_until(lambda: (status := diagnostics.latest(CAMERA)) and reason in status.message, "the reason")
        masks = user.listen(Image, "camera/segmentation/mask")
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
