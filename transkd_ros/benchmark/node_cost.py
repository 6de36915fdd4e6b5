"""What the node itself costs a frame of a 1280x720 camera: all but the engine, taking and publishing included."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import cv2

from transkd_ros.bags.messages import compressed_message, serialize
from transkd_ros.benchmark.measurement import (
    CAMERA_SIZE,
    Measurement,
    Settings,
    Skipped,
    Target,
    frame_messages,
    medians,
    table,
)
from transkd_ros.demo.graph import set_environment
from transkd_ros.frames import Frame, decode_compressed, decode_image, image_message
from transkd_ros.model.engines import open_runtime
from transkd_ros.segmenter import Segmenter

MOST = {"bgr8": 2.5, "jpeg": 5.0}  # ms
STAGES = ("take", "decode", "resize", "upsize", "message", "publish", "total")
ARRIVAL = 5.0  # seconds to wait for a message at most


def measure(settings: Settings) -> Measurement:
    if find_spec("rclpy") is None:
        raise Skipped("rclpy not installed: there are no messages to take and to publish")
    from sensor_msgs.msg import CompressedImage, Image

    set_environment()
    runtime = open_runtime(settings.bundle)
    segmenter, frames = Segmenter(runtime), settings.count(full=300, quick=5)
    raw = frame_messages(4, CAMERA_SIZE)
    compressed = [_jpeg(message) for message in raw]
    # A JPEG is decoded no larger than the network needs, as the node does.
    decode_jpeg = partial(decode_compressed, size=runtime.input_size)
    with _wire(Image) as masks:
        with _wire(Image) as camera:
            bgr8 = medians(_stages(camera, masks, decode_image, raw, segmenter, frames))
        with _wire(CompressedImage) as camera:
            jpeg = medians(_stages(camera, masks, decode_jpeg, compressed, segmenter, frames))
    runtime.close()

    costs = {"bgr8": bgr8, "jpeg": jpeg}
    rows = table("outside the engine (ms)", *STAGES)
    for name, cost in costs.items():
        rows.add_row(f"1280x720 {name}", *(f"{cost[stage]:.2f}" for stage in STAGES))
    values = {"frame_size": list(CAMERA_SIZE), "input_size": list(runtime.input_size), "frames": frames, "ms": costs}
    targets = [
        Target(f"node outside the engine, {name}", cost["total"], "≤", MOST[name], "ms") for name, cost in costs.items()
    ]
    return Measurement(values, rows, targets, [f"engine: {runtime.engine} on {runtime.device}, {runtime.precision}"])


def _jpeg(message: Any) -> Any:
    """A bgr8 Image as CompressedImage, in OpenCV's default quality."""
    _, data = cv2.imencode(".jpg", decode_image(message).pixels)
    return compressed_message(data.tobytes(), "jpeg", 0)


class _Wire:
    """A topic of one's own, with both ends in this process."""

    def __init__(self, node: Any, kind: type, topic: str) -> None:
        self._publisher = node.create_publisher(kind, topic, 1)
        self._subscription = node.create_subscription(kind, topic, lambda message: None, 1)
        until = time.monotonic() + ARRIVAL
        while not self._publisher.get_subscription_count() and time.monotonic() < until:
            time.sleep(0.01)

    def put(self, message: Any) -> float:
        """Publish a message, or its CDR bytes; the seconds it took."""
        start = time.perf_counter()
        self._publisher.publish(message)
        return time.perf_counter() - start

    def take(self) -> tuple[Any, float]:
        """The message that was put, and the seconds it took to take it once it was there, as an executor does."""
        until = time.monotonic() + ARRIVAL
        while time.monotonic() < until:
            start = time.perf_counter()
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self._subscription.msg_type, False)
            if taken is not None:
                return taken[0], time.perf_counter() - start
            time.sleep(1e-4)
        raise Skipped(f"no message came within {ARRIVAL:.0f} s on a topic of this process")


@contextmanager
def _wire(kind: type) -> Iterator[_Wire]:
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node

    context = Context()
    rclpy.init(context=context)
    try:
        yield _Wire(Node(f"node_cost_{id(context)}", context=context), kind, f"node_cost/wire_{id(context)}")
    finally:
        context.shutdown()


def _stages(
    camera: _Wire,
    masks: _Wire,
    decode: Callable[[Any], Frame],
    messages: list[Any],
    segmenter: Segmenter,
    frames: int,
) -> dict[str, list[float]]:
    """{stage: ms of each frame}. The engine runs, so that the caches are as full of its data as in the node."""
    from std_msgs.msg import Header

    sent = [serialize(message, stamp) for stamp, message in enumerate(messages)]
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for index in range(frames):
        camera.put(sent[index % len(sent)])
        message, taking = camera.take()
        start = time.perf_counter()
        frame = decode(message)
        decoded = time.perf_counter()
        segmentation = segmenter(frame)
        segmented = time.perf_counter()
        answer = image_message(segmentation.mask, "mono8", Header())
        made = time.perf_counter()
        seconds = {"take": taking, "decode": decoded - start, "message": made - segmented, "publish": masks.put(answer)}
        masks.take()
        seconds |= {stage: segmentation.timings[stage] for stage in ("resize", "upsize")}
        for stage, value in (seconds | {"total": sum(seconds.values())}).items():
            times[stage].append(1e3 * value)
    return times
