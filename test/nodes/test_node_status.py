"""The diagnostics of the segmentation node follow what came out of it, whatever the stamps of its frames are."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from builtin_interfaces.msg import Time
from ros_graph import wait_until
from segmentation_graph import (
    CAMERA,
    ERROR,
    NODE,
    OK,
    WARN,
    change_state,
    image,
    level,
    log_lines,
    running,
    set_parameter,
    state,
)
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from transkd_ros.model.labels import LabelTable
from transkd_ros.nodes.segmentation import account

pytestmark = pytest.mark.ros


def taken(user, colours, seconds_ago):
    """A frame whose stamp is `seconds_ago`."""
    message = image(colours)
    message.header.stamp = Time(sec=user.node.get_clock().now().seconds_nanoseconds()[0] - seconds_ago)
    return message


def wait_for_status(diagnostics, name, level, text):
    def found():
        status = diagnostics.latest(name)
        return status and status.level == level and text in status.message

    wait_until(found, f"{name}: level {level!r} with '{text}'")


def test_a_stamp_that_is_no_time_is_counted_and_the_frame_gets_its_mask(
    user, diagnostics, bundle_path, colours, capfd
):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, max_frame_age=60.0):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        for count, stamp in enumerate((Time(sec=-1), Time(sec=5, nanosec=2 * 10**9), Time(sec=-(2**31))), start=1):
            message = image(colours)
            message.header.stamp = stamp
            user.send("camera/image_raw", message)
            wait_until(lambda message=message: masks[-1].header == message.header, "its mask")
            diagnostics.wait_for(CAMERA, "bad stamp", count)
        diagnostics.wait_for(CAMERA, "dropped internal", 0)
        assert diagnostics.latest(f"{NODE}: node").level == OK
    assert any("stamp is no time: -1 s" in line for line in log_lines(capfd, "WARN"))


def test_a_camera_without_masks_warns_and_then_is_in_error_and_names_the_cause(
    user, diagnostics, bundle_path, colours, monkeypatch
):
    monkeypatch.setattr(account, "NO_MASK", 0.2)
    monkeypatch.setattr(account, "NO_MASK_ERROR", 1.5)
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, max_frame_age=60.0):

        def send_until_status(make, level, text):
            def sent():
                user.send("camera/image_raw", make())
                time.sleep(0.02)
                status = diagnostics.latest(CAMERA)
                return status and status.level == level and text in status.message

            wait_until(sent, f"level {level!r} with '{text}'")

        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        send_until_status(lambda: image(colours), OK, "segmenting")
        for level in (WARN, ERROR):
            send_until_status(lambda: taken(user, colours, 1000), level, "camera clock 1000.")
        send_until_status(lambda: taken(user, colours, 0), OK, "segmenting")
        send_until_status(lambda: taken(user, colours, -100), WARN, "ahead")
        assert int(diagnostics.value(CAMERA, "from the future")) > 0
        send_until_status(lambda: image(colours, "plaid8"), ERROR, "encoding 'plaid8'")
        send_until_status(lambda: image(colours), OK, "segmenting")


def test_a_mask_that_a_budget_holds_back_is_not_missed(user, diagnostics, gated, bundle_path, monkeypatch):
    monkeypatch.setattr(account, "NO_MASK", 0.1)
    gated.gate.release(1000)
    with running(bundle_path, cameras=["left", "right"], max_total_rate=0.01):
        user.send_until(lambda: gated.seen, "an inference", "left/image_raw", level(1))
        user.send_until(
            lambda: int(diagnostics.value(f"{NODE}: right", "received") or 0) > 20, "many frames",
            "right/image_raw", level(2),
        )  # fmt: skip
        assert diagnostics.latest(f"{NODE}: right").level == OK
        assert 2 not in gated.seen


def test_a_camera_that_was_disabled_after_a_bad_frame_is_disabled_and_not_in_error(
    user, diagnostics, gated, bundle_path, colours, monkeypatch
):
    monkeypatch.setattr(account, "NO_MASK", 0.1)
    monkeypatch.setattr(account, "NO_MASK_ERROR", 0.2)
    with running(bundle_path):
        user.send_until(
            lambda: int(diagnostics.value(CAMERA, "dropped encoding") or 0) > 0, "a bad frame",
            "camera/image_raw", image(colours, "plaid8"),
        )  # fmt: skip
        wait_for_status(diagnostics, CAMERA, ERROR, "encoding")
        assert user.call(SetBool, f"/{NODE}/enable", SetBool.Request(data=False)).success
        before = int(diagnostics.value(CAMERA, "dropped disabled"))
        user.send_until(
            lambda: int(diagnostics.value(CAMERA, "dropped disabled")) > before + 3, "frames that nobody wants",
            "camera/image_raw", level(1),
        )  # fmt: skip
        wait_for_status(diagnostics, CAMERA, OK, "disabled")


def test_the_status_of_the_node_is_its_lifecycle_state(user, diagnostics, bundle_path, monkeypatch):
    monkeypatch.setattr(account, "SILENCE", 0.5)
    with running(bundle_path, autostart=False):
        wait_for_status(diagnostics, f"{NODE}: node", ERROR, "unconfigured")
        assert change_state(user, "configure")
        wait_for_status(diagnostics, f"{NODE}: node", ERROR, "inactive")
        time.sleep(0.6)  # longer than a silence that is worth a warning
        assert change_state(user, "activate")
        first = wait_until(lambda: diagnostics.first(CAMERA), "the camera's first status")
        assert first.level == OK  # silence counts from activate on
        wait_for_status(diagnostics, CAMERA, WARN, "s: nobody publishes /camera/image_raw")
        assert change_state(user, "shutdown") and state(user) == "finalized"
        wait_for_status(diagnostics, f"{NODE}: node", ERROR, "finalized")


def test_topics_that_cannot_be_had_leave_the_node_inactive_and_say_why_until_they_are_changed(
    user, diagnostics, bundle_path, colours, capfd
):
    with running(bundle_path, image_topics=["camera_info"]) as node:  # where the calibration is heard already
        name = f"{NODE}: node"
        wait_until(lambda: (of := diagnostics.latest(name)) and of.message.startswith("inactive: "), "the reason")
        status = diagnostics.latest(name)
        assert status.level == ERROR and "incompatible type" in status.message
        assert any("cannot activate" in line and "camera_info" in line for line in log_lines(capfd, "ERROR"))
        assert state(user) == "inactive" and not change_state(user, "activate")
        assert not user.node.count_subscribers("camera/camera_info") and len(list(node.timers)) == 1  # diagnostics'
        assert change_state(user, "cleanup")
        assert set_parameter(user, "image_topics", ["image_raw"])[0]
        assert change_state(user, "configure") and change_state(user, "activate")
        masks = user.listen(Image, "camera/segmentation/mask")
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))


def test_frames_received_are_masks_and_drops_even_where_an_overlay_fails(
    user, diagnostics, bundle_path, colours, monkeypatch, capfd
):
    def fail(*args):
        raise RuntimeError("no paint left")

    monkeypatch.setattr(LabelTable, "overlay", fail)
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        user.listen(Image, "camera/segmentation/overlay")
        lines = []

        def failed():
            user.send("camera/image_raw", image(colours))
            lines.extend(log_lines(capfd, "WARN"))
            return any("no paint left" in line for line in lines)

        wait_until(failed, "the failure")

        def value(key):
            return int(diagnostics.value(CAMERA, key) or -1)  # before the first report

        wait_until(lambda: value("received") == value("processed") + value("dropped superseded"), "the sum")
        diagnostics.wait_for(CAMERA, "dropped internal", 0)
