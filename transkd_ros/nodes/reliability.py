"""Subscriptions that are as reliable as their publishers, for every node that hears images or masks.

A best-effort subscription loses most frames of a camera whose images do not fit its DDS buffers, and a reliable one
never hears a best-effort camera. BEST_AVAILABLE of rclpy (since Iron) asks the publishers only when the
subscription is made, and is reliable where there is none yet: a best-effort camera that starts later stays unheard. So
the publishers are asked here, again and again; that works on every distribution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from transkd_ros.nodes.qos_overrides import qos_overrides
from transkd_ros.nodes.timers import steady_timer

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

BEST_AVAILABLE = "best_available"
RELIABILITIES = (BEST_AVAILABLE, "reliable", "best_effort")
"""Values of the parameter qos_reliability."""
LOOK = 0.2  # seconds between two looks at the publishers; one takes some 20 µs


def offered(node: Node, topic: str, type_name: str) -> ReliabilityPolicy | None:
    """RELIABLE where all publishers of `topic` are, BEST_EFFORT where one is not; None while there is none.

    `type_name`: sensor_msgs/msg/Image, for example; publishers of another type do not count.
    """
    infos = node.get_publishers_info_by_topic(topic)
    offers = {info.qos_profile.reliability for info in infos if info.topic_type == type_name}
    if not offers:
        return None
    return ReliabilityPolicy.RELIABLE if offers == {ReliabilityPolicy.RELIABLE} else ReliabilityPolicy.BEST_EFFORT


class ImageSubscription:
    """A subscription of `node`, made anew whenever the publishers ask for another reliability.

    reliability: one of RELIABILITIES; "best_available" is what the publishers offer, and best effort, which hears
    both kinds, while there is none. What the user has set for this topic (`qos_overrides`) comes first. raw: as of
    `Node.create_subscription`. on_lost: called with the number of messages that the middleware says it has lost,
    where it can tell.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[..., None],
        reliability: str,
        depth: int,
        raw: bool = False,
        on_lost: Callable[[int], None] | None = None,
    ) -> None:
        self.topic = topic
        self._node = node
        self._on_lost = on_lost
        self._qos = {"depth": depth, **qos_overrides(node, "subscription", topic)}
        self._arguments = message_type, topic, callback
        self._type_name = f"{message_type.__module__.partition('.')[0]}/msg/{message_type.__name__}"
        self._raw = raw
        given = self._qos.pop("reliability", None)  # for this topic, which counts more than the parameter for all
        self._looks = given is None and reliability == BEST_AVAILABLE
        if given is not None:
            self.reliability = given
        elif self._looks:
            self.reliability = self._offered() or ReliabilityPolicy.BEST_EFFORT
        else:
            self.reliability = ReliabilityPolicy[reliability.upper()]
        # Its own, and gone with it: a callback group keeps a trace of everything that was ever in it.
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscription = self._subscribe()
        self._timer: Any = steady_timer(node, LOOK, self._look, callback_group=self._group) if self._looks else None

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)
        if self._timer:
            self._node.destroy_timer(self._timer)

    def trouble(self) -> str:
        """Why nothing may come, or ""."""
        offer = self._offered()
        if offer is None:
            name = self._node.resolve_topic_name(self.topic)
            if others := {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}:
                return f"{name} is published as {', '.join(sorted(others))}, not {self._type_name}"
            return f"nobody publishes {name}"
        if offer == ReliabilityPolicy.BEST_EFFORT and self.reliability == ReliabilityPolicy.RELIABLE:
            return "the publisher is best effort and the subscription reliable"
        return ""

    def _offered(self) -> ReliabilityPolicy | None:
        return offered(self._node, self.topic, self._type_name)

    def _look(self) -> None:
        reliability = self._offered() or self.reliability
        if reliability != self.reliability:
            self.reliability = reliability
            self._node.get_logger().info(f"{self.topic}: subscribed {reliability.name.lower()}, as its publishers are")
            # First this one: while there are two, a frame would be heard twice.
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def _subscribe(self) -> Any:
        qos = QoSProfile(reliability=self.reliability, **self._qos)
        # rclpy warns of publishers that cannot be heard; those that were looked up soon will be.
        events: dict[str, Any] = {"incompatible_qos": lambda _: None} if self._looks else {}
        if self._on_lost:
            on_lost = self._on_lost
            lost = SubscriptionEventCallbacks(message_lost=lambda event: on_lost(event.total_count_change), **events)
            with contextlib.suppress(UnsupportedEventTypeError):  # not every middleware can tell
                return self._create(qos, lost)
        return self._create(qos, SubscriptionEventCallbacks(**events))

    def _create(self, qos: QoSProfile, events: SubscriptionEventCallbacks) -> Any:
        return self._node.create_subscription(
            *self._arguments, qos, callback_group=self._group, event_callbacks=events, raw=self._raw
        )
