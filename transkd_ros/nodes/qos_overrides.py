"""QoS that the user sets for one topic: parameters qos_overrides./TOPIC.{subscription,publisher}.POLICY.

Every node has these. rclpy's QoSOverridingOptions declare them all, with the QoS of the first subscription as their
values, which would then hold against a later change of qos_depth. Here only those exist that the user has given.
"""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, ReliabilityPolicy

CHOICES = {
    "reliability": [policy.name.lower() for policy in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)],
    "durability": [policy.name.lower() for policy in (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)],
    "history": [policy.name.lower() for policy in (HistoryPolicy.KEEP_LAST, HistoryPolicy.KEEP_ALL)],
}
_ENUMS = {"reliability": ReliabilityPolicy, "durability": DurabilityPolicy, "history": HistoryPolicy}


def qos_overrides(node: Node, entity: str, topic: str) -> dict[str, Any]:
    """What is given for `topic`, as arguments of QoSProfile; `entity` is "subscription" or "publisher".

    Raises InvalidParameterValueException for a value that a policy does not have.
    """
    prefix = f"qos_overrides.{node.resolve_topic_name(topic)}.{entity}."
    found: dict[str, Any] = {}
    for policy in (*CHOICES, "depth"):
        override = node._parameter_overrides.get(prefix + policy)
        if override is None:
            continue
        if not node.has_parameter(override.name):
            descriptor = ParameterDescriptor(description=f"{policy} of the {entity}.", read_only=True)
            node.declare_parameter(override.name, override.value, descriptor)
        found[policy] = _value(override.name, policy, override.value)
    return found


def _value(name: str, policy: str, value: Any) -> Any:
    if policy == "depth":
        if type(value) is int and value > 0:
            return value
        raise InvalidParameterValueException(name, value, "not a positive number")
    if value in CHOICES[policy]:
        return _ENUMS[policy][value.upper()]
    raise InvalidParameterValueException(name, value, f"not one of {', '.join(CHOICES[policy])}")
