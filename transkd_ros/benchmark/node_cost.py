"""What the node itself costs a frame of a 1280x720 camera: everything but the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import cv2

from transkd_ros.bags.messages import compressed_message
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
from transkd_ros.frames import Frame, decode_compressed, decode_image, image_message
from transkd_ros.model.engines import open_runtime
from transkd_ros.segmenter import Segmenter

MOST = 3.0  # ms
STAGES = ("decode", "resize", "upsize", "message", "total")


def measure(settings: Settings) -> Measurement:
    if find_spec("sensor_msgs") is None:
        raise Skipped("sensor_msgs not installed: there is no mask message to make")
    runtime = open_runtime(settings.bundle)
    segmenter, frames = Segmenter(runtime), settings.count(full=300, quick=5)
    raw = frame_messages(4, CAMERA_SIZE)
    compressed = [_jpeg(message) for message in raw]
    # A JPEG is decoded no larger than the network needs, as the node does.
    decode_jpeg = partial(decode_compressed, size=runtime.input_size)
    costs = {
        "bgr8": medians(_stages(decode_image, raw, segmenter, frames)),
        "jpeg": medians(_stages(decode_jpeg, compressed, segmenter, frames)),
    }
    runtime.close()

    rows = table("outside the engine (ms)", *STAGES)
    for name, cost in costs.items():
        rows.add_row(f"1280x720 {name}", *(f"{cost[stage]:.2f}" for stage in STAGES))
    values = {"frame_size": list(CAMERA_SIZE), "input_size": list(runtime.input_size), "frames": frames, "ms": costs}
    targets = [Target("node outside the engine, bgr8", costs["bgr8"]["total"], "≤", MOST, "ms")]
    return Measurement(values, rows, targets, [f"engine: {runtime.reason}"])


def _jpeg(message: Any) -> Any:
    """A bgr8 Image as CompressedImage, in OpenCV's default quality."""
    _, data = cv2.imencode(".jpg", decode_image(message).pixels)
    return compressed_message(data.tobytes(), "jpeg", 0)


def _stages(
    decode: Callable[[Any], Frame], messages: list[Any], segmenter: Segmenter, frames: int
) -> dict[str, list[float]]:
    """{stage: ms of each frame}. The engine runs, so that the caches are as full of its data as in the node."""
    from std_msgs.msg import Header

    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for index in range(frames):
        start = time.perf_counter()
        frame = decode(messages[index % len(messages)])
        decoded = time.perf_counter()
        segmentation = segmenter(frame)
        segmented = time.perf_counter()
        image_message(segmentation.mask, "mono8", Header())
        seconds = {"decode": decoded - start, "message": time.perf_counter() - segmented}
        seconds |= {stage: segmentation.timings[stage] for stage in ("resize", "upsize")}
        for stage, value in (seconds | {"total": sum(seconds.values())}).items():
            times[stage].append(1e3 * value)
    return times
