"""How old a frame is when its mask is published, where the camera is faster than the engine.

A real graph: the node in its own process, the camera at 30 Hz in this one. The network's input is enlarged until the
engine is too slow for the camera; whatever waits for an engine then shows in the ages.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from transkd_ros import sizes
from transkd_ros.benchmark.measurement import (
    CAMERA_SIZE,
    Measurement,
    Settings,
    Skipped,
    Target,
    frame_messages,
    table,
)
from transkd_ros.cli import CommandError
from transkd_ros.demo.graph import ANSWER_LIMIT, NodeGraph, answers_until, await_node, open_graph, set_environment
from transkd_ros.model.engines import open_runtime
from transkd_ros.timing import read_latencies

RATE = 30.0  # Hz
SLOWER = 1.2  # times the camera's interval that the engine has to take, before the graph's own load slows it further
LARGEST_SIDE = 4096
CAMERA = "/camera"


def measure(settings: Settings) -> Measurement:
    if find_spec("rclpy") is None:
        raise Skipped("rclpy not installed: there is no ROS graph to measure")
    set_environment()
    size = settings.bundle.manifest.input_size if settings.quick else _slow_input_size(settings)
    frames = settings.count(full=600, quick=20)
    parameters = {"model": str(settings.bundle.path.resolve()), "input_size": sizes.text(size)}
    with (
        TemporaryDirectory() as folder,
        open_graph(CAMERA, False, parameters, Path(folder) / "node.log") as graph,
    ):
        await_node(graph)
        rate, heard = _play(graph, frame_messages(8, CAMERA_SIZE), frames)
        diagnostics = _diagnostics_of(graph, len(heard))
    return _result(size, frames, rate, heard, diagnostics)


def _slow_input_size(settings: Settings) -> tuple[int, int]:
    """The smallest multiple of the model's input at which the engine is slower than the camera; the largest else."""
    own = settings.bundle.manifest.input_size
    size = own
    for factor in range(1, LARGEST_SIDE // max(own) + 1):
        size = (own[0] * factor, own[1] * factor)
        runtime = open_runtime(settings.bundle, input_size=size)
        image = np.zeros((*size, 3), np.uint8)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            runtime.infer(image)
            seconds.append(time.perf_counter() - start)
        runtime.close()
        if median(seconds) > SLOWER / RATE:
            break
    return size


def _play(graph: NodeGraph, messages: list[Any], frames: int) -> tuple[float, list[float]]:
    """Publish at RATE, waiting for nobody; (Hz reached, ms from a frame's stamp to hearing its mask)."""
    ages: list[int] = []
    start, stamp_ns = time.monotonic(), 0
    for index in range(frames):
        time.sleep(max(0.0, start + index / RATE - time.monotonic()))
        while answer := graph.listener.take(0):
            ages.append(answer.heard_ns - answer.stamp_ns)
        stamp_ns = graph.player.play(messages[index % len(messages)])
    rate = (frames - 1) / (time.monotonic() - start)
    for answer in answers_until(graph, stamp_ns):  # the newest frame always gets its mask
        ages.append(answer.heard_ns - answer.stamp_ns)
    return rate, [age / 1e6 for age in ages]


def _diagnostics_of(graph: NodeGraph, masks: int) -> dict[str, dict[str, str]]:
    """The node's diagnostics, when they count so many masks."""
    deadline = time.monotonic() + ANSWER_LIMIT
    while int(graph.listener.diagnostics.get(CAMERA, {}).get("processed", 0)) < masks:
        graph.process.check()
        if time.monotonic() > deadline:
            raise CommandError(f"no diagnostics of {masks} masks: {graph.process.last_words()}")
        time.sleep(0.05)
    return graph.listener.diagnostics


def _result(
    size: tuple[int, int], frames: int, rate: float, heard: list[float], diagnostics: dict[str, dict[str, str]]
) -> Measurement:
    node, camera = diagnostics["node"], diagnostics[CAMERA]
    engine = read_latencies(node)["infer"]["p50"]
    age = {key: float(camera[f"age {key} (ms)"]) for key in ("p50", "p95")}
    at_listener = dict(zip(("p50", "p95"), np.percentile(heard, (50, 95)).tolist(), strict=True))
    rows = table("freshness (ms)", "p50", "p95")
    rows.add_row("engine", f"{engine:.1f}", f"{read_latencies(node)['infer']['p95']:.1f}")
    rows.add_row("age of the frame when its mask is published", f"{age['p50']:.1f}", f"{age['p95']:.1f}")
    rows.add_row("age when the mask is heard", f"{at_listener['p50']:.1f}", f"{at_listener['p95']:.1f}")
    values = {
        "frame_size": list(CAMERA_SIZE),
        "input_size": list(size),
        "sent": frames,
        "sent_hz": rate,
        "answered": len(heard),
        "engine_ms": read_latencies(node)["infer"],
        "age_published_ms": age,
        "age_heard_ms": at_listener,
    }
    notes = [
        f"{rate:.1f} Hz of 1280x720 bgr8 sent, network input {size[1]}x{size[0]} on {node['engine']} "
        f"({node['precision']}), {len(heard)} of {frames} answered",
        "limit: 1.15 × the engine's median time in the node + 2 intervals of the camera",
    ]
    if engine < 1e3 / RATE:
        notes.append(f"the engine is faster than the camera's {1e3 / RATE:.1f} ms here: nothing has to wait")
    return Measurement(values, rows, [age_target(age["p95"], engine)], notes)


def age_target(age: float, engine: float) -> Target:
    """Of the p95 age of published frames and the engine's median time, both in ms."""
    return Target("p95 age when published", age, "≤", 1.15 * engine + 2 * 1e3 / RATE, "ms")
