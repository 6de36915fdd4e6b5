"""How long a robot waits for the first mask after the start of the node's process, with an empty cache and a full one.

The camera is there first and sends all the while, as cameras do. Files that are read come from the system's memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

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
from transkd_ros.demo.graph import START_LIMIT, open_graph, set_environment

MOST = {"first": 3.0, "second": 1.5}  # seconds
RATE = 30.0  # Hz
CACHE = "XDG_CACHE_HOME"


def measure(settings: Settings) -> Measurement:
    if find_spec("rclpy") is None:
        raise Skipped("rclpy not installed: there is no node to start")
    import rclpy  # noqa: F401 - what a camera has behind it when a node starts

    set_environment()
    message = frame_messages(1, CAMERA_SIZE)[0]
    seconds: dict[str, list[float]] = {name: [] for name in MOST}
    for _ in range(1 if settings.quick else 5):
        with TemporaryDirectory() as cache, _cache_in(cache):
            for name in MOST:  # the second finds what the first has left
                seconds[name].append(_first_mask(settings, message))

    rows = table("start to first mask (s)", "median", "shortest", "longest")
    for name, values in seconds.items():
        rows.add_row(f"{name} start", *(f"{value:.2f}" for value in (median(values), min(values), max(values))))
    targets = [Target(f"{name} start", median(values), "<", MOST[name], "s") for name, values in seconds.items()]
    notes = ["first: nothing is known of the model, all ways to run it are timed; second: as the first left the cache"]
    return Measurement({"seconds_to_mask": seconds, "frame_size": list(CAMERA_SIZE)}, rows, targets, notes)


@contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    before = os.environ.get(CACHE)
    os.environ[CACHE] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = before


def _first_mask(settings: Settings, message: object) -> float:
    """Seconds from the start of the node's process to hearing a mask."""
    parameters = {"model": str(settings.bundle.path.resolve())}
    with TemporaryDirectory() as folder:
        start = time.monotonic()
        with open_graph("/camera", False, parameters, Path(folder) / "node.log") as graph:
            while True:
                graph.player.play(message)
                if graph.listener.take(1 / RATE):
                    return time.monotonic() - start
                graph.process.check(graph.listener.state)
                if time.monotonic() > start + START_LIMIT:
                    raise CommandError(f"no mask within {START_LIMIT:.0f} s: {graph.process.last_words()}")
