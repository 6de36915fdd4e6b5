"""Frames that nobody wants, or that are too many, cost no inference, and are counted."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from ros_graph import wait_until
from segmentation_graph import CAMERA, NODE, OK, image, level, running, set_parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from transkd_ros.model.engines.base import LoadOptions, Runtime
from transkd_ros.nodes.segmentation import engine
from transkd_ros.nodes.segmentation.budget import FrameBudget

pytestmark = pytest.mark.ros


def count(diagnostics, key, camera="camera"):
    return int(diagnostics.value(f"{NODE}: {camera}", key) or 0)


def test_frames_above_max_rate_are_dropped_and_counted(user, diagnostics, bundle_path, colours):
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, max_rate=0.001):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", image(colours))
        user.send_until(
            lambda: count(diagnostics, "dropped rate") >= 3, "dropped frames", "camera/image_raw", image(colours)
        )
        assert count(diagnostics, "processed") == 1
        assert diagnostics.latest(CAMERA).level == OK
        assert set_parameter(user, "max_rate", 0.0) == (True, "")
        user.send_until(lambda: len(masks) > 3, "masks of all frames", "camera/image_raw", image(colours))
        total = ("processed", "dropped rate", "dropped superseded")
        wait_until(lambda: count(diagnostics, "received") == sum(count(diagnostics, key) for key in total), "the sum")


def test_the_cameras_share_max_total_rate_and_the_newest_frame_comes_next(user, diagnostics, gated, bundle_path):
    gated.gate.release(1000)
    with running(bundle_path, cameras=["left", "right"], max_total_rate=0.001):
        user.send_until(lambda: gated.seen, "an inference", "left/image_raw", level(1))
        for number in (2, 3):
            user.send("right/image_raw", level(number))
            wait_until(lambda number=number: count(diagnostics, "received", "right") == number - 1, "the frame")
        assert set(gated.seen) == {1}
        assert set_parameter(user, "max_total_rate", 0.0) == (True, "")
        wait_until(lambda: gated.seen[-1] == 3, "the newest")
        assert 2 not in gated.seen


def test_lazy_segments_only_while_someone_listens(user, diagnostics, gated, bundle_path):
    gated.gate.release(1000)
    with running(bundle_path, lazy=True):
        user.send_until(
            lambda: count(diagnostics, "dropped unwanted") >= 3, "dropped frames", "camera/image_raw", level(1)
        )
        assert not gated.seen
        assert diagnostics.latest(CAMERA).message == "idle: nobody listens"
        masks = user.listen(Image, "camera/segmentation/mask")
        user.send_until(lambda: masks, "a mask", "camera/image_raw", level(2))
        assert 1 not in gated.seen


class CountingRuntime(Runtime):
    """`ran` are the kinds of graphs that were run; those with confidence are compiled when `gate` opens."""

    engine = "counting"

    def __init__(self, bundle):
        super().__init__(bundle, LoadOptions("CPU", "fp32", (64, 96), 0))
        self.ran = []
        self.gate = threading.Event()

    def compile_graph(self, kind):
        assert not kind.confidence or self.gate.wait(30)

        def run(images):
            self.ran.append(kind)
            return [np.full((len(images), *self.input_size), 7, np.uint8)] * (2 if kind.confidence else 1)

        return run


def test_confidence_is_computed_only_while_someone_listens_and_masks_do_not_wait_for_it(
    user, bundle_path, tiny_bundle, monkeypatch
):
    runtime = CountingRuntime(tiny_bundle)
    monkeypatch.setattr(engine, "open_runtime", lambda *args, **kwargs: runtime)
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path):

        def more_masks():
            count = len(masks)
            user.send_until(lambda: len(masks) > count + 2, "masks", "camera/image_raw", level(1))

        more_masks()
        confidences = user.listen(Image, "camera/segmentation/confidence")
        more_masks()  # while the graph is compiled
        assert not confidences and not any(kind.confidence for kind in runtime.ran)
        runtime.gate.set()
        user.send_until(lambda: confidences, "a confidence", "camera/image_raw", level(1))
        assert runtime.ran[-1].confidence


def test_a_confidence_threshold_needs_the_confidence_of_every_frame(user, bundle_path, tiny_bundle, monkeypatch):
    runtime, opened = CountingRuntime(tiny_bundle), []
    runtime.gate.set()
    monkeypatch.setattr(engine, "open_runtime", lambda *args, **kwargs: (opened.append(kwargs), runtime)[1])
    masks = user.listen(Image, "camera/segmentation/mask")
    with running(bundle_path, confidence_threshold=0.5):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", level(1))
        assert set(masks[0].data) == {255}
    assert opened[0]["want_confidence"] and all(kind.confidence for kind in runtime.ran)


def test_the_service_enable_stops_and_resumes_the_work(user, diagnostics, gated, bundle_path):
    gated.gate.release(1000)
    masks = user.listen(Image, "camera/segmentation/mask")

    def enable(data):
        response = user.call(SetBool, f"/{NODE}/enable", SetBool.Request(data=data), SetBool.Request(data=True))
        return response.success, response.message

    with running(bundle_path):
        user.send_until(lambda: masks, "a mask", "camera/image_raw", level(1))
        assert enable(False) == (True, "disabled")
        user.send_until(
            lambda: count(diagnostics, "dropped disabled") >= 3, "dropped frames", "camera/image_raw", level(2)
        )
        assert 2 not in gated.seen
        wait_until(lambda: diagnostics.latest(f"{NODE}: node").message == "active, disabled", "the status")
        assert enable(True) == (True, "enabled")
        user.send_until(lambda: masks[-1].header.stamp.sec == 3, "a mask", "camera/image_raw", level(3))


@pytest.mark.parametrize("rate, expected", [(10.0, 100), (20.0, 200), (30.0, 300), (100.0, 300), (0.0, 300)])
def test_a_budget_meets_its_rate_on_the_average(rate, expected):
    budget = FrameBudget()
    granted = sum(budget.grant(100 + number / 30, rate) for number in range(300))
    assert granted == pytest.approx(expected, abs=2)


def test_a_rate_that_was_low_holds_up_no_frame_at_a_higher_one():
    budget = FrameBudget()
    assert budget.grant(100.0, 0.001) and not budget.grant(200.0, 0.001)
    assert budget.grant(200.0, 10.0) and not budget.grant(200.04, 10.0) and budget.grant(200.1, 10.0)
