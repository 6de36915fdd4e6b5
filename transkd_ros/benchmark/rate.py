"""Frames per second of the node's work on a frame, against the naive way to do it, on two threads of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from transkd_ros.benchmark.measurement import Measurement, Settings, Target, frame_messages, medians, table, take_turns
from transkd_ros.frames import decode_image, image_message
from transkd_ros.model.engines import RuntimeUnavailable, open_runtime
from transkd_ros.segmenter import Segmenter

FASTER = {"int8": 40.0, "bf16": 10.0, "fp32": 6.0}  # times the naive rate, as far as CPU and bundle have them
LEAST_AGREEMENT = 99.0  # % of the pixels in fp32: else the two would not compute the same
THREADS = 2
NAIVE = "naive"
_NEEDED = ("torch", "segmentation_models_pytorch", "timm", "safetensors")

Segment = Callable[[Any], np.ndarray]  # frame message to mask


def measure(settings: Settings) -> Measurement:
    notes = [f"{THREADS} threads each, by turns in one run"]
    messages = frame_messages(4, settings.size)
    ours = _our_ways(settings)
    naive = _naive_way(settings, notes)
    agreement = _agreement(naive, ours, messages) if naive else {}
    with_messages = find_spec("sensor_msgs") is not None
    if not with_messages:
        notes.append("sensor_msgs not installed: the mask is not made a message, on either side")

    peers = {name: _with_message(way, _our_message) if with_messages else way for name, way in ours.items()}
    if naive:
        from transkd_ros.benchmark.naive import mask_message

        peers = {NAIVE: _with_message(naive, mask_message) if with_messages else naive, **peers}
    frames = settings.count(full=45, quick=3)
    return _result(settings, medians(take_turns(peers, messages, frames)), agreement, frames, notes)


def _our_ways(settings: Settings) -> dict[str, Segment]:
    """{precision: way}, as far as the CPU computes in it by itself and the bundle has it."""
    ways: dict[str, Segment] = {}
    for precision in FASTER:
        try:
            runtime = open_runtime(settings.bundle, "auto", "cpu", precision, settings.size, THREADS)
        except RuntimeUnavailable:
            continue
        ways[precision] = partial(_segment, Segmenter(runtime))
    return ways


def _segment(segmenter: Segmenter, message: Any) -> np.ndarray:
    return segmenter(decode_image(message)).mask


def _naive_way(settings: Settings, notes: list[str]) -> Segment | None:
    """None, and a note, where it cannot be built."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        notes.append(f"naive peer skipped: {', '.join(missing)} not installed")
        return None
    from transkd_ros.benchmark.naive import NaiveSegmenter

    try:
        return NaiveSegmenter(settings.bundle, settings.size, THREADS).segment
    except (KeyError, RuntimeError) as error:
        notes.append(f"naive peer skipped: the bundle's network cannot be built in torch: {str(error)[:200]}")
        return None


def _with_message(segment: Segment, make_message: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
    return lambda message: make_message(segment(message))


def _our_message(mask: np.ndarray) -> Any:
    from std_msgs.msg import Header

    return image_message(mask, "mono8", Header())


def _agreement(naive: Segment, ours: Mapping[str, Segment], messages: list[Any]) -> dict[str, float]:
    """% of the pixels to which each of our ways gives the naive one's class."""
    expected = [naive(message) for message in messages]
    return {
        name: 100 * float(np.mean([way(message) == mask for message, mask in zip(messages, expected, strict=True)]))
        for name, way in ours.items()
    }


def _result(
    settings: Settings, times: dict[str, float], agreement: dict[str, float], frames: int, notes: list[str]
) -> Measurement:
    rows = table("frame to mask", "ms", "frames/s", "× naive", "same class (%)")
    values: dict[str, Any] = {"size": list(settings.size), "threads": THREADS, "frames": frames, "ms": times}
    values |= {"fps": {name: 1e3 / ms for name, ms in times.items()}, "agreement_percent": agreement}
    ratios = {name: times[NAIVE] / times[name] for name in agreement}
    values["times_naive"] = ratios
    for name, ms in times.items():
        comparison = (f"{ratios[name]:.1f}", f"{agreement[name]:.2f}") if name in ratios else ("", "")
        label = "naive (torch eager, fp32)" if name == NAIVE else f"ours, {name}"
        rows.add_row(label, f"{ms:.1f}", f"{1e3 / ms:.1f}", *comparison)
    targets = [rate_target(name, ratio) for name, ratio in ratios.items()]
    if agreement:
        targets.append(Target("agreement with naive, fp32", agreement["fp32"], "≥", LEAST_AGREEMENT, "%"))
    return Measurement(values, rows, targets, notes)


def rate_target(precision: str, ratio: float) -> Target:
    """How many times the naive rate is asked of a precision."""
    return Target(f"rate, {precision}", ratio, "≥", FASTER[precision], "× naive")
