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

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from transkd_ros.nodes.qos_overrides import qos_overrides

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

BEST_AVAILABLE = "best_available"
RELIABILITIES = (BEST_AVAILABLE, "reliable", "best_effort")
"""Values of the parameter qos_reliability."""
LOOK = 0.2  # seconds between two looks at the publishers; one takes some 20 µs


def offered(node: Node, topic: str) -> ReliabilityPolicy | None:
    """RELIABLE where all publishers of `topic` are, BEST_EFFORT where one is not; None while there is none."""
    offers = {info.qos_profile.reliability for info in node.get_publishers_info_by_topic(topic)}
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
        self._raw = raw
        self._timer: Any = None  # while the publishers are looked at
        given = self._qos.pop("reliability", None)  # for this topic, which counts more than the parameter for all
        if given is not None:
            self.reliability = given
        elif reliability == BEST_AVAILABLE:
            # Steady, not the node's clock: simulated time stands still until a simulator runs.
            self._timer = node.create_timer(LOOK, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
            self.reliability = offered(node, topic) or ReliabilityPolicy.BEST_EFFORT
        else:
            self.reliability = ReliabilityPolicy[reliability.upper()]
        self._subscription = self._subscribe()

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)
        if self._timer:
            self._node.destroy_timer(self._timer)

    def trouble(self) -> str:
        """Why nothing may come, or ""."""
        offer = offered(self._node, self.topic)
        if offer is None:
            return f"nobody publishes {self._node.resolve_topic_name(self.topic)}"
        if offer == ReliabilityPolicy.BEST_EFFORT and self.reliability == ReliabilityPolicy.RELIABLE:
            return "the publisher is best effort and the subscription reliable"
        return ""

    def _look(self) -> None:
        reliability = offered(self._node, self.topic) or self.reliability
        if reliability != self.reliability:
            self.reliability = reliability
            self._node.get_logger().info(f"{self.topic}: subscribed {reliability.name.lower()}, as its publishers are")
            # First this one: while there are two, a frame would be heard twice.
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def _subscribe(self) -> Any:
        qos = QoSProfile(reliability=self.reliability, **self._qos)
        # rclpy warns of publishers that cannot be heard; those that were looked up soon will be.
        events: dict[str, Any] = {"incompatible_qos": lambda _: None} if self._timer else {}
        if self._on_lost:
            on_lost = self._on_lost
            lost = SubscriptionEventCallbacks(message_lost=lambda event: on_lost(event.total_count_change), **events)
            with contextlib.suppress(UnsupportedEventTypeError):  # not every middleware can tell
                return self._create(qos, lost)
        return self._create(qos, SubscriptionEventCallbacks(**events))

    def _create(self, qos: QoSProfile, events: SubscriptionEventCallbacks) -> Any:
        return self._node.create_subscription(*self._arguments, qos, raw=self._raw, event_callbacks=events)
