"""Memory of the node's process with the CPU engine: how much, and whether it grows."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transkd_ros.benchmark.measurement import (
    CAMERA_SIZE,
    Measurement,
    Settings,
    Skipped,
    Target,
    frame_messages,
    table,
)
from transkd_ros.demo.graph import NodeGraph, answers_until, await_node, open_graph, set_environment

MOST = 300.0  # MB
MOST_GROWTH = 2.0  # %


def measure(settings: Settings) -> Measurement:
    if find_spec("rclpy") is None:
        raise Skipped("rclpy not installed: there is no node to measure")
    set_environment()
    warm_up, frames = (10 if settings.quick else 100), settings.count(full=1000, quick=20)
    parameters = {"model": str(settings.bundle.path.resolve()), "device": "cpu"}
    messages = frame_messages(8, CAMERA_SIZE)
    with (
        TemporaryDirectory() as folder,
        open_graph("/camera", False, parameters, Path(folder) / "node.log") as graph,
    ):
        await_node(graph)
        _play(graph, messages, warm_up)
        before = resident(graph.process.pid)
        _play(graph, messages, frames)
        after = resident(graph.process.pid)
    return _result(before, after, frames)


def _play(graph: NodeGraph, messages: list[Any], frames: int) -> None:
    """Publish frames, each when the mask of the one before has been heard."""
    for index in range(frames):
        stamp_ns = graph.player.play(messages[index % len(messages)])
        for _ in answers_until(graph, stamp_ns):
            pass


def resident(pid: int) -> dict[str, float]:
    """{"now", "peak"}: MB (10⁶ bytes) of physical memory of a process, as proc(5) tells VmRSS and VmHWM."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.MULTILINE))
    return {"now": int(found["VmRSS"]) * 1024 / 1e6, "peak": int(found["VmHWM"]) * 1024 / 1e6}


def _result(before: dict[str, float], after: dict[str, float], frames: int) -> Measurement:
    rows = table("resident memory of the node (MB)", "now", "peak")
    rows.add_row("after the warm-up", f"{before['now']:.1f}", f"{before['peak']:.1f}")
    rows.add_row(f"{frames} frames later", f"{after['now']:.1f}", f"{after['peak']:.1f}")
    values = {"frames": frames, "resident_mb": {"warm": before, "end": after}}
    targets = [Target("resident memory", after["now"], "<", MOST, "MB"), growth_target(before["now"], after["now"])]
    return Measurement(values, rows, targets, ["CPU engine, 1280x720 bgr8"])


def growth_target(before: float, after: float) -> Target:
    """Of the resident memory before and after the frames, in the same unit."""
    return Target("growth of the memory", 100 * (after / before - 1), "<", MOST_GROWTH, "%")
