"""Frames of several cameras that wait are inferred at once; each is accounted for by itself."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from ros_graph import wait_until
from segmentation_graph import NODE, StandInRuntime, level, log_lines, running
from sensor_msgs.msg import Image

from transkd_ros.model.engines import Prediction
from transkd_ros.nodes.segmentation import engine

pytestmark = pytest.mark.ros

CAMERAS = ["left", "right", "rear"]


class BatchingRuntime(StandInRuntime):
    """`batches` are the red levels of the images of each inference, which ends when the test says so."""

    takes_batches = True

    def __init__(self):
        self.batches, self.gate, self.error = [], threading.Semaphore(0), None

    def infer_batch(self, images, want_confidence=False, wait=True):
        self.batches.append([int(image[0, 0, 0]) for image in images])
        self.gate.acquire(timeout=30)
        if self.error:
            raise self.error
        return [Prediction(image[..., 0].copy(), None) for image in images]

    def close(self):
        self.gate.release(1000)


@pytest.fixture
def batching(monkeypatch):
    runtime = BatchingRuntime()
    monkeypatch.setattr(engine, "open_runtime", lambda *args, **kwargs: runtime)
    yield runtime
    runtime.close()


def count(diagnostics, key, camera):
    return int(diagnostics.value(f"{NODE}: {camera}", key) or 0)


def wait_with(user, diagnostics, batching, frames):
    """One frame is at work, and these {camera: frame} wait behind it."""
    user.send_until(lambda: batching.batches, "an inference", "left/image_raw", level(1))
    for camera, frame in frames.items():
        before = count(diagnostics, "received", camera)
        user.send_until(
            lambda camera=camera, before=before: count(diagnostics, "received", camera) > before,
            f"a frame of {camera}", f"{camera}/image_raw", frame,
        )  # fmt: skip


def test_frames_that_wait_are_one_batch_and_a_bad_one_among_them_fails_alone(user, diagnostics, batching, bundle_path):
    masks = {camera: user.listen(Image, f"{camera}/segmentation/mask") for camera in CAMERAS}
    bad = level(3)
    bad.step = 1
    with running(bundle_path, cameras=CAMERAS, max_batch=3):
        wait_with(user, diagnostics, batching, {"left": level(2), "rear": bad, "right": level(4)})
        batching.gate.release(1000)
        wait_until(lambda: masks["left"] and masks["right"] and masks["right"][-1].header.stamp.sec == 4, "masks")
        assert batching.batches[1] == [2, 4]
        wait_until(lambda: masks["left"][-1].header.stamp.sec == 2, "the mask of the other")
        for camera, value in {"left": 2, "right": 4}.items():
            assert set(masks[camera][-1].data) == {value}
        wait_until(lambda: count(diagnostics, "dropped step", "rear") == 1, "its cause")
        assert not masks["rear"]


def test_an_engine_failure_drops_every_frame_of_the_batch(user, diagnostics, batching, bundle_path):
    with running(bundle_path, cameras=CAMERAS, max_batch=2):
        wait_with(user, diagnostics, batching, {"left": level(2), "right": level(3), "rear": level(4)})
        batching.gate.release()
        wait_until(lambda: len(batching.batches) == 2, "the batch")
        assert batching.batches[1] == [2, 3]
        batching.error = RuntimeError("the accelerator is on fire")
        batching.gate.release()
        for camera in ("left", "right"):
            wait_until(lambda camera=camera: count(diagnostics, "dropped engine", camera) == 1, "the drop")
        wait_until(lambda: batching.batches[2:] == [[4]], "the rest")


def test_frames_go_one_by_one_on_a_cpu_or_where_the_network_takes_one_image_which_is_said(
    user, diagnostics, batching, bundle_path, capfd
):
    batching.takes_batches = False
    with running(bundle_path, cameras=CAMERAS, max_batch=3):
        wait_with(user, diagnostics, batching, {"left": level(2), "right": level(3)})
        assert [line for line in log_lines(capfd, "INFO") if "takes one image at a time" in line]
        batching.gate.release(1000)
        wait_until(lambda: len(batching.batches) >= 3, "the inferences")
        assert all(len(batch) == 1 for batch in batching.batches)


def test_a_budget_of_frames_is_not_exceeded_by_a_batch(user, diagnostics, batching, bundle_path):
    with running(bundle_path, cameras=CAMERAS, max_batch=3, max_total_rate=1000.0):
        wait_with(user, diagnostics, batching, {"left": level(2), "right": level(3), "rear": level(4)})
        batching.gate.release(1000)
        wait_until(lambda: sorted(batching.batches[-3:]) == [[2], [3], [4]], "one after the other")


@pytest.mark.parametrize("device, most", [("CPU", 1), ("CUDA", 3)])
def test_by_default_a_cpu_takes_one_frame_and_a_gpu_one_of_every_camera(
    user, diagnostics, batching, bundle_path, device, most
):
    batching.device = device
    with running(bundle_path, cameras=CAMERAS) as node:
        wait_until(lambda: node._engine, "the engine")
        assert node._engine.batch == most
