"""Where a device of its own infers, the next frame is prepared and the last mask published meanwhile."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from builtin_interfaces.msg import Time
from ros_graph import wait_until
from segmentation_graph import CAMERA, change_state, level, running, state
from sensor_msgs.msg import Image

from transkd_ros.nodes.segmentation import engine, worker
from transkd_ros.nodes.segmentation.pace import Pace
from transkd_ros.segmenter import Segmenter

pytestmark = pytest.mark.ros


@pytest.fixture
def device(gated):
    """An engine that infers on a device of its own, and is done when the test says so."""
    gated.device = "CUDA"
    return gated


@pytest.fixture
def prepared(monkeypatch):
    """The red levels of the frames that were made ready for the network."""
    levels = []
    view = Segmenter.view

    def seen(self, frame, *rest):
        levels.append(int(frame.rgb()[0, 0, 0]))
        return view(self, frame, *rest)

    monkeypatch.setattr(Segmenter, "view", seen)
    return levels


def test_the_next_frame_is_prepared_during_an_inference_and_no_mask_overtakes_another(
    user, diagnostics, device, prepared, bundle_path
):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path):
        for number, ready in ((1, [1]), (2, [1, 2]), (3, [1, 2]), (4, [1, 2])):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "received", number)
            wait_until(lambda ready=ready: prepared == ready, f"the frames {ready}")
        assert device.seen == [1]
        device.gate.release(3)
        wait_until(lambda: [mask.header.stamp.sec for mask in masks] == [1, 2, 4], "masks in order, the newest too")
        assert prepared == device.seen == [1, 2, 4]
        diagnostics.wait_for(CAMERA, "dropped superseded", 1)


def test_the_frame_that_is_taken_during_an_inference_is_the_newest(
    user, diagnostics, device, prepared, bundle_path, monkeypatch
):
    monkeypatch.setattr(Pace, "early", lambda self, now: 0.0 if self._idle.is_set() else 60.0)
    with running(bundle_path):
        for number in (1, 2, 3):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "received", number)
        wait_until(lambda: device.seen == [1], "the first inference")
        assert prepared == [1]
        device.gate.release(2)
        wait_until(lambda: device.seen == [1, 3], "the newest")
        diagnostics.wait_for(CAMERA, "dropped superseded", 1)


def test_where_the_processor_infers_no_frame_is_prepared_before_its_time(
    user, diagnostics, gated, prepared, bundle_path
):
    with running(bundle_path):
        for number in (1, 2, 3):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "received", number)
        gated.gate.release(3)
        wait_until(lambda: prepared == [1, 3], "the newest after the first")


def test_a_frame_that_grows_too_old_while_it_waits_for_the_device_is_dropped(
    user, diagnostics, device, prepared, bundle_path
):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, max_frame_age=1.0):
        now = user.node.get_clock().now
        user.send("camera/image_raw", level(1))
        diagnostics.wait_for(CAMERA, "dropped stale", 1)
        for value in (2, 3):
            frame = level(value)
            frame.header.stamp = now().to_msg() if value == 3 else Time()
            user.send("camera/image_raw", frame)
            wait_until(lambda value=value: value in prepared, "a frame that is ready")
        born = now().nanoseconds
        wait_until(lambda: now().nanoseconds - born > 1.1e9, "its age")
        device.gate.release(2)
        diagnostics.wait_for(CAMERA, "dropped stale", 2)
        assert device.seen == [2]
        diagnostics.wait_for(CAMERA, "processed", 1)
        assert len(masks) == 1


def test_a_frame_that_waits_for_a_closed_engine_is_no_reason_to_run_it(
    user, diagnostics, device, prepared, bundle_path, monkeypatch
):
    monkeypatch.setattr(worker, "FAILURES_IN_A_ROW", 1)
    monkeypatch.setattr(worker, "BACK_OFF", (0.0, 60.0))
    with running(bundle_path) as node:
        for number in (1, 2):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "received", number)
        wait_until(lambda: prepared == [1, 2], "a frame that waits")
        account = node._cameras[0].account

        def no_device(*args, **kwargs):
            raise RuntimeError("no device")

        monkeypatch.setattr(engine, "open_runtime", no_device)
        device.error = RuntimeError("the accelerator is on fire")
        device.gate.release()
        wait_until(lambda: node._worker.attempts == 1, "the first attempt")
        assert change_state(user, "deactivate") and state(user) == "inactive"
        assert device.seen == [1]
        wait_until(lambda: account.drops["engine"] == 2, "both drops")


def test_a_frame_that_waits_for_an_engine_that_is_given_up_is_counted(
    user, diagnostics, device, prepared, bundle_path, monkeypatch
):
    monkeypatch.setattr(worker, "FAILURES_IN_A_ROW", 1)
    monkeypatch.setattr(worker, "BACK_OFF", ())
    with running(bundle_path) as node:
        for number in (1, 2):
            user.send("camera/image_raw", level(number))
            diagnostics.wait_for(CAMERA, "received", number)
        wait_until(lambda: prepared == [1, 2], "a frame that waits")
        account = node._cameras[0].account
        device.error = RuntimeError("the accelerator is on fire")
        device.gate.release()
        wait_until(lambda: account.drops["engine"] == 2, "both drops")
        assert device.seen == [1]
        wait_until(lambda: state(user) == "unconfigured", "the end of the error processing")
