"""What the launch files have in common: how arguments are declared and read, and how a node of this package is started.

Only the files in launch/ import it: launch comes with a ROS 2 installation, which a node does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from transkd_ros.resources import dds_environment

SWITCH = ["", "true", "false"]
"""Choices of an argument that may be left to the parameter file."""


def argument(
    name: str, description: str, default: str | None, choices: list[str] | None = None
) -> DeclareLaunchArgument:
    """An argument; without a default (None) it has to be given."""
    return DeclareLaunchArgument(name, description=description, default_value=default, choices=choices)


def override(name: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    """An argument that, left empty, leaves its value to the parameter file."""
    return argument(name, f"{description} Empty: as in the parameter file.", "", choices)


COMPRESSED = override("compressed", "Subscribe to <camera>/image_raw/compressed.", SWITCH)
USE_SIM_TIME = argument(
    "use_sim_time", "Take the time from /clock, as bags and simulators publish it.", "false", SWITCH[1:]
)
LOG_LEVEL = argument("log_level", "Least severity to log: debug, info, warn, error or fatal.", "info")
DDS_PROFILE = argument(
    "dds_profile",
    "Path of a Fast DDS profile for the nodes, none, or auto: config/fastdds.xml, with room for images, unless "
    "FASTDDS_BUILTIN_TRANSPORTS, a profile of your own or another RMW_IMPLEMENTATION is set.",
    "auto",
)


def values(context: LaunchContext, arguments: Sequence[DeclareLaunchArgument]) -> dict[str, str]:
    """What was given for each argument, or its default."""
    return {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}


def names(text: str) -> list[str]:
    """`front,rear` or `[front, rear]`."""
    return [str(name) for name in yaml.safe_load(text if text.startswith("[") else f"[{text}]")]


def transport(compressed: str) -> dict[str, str]:
    """The parameter image_transport of a SWITCH called `compressed`."""
    return {"image_transport": "compressed" if compressed == "true" else "raw"} if compressed else {}


def node(executable: str, given: dict[str, str], overrides: dict[str, Any], **more: Any) -> Node:
    """A node of this package, called as its executable, with the launch arguments that all have."""
    return Node(
        package="transkd_ros",
        executable=executable,
        name=executable,
        parameters=[given["params_file"], overrides],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        additional_env=dds_environment(given["dds_profile"]),
        output="screen",
        emulate_tty=True,
        **more,
    )
