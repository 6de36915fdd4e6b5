"""A node as a process: how the executables of this package start and end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import rclpy
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from transkd_ros.cli import CommandError, one_line
from transkd_ros.timing import stamp_ns


def run(
    make_node: Callable[[], Node], args: Sequence[str] | None, *errors: type[Exception], grace: float | None = None
) -> int:
    """Run a node until SIGINT or SIGTERM (exit code 0), or until one of its callbacks raises SystemExit (its code).

    Arguments and parameters that it cannot start with end in one line on stderr and code 2: `errors` are what
    `make_node` raises for them, beside ParameterException, CommandError and OSError. What a node has to finish, it
    does in `destroy_node`; with `grace` it has so many seconds for that, whatever its threads are busy with. Any other
    exception is printed with its traceback and ends in code 1.
    """
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # malformed --ros-args
        return _refuse(error)
    node, end = None, _End(grace)
    try:
        node = make_node()
        _ignore_bad_clock(node)
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as exit_:
        end.code = int(exit_.code or 0)
    except (ParameterException, CommandError, OSError, *errors) as error:
        end.code = _refuse(error)
    except Exception as error:
        # RCLError is a RuntimeError: a signal ended ROS while the executor was about to use it.
        if rclpy.ok() or not isinstance(error, RuntimeError):
            end.code = 1
            traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the orderly end
        if node:
            node.destroy_node()
        rclpy.try_shutdown()
    return end.code


class _End:
    """The exit code, and a thread that ends the process with it `grace` seconds after ROS has ended."""

    def __init__(self, grace: float | None) -> None:
        self.code = 0
        if grace is not None:
            threading.Thread(target=self._watch, args=(rclpy.get_default_context(), grace), daemon=True).start()

    def _watch(self, context: Context, grace: float) -> None:
        """Nothing can interrupt an engine that loads or infers."""
        while context.ok():
            time.sleep(0.2)
        time.sleep(grace)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def _ignore_bad_clock(node: Node) -> None:
    """rclpy makes a Time of each message on /clock, and the node would end with one that is no time."""
    source = node._time_source
    set_time = source.clock_callback

    def on_clock(message: Clock) -> None:
        if stamp_ns(message.clock) is None:
            text = f"/clock is no time: {message.clock.sec} s, {message.clock.nanosec} ns; it is ignored"
            node.get_logger().warning(text, throttle_duration_sec=5.0)
        else:
            set_time(message)

    source.clock_callback = on_clock  # type: ignore[method-assign]
    if source._clock_sub:
        source._clock_sub.callback = on_clock


def _refuse(error: Exception) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2
