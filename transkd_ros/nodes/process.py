"""A node as a process: how the executables of this package start and end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from transkd_ros.cli import CommandError, one_line


def run(make_node: Callable[[], Node], args: Sequence[str] | None, *errors: type[Exception]) -> int:
    """Run a node until SIGINT or SIGTERM (exit code 0), or until one of its callbacks raises SystemExit (its code).

    Arguments and parameters that it cannot start with end in one line on stderr and code 2: `errors` are what
    `make_node` raises for them, beside ParameterException, CommandError and OSError. What a node has to finish, it
    does in `destroy_node`.
    """
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # malformed --ros-args
        return _refuse(error)
    node = None
    try:
        node = make_node()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as end:
        return int(end.code or 0)
    except (ParameterException, CommandError, OSError, *errors) as error:
        return _refuse(error)
    except RuntimeError:  # RCLError: a signal ended ROS while the executor was about to use it
        if rclpy.ok():
            raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the orderly end
        if node:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _refuse(error: Exception) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2
