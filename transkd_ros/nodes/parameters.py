"""How a node's parameters are described and declared, and those of the segmentation node.

`declare()` gives a node all of them, `refusal()` says why a new value is not acceptable. What the values do is the
subject of `segmentation.py`; other nodes have their options with them. Types, numeric ranges and read-only parameters
are checked by rclpy itself, from the descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException, InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from transkd_ros.resources import DEFAULT_MODEL
from transkd_ros.runtime import ENGINES, PRECISIONS
from transkd_ros.segmenter import MASK_SIZES

# When a new value takes effect, and so when it may be set.
START = "Read only: set it when the node starts."
CONFIGURE = "Applied by configure."
ALWAYS = "May change at any time."


@dataclass(frozen=True)
class Option:
    """One parameter; `choices` are the only values of a string, `limits` the inclusive range of a number."""

    name: str
    default: Any
    description: str
    applies: str = CONFIGURE
    choices: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(
            description=f"{self.description} {self.applies}",
            read_only=self.applies == START,
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
        )
        if self.limits and isinstance(self.default, float):
            low, high = self.limits
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.limits:
            low, high = map(int, self.limits)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


OPTIONS = (
    Option("cameras", ["camera"], "Names of the cameras; their topics are <camera>/image_raw."),
    Option(
        "image_transport",
        "raw",
        "Subscribe to image_raw or to image_raw/compressed.",
        choices=("raw", "compressed"),
    ),
    Option("model", DEFAULT_MODEL, "Name of a shipped model, or path of a model bundle."),
    Option("engine", "auto", "Inference engine.", choices=("auto", *ENGINES)),
    Option("device", "auto", "auto, cpu, gpu and npu (Intel), cuda or tensorrt (NVIDIA)."),
    Option("precision", "auto", "Arithmetic of the network.", choices=PRECISIONS),
    Option("input_size", [0, 0], "Height and width the network sees; [0, 0] is the model's own size."),
    Option("threads", 0, "CPU threads of the engine; 0 leaves it to the engine.", limits=(0, 1024)),
    Option("mask_size", "frame", "Masks as large as the frame or the network's input.", choices=MASK_SIZES),
    Option("overlay", True, "Offer the overlay topic; it is computed only while someone listens."),
    Option("overlay_alpha", 0.5, "Opacity of the class colours on the overlay.", ALWAYS, limits=(0.0, 1.0)),
    Option("overlay_legend", True, "Name the classes with their colours on the overlay.", ALWAYS),
    Option("confidence", True, "Offer the confidence topic if the model has that output."),
    Option(
        "max_frame_age",
        0.0,
        "Drop frames older than this many seconds; 0: none.",
        ALWAYS,
        limits=(0.0, 3600.0),
    ),
    Option("qos_reliability", "best_effort", "Of the image subscriptions.", choices=("best_effort", "reliable")),
    Option(
        "qos_depth",
        1,
        "Queue depth of the image subscriptions and of the published images.",
        limits=(1, 1000),
    ),
    Option("autostart", True, "Configure and activate without being asked.", START),
    Option("diagnostics_period", 1.0, "Seconds between two messages on /diagnostics.", START, limits=(0.05, 60.0)),
)
_BY_NAME = {option.name: option for option in OPTIONS}


def declare(node: Node, options: Sequence[Option] = OPTIONS) -> None:
    """Declare every parameter; rclpy's ParameterException names an override that is not acceptable."""
    for option in options:
        value = node.declare_parameter(option.name, option.default, option.descriptor()).value
        if option.choices and value not in option.choices:
            reason = f"not one of {', '.join(option.choices)}"
            raise InvalidParameterValueException(option.name, value, reason)


def read(node: Node, options: Sequence[Option] = OPTIONS) -> SimpleNamespace:
    """The current values, one attribute per parameter."""
    return SimpleNamespace(**{option.name: node.get_parameter(option.name).value for option in options})


def refusal(parameter: Parameter, configured: bool) -> str:
    """Why this value cannot be set, or "" if it can. `configured`: the node is past configure."""
    option = _BY_NAME.get(parameter.name)
    value = parameter.value
    if option is None:  # use_sim_time and others of rclpy's own
        return ""
    if configured and option.applies == CONFIGURE:
        return f"{option.name} is applied by configure: deactivate and cleanup first"
    if option.choices and value not in option.choices:
        return f"{option.name} is '{value}', not one of {', '.join(option.choices)}"
    if option.name == "cameras":
        return _cameras_refusal(value)
    if option.name == "input_size" and not (len(value) == 2 and (all(n > 0 for n in value) or not any(value))):
        return f"input_size is {list(value)}, not [height, width] in pixels or [0, 0]"
    return ""


def _cameras_refusal(names: Sequence[str]) -> str:
    if not names:
        return "cameras is empty: name at least one"
    if len(set(names)) < len(names):
        return f"cameras names one twice: {', '.join(names)}"
    for name in names:
        if not name.strip("/"):
            return f"camera '{name}' has no name"
        try:
            validate_topic_name(f"{name}/image_raw")
        except InvalidTopicNameException:
            return f"camera '{name}' is not a ROS name (letters, digits, _ and /, e.g. front/left)"
    return ""
