"""How the parameters of a node are described, declared and read; each node's own stand in its file.

Types, numeric ranges and read-only parameters are checked by rclpy itself, from the descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException, InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name

# When a new value takes effect, and so when it may be set.
START = "Read only: set it when the node starts."
CONFIGURE = "Applied by configure."
ALWAYS = "May change at any time."


@dataclass(frozen=True)
class Option:
    """One parameter; `choices` are the only values of a string, `limits` the inclusive range of a number.

    `dynamic`: values may be of another type than the default; the node checks them.
    """

    name: str
    default: Any
    description: str
    applies: str = CONFIGURE
    choices: tuple[str, ...] = ()
    dynamic: bool = False
    limits: tuple[float, float] | None = None

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(
            description=f"{self.description} {self.applies}",
            read_only=self.applies == START,
            dynamic_typing=self.dynamic,
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
        )
        if self.limits and isinstance(self.default, float):
            low, high = self.limits
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.limits:
            low, high = map(int, self.limits)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


def declare(node: Node, options: Sequence[Option]) -> None:
    """Declare every parameter; rclpy's ParameterException names an override that is not acceptable."""
    for option in options:
        value = node.declare_parameter(option.name, option.default, option.descriptor()).value
        if option.choices and value not in option.choices:
            reason = f"not one of {', '.join(option.choices)}"
            raise InvalidParameterValueException(option.name, value, reason)


def read(node: Node, options: Sequence[Option]) -> SimpleNamespace:
    """The current values, one attribute per parameter."""
    return SimpleNamespace(**{option.name: node.get_parameter(option.name).value for option in options})


def topics_refusal(names: Sequence[str]) -> str:
    """Why these cannot be names of topics, or "" if they can."""
    if not names:
        return "no topic is named: give at least one"
    for name in names:
        try:
            validate_topic_name(name)
        except InvalidTopicNameException:
            return f"topic '{name}' is not a ROS name (letters, digits, _ and /, e.g. rgb/image_raw)"
    return ""


def cameras_refusal(names: Sequence[str]) -> str:
    """Why these cannot be the names of cameras, or "" if they can."""
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
