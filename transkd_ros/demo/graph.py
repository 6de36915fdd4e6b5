"""The ROS graph of a demo or a benchmark: the segmentation node in a process of its own, player and listener here.

Nothing is imported from ROS before the graph is opened, so that `set_environment` can come first.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transkd_ros.cli import CommandError
from transkd_ros.demo.child_node import NodeProcess
from transkd_ros.resources import dds_environment

if TYPE_CHECKING:
    from rclpy.node import Node

    from transkd_ros.demo.listener import Answer, MaskListener
    from transkd_ros.demo.stand_in_camera import FramePlayer

START_LIMIT = 120.0  # seconds until the node is active: engines compile big models for a while
ANSWER_LIMIT = 10.0  # seconds until a frame counts as lost


class NodeGraph(NamedTuple):
    """Publishes frames of one camera, hears their masks, and runs the node between the two."""

    player: FramePlayer
    listener: MaskListener
    process: NodeProcess


def set_environment() -> None:
    """Keep the graph on this machine, apart from others and with room for images, unless the user says otherwise."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    if os.environ.get("ROS_DISTRO") == "humble":  # knows only the older variable
        os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
    os.environ.update(dds_environment())


@contextlib.contextmanager
def open_graph(camera: str, compressed: bool, parameters: Mapping[str, Any], log: Path) -> Iterator[NodeGraph]:
    """The graph while `with` lasts; player and listener spin in a thread. Wait for the node with `await_node`.

    `parameters` are the node's, beside those of the camera; its output goes to the file `log`.
    """
    parameters = {
        "cameras": [camera],
        "image_transport": "compressed" if compressed else "raw",
        "diagnostics_period": 0.25,
        "qos_reliability": "reliable",  # a demo or benchmark waits for the mask of a frame: none may get lost
        **parameters,
    }
    with NodeProcess(parameters, log) as process:
        from transkd_ros.demo.listener import MaskListener
        from transkd_ros.demo.stand_in_camera import FramePlayer

        with spinning(lambda: FramePlayer(camera, compressed), lambda: MaskListener(camera)) as (player, listener):
            yield NodeGraph(player, listener, process)


@contextlib.contextmanager
def spinning(*make: Callable[[], Node]) -> Iterator[list[Any]]:
    """The nodes, made and spun by a thread while `with` lasts; they are the only ones of this process."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    # Without rclpy's own handler, Ctrl-C stays a KeyboardInterrupt.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    nodes = [make_node() for make_node in make]
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    try:
        yield nodes
    finally:
        executor.shutdown(timeout_sec=0.5)
        rclpy.try_shutdown()
        spinner.join(0.5)


def await_node(graph: NodeGraph) -> None:
    """Return when the node is active and all topics are connected; CommandError where that will not happen."""
    player, listener, process = graph
    deadline = time.monotonic() + START_LIMIT
    while not (listener.ask_state() == "active" and player.is_heard and listener.is_answered):
        process.check(listener.state)
        if time.monotonic() > deadline:
            raise CommandError(
                f"the segmentation node was not active after {START_LIMIT:.0f} s: {process.last_words()}"
            )
        time.sleep(0.05)


def answers_until(graph: NodeGraph, stamp_ns: int) -> Iterator[Answer]:
    """The masks as they come, up to that of the frame of this stamp; CommandError if it does not come."""
    deadline = time.monotonic() + ANSWER_LIMIT
    while True:
        if answer := graph.listener.take(0.1):
            yield answer
            if answer.stamp_ns == stamp_ns:
                return
        graph.process.check()
        if time.monotonic() > deadline:
            raise CommandError(f"no mask within {ANSWER_LIMIT:.0f} s of a frame: {graph.process.last_words()}")
