"""Timers that run whatever the node's clock does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer


def steady_timer(node: Node, period: float, callback: Callable[[], Any], **options: Any) -> Timer:
    """A timer of `node` on a steady clock: simulated time stands still until a simulator or player runs.

    `period` in seconds; `options` are those of `Node.create_timer`.
    """
    return node.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME), **options)
