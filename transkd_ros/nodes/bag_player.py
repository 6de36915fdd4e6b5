"""Replays a rosbag2 bag into the ROS graph, for machines without `ros2 bag`: same topics, same stamps, and /clock.

Messages are read as they are due, so a bag of any length fits, and are published as the bytes that were recorded.
When each is due is the subject of `transkd_ros.bags.playback`, reading of `transkd_ros.bags.storage`.

    python -m transkd_ros.nodes.bag_player --ros-args -p bag:=BAG -p rate:=0.5
"""

from __future__ import annotations

import re
import sys
import threading
import time
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool

from transkd_ros.bags.playback import Playback
from transkd_ros.bags.storage import BagError, BagReader
from transkd_ros.nodes import process
from transkd_ros.nodes.options import START, Option, declare, read
from transkd_ros.nodes.timers import steady_timer

CLOCK_PERIOD = 0.025  # seconds between two messages on /clock while no other message is due
LOOK = 0.1  # seconds between two looks whether all is played
LATEST = 2**31 * 10**9  # ns, where the clock of ROS ends
_MESSAGE_TYPE = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Za-z][A-Za-z0-9]*")
SETTLE = 0.5  # seconds: a subscription we know may not know us yet, and may still be fetching the last message

OPTIONS = (
    Option("bag", "", "The bag: a folder with metadata.yaml, a .mcap or a .db3 file.", START),
    Option("topics", [""], "Topics to play; [''] is all of them.", START),
    Option("rate", 1.0, "Bag seconds per second.", START, limits=(0.01, 100.0)),
    Option("start_offset", 0.0, "Leave out so many seconds of the bag's start.", START, limits=(0.0, 1e9)),
    Option("loop", False, "Start again at the end; the clock jumps back.", START),
    Option("paused", False, "Wait for the service ~/pause before the first message.", START),
    Option(
        "wait_for_subscribers",
        1,
        "Start when so many subscriptions to the played topics, taken together, are there.",
        START,
        limits=(0, 1000),
    ),
    Option("wait_timeout", 60.0, "Start after so many seconds without them all the same.", START, limits=(0.0, 1e6)),
    Option(
        "qos_reliability", "best_effort", "Of the played topics.", START, choices=("best_effort", "reliable")
    ),
    Option("qos_depth", 5, "Queue depth of the played topics.", START, limits=(1, 1000)),
)  # fmt: skip


class BagPlayer(Node):
    """Plays by itself; `process.run` ends it after the last message, with code 2 if the bag is damaged there.

    Keyword arguments are those of rclpy's Node. Raises BagError for a bag that cannot be played and
    ParameterException for an unacceptable override.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("bag_player", **kwargs)
        self._thread: threading.Thread | None = None  # from here on the node can be destroyed
        declare(self, OPTIONS)
        self._settings = read(self, OPTIONS)
        if not self._settings.bag:
            raise BagError("no bag to play: set the parameter bag, e.g. --ros-args -p bag:=PATH")
        self._bag = BagReader(self._settings.bag)
        self._start = self._bag.start + round(self._settings.start_offset * 1e9)
        if self._settings.start_offset > self._bag.duration:
            raise BagError(
                f"{self._bag.path}: start_offset is {self._settings.start_offset:g} s, "
                f"the bag ends after {self._bag.duration:g} s"
            )
        if self._bag.start < 0 or self._bag.start + self._bag.duration * 1e9 >= LATEST:
            raise BagError(f"{self._bag.path}: recorded from {self._bag.start} ns on, which /clock cannot show")
        self._played = self._open_topics()
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10)
        self._playback = Playback(self._settings.rate, self._settings.paused)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._code = 0
        self._thread = threading.Thread(target=self._run, name="playing", daemon=True)
        self._thread.start()
        # The timer also wakes an executor that has missed a signal; the node's own clock is the one played here.
        steady_timer(self, LOOK, self._end_after_playing)

    def destroy_node(self) -> None:
        if self._thread:
            self._playback.close()
            self._thread.join()
        super().destroy_node()

    def _open_topics(self) -> dict[str, Publisher]:
        """A publisher for each topic that can be played."""
        types = self._bag.topics
        recorded = sorted(types.keys() - {"/clock"})  # the clock is this node's to publish
        topics = [topic for topic in self._settings.topics if topic] or recorded
        self._bag.messages(topics)  # names what the bag has instead of a missing one
        reliability = ReliabilityPolicy[self._settings.qos_reliability.upper()]
        qos = QoSProfile(depth=self._settings.qos_depth, reliability=reliability)
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        publishers = {}
        for topic in topics:
            try:
                profile = latched if topic in self._bag.latched_topics else qos
                publishers[topic] = self.create_publisher(message_class(types[topic]), topic, profile)
            except (ImportError, AttributeError) as error:
                self.get_logger().warning(f"not played: {topic}, its type {types[topic]} is not installed ({error})")
        if not publishers:
            raise BagError(f"{self._bag.path}: none of its message types is installed: {', '.join(types.values())}")
        return publishers

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._playback.pause(request.data)
        response.success, response.message = True, "paused" if request.data else "playing"
        return response

    def _end_after_playing(self) -> None:
        if self._thread and not self._thread.is_alive():
            raise SystemExit(self._code)

    # ---- the playing thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._bag:
                self._await_subscribers()
                while self._pass() and self._settings.loop:
                    self.get_logger().info("again from the start")
        except BagError as error:
            print(f"error: {error}", file=sys.stderr)
            self._code = 2
        except Exception:
            if self.context.ok():  # else a signal has ended ROS while we were publishing
                self._code = 1
                raise

    def _await_subscribers(self) -> None:
        wanted, timeout = self._settings.wait_for_subscribers, self._settings.wait_timeout
        deadline = time.monotonic() + timeout
        while (there := self._listeners()) < wanted and not self._playback.closed:
            if time.monotonic() > deadline:
                self.get_logger().warning(
                    f"{there} of {wanted} subscriptions after {timeout:g} s; playing all the same"
                )
                break
            self._playback.sleep(0.05)
        self._playback.sleep(SETTLE)

    def _listeners(self) -> int:
        return sum(publisher.get_subscription_count() for publisher in self._played.values())

    def _pass(self) -> bool:
        """Play the bag once; False if it was ended underway."""
        count = jumps = latest = late = 0
        self._playback.start(self._start)
        for stamp_ns, topic, data in self._bag.messages(self._played, self._start):
            while not self._playback.wait(stamp_ns, CLOCK_PERIOD):
                self._publish_clock()
            if self._playback.closed:
                return False
            self._publish_clock()
            self._played[topic].publish(data)
            count += 1
            if stamp_ns < latest:  # as in a bag joined of two: it is overdue, and the clock stays
                jumps += 1
            else:
                latest, late = stamp_ns, max(late, self._playback.now() - stamp_ns)
        self.get_logger().info(f"played {count} messages, up to {late / 1e6:.0f} ms late")
        if jumps:
            self.get_logger().warning(
                f"{jumps} messages were recorded with stamps before those of the messages in front"
            )
        self._playback.sleep(SETTLE)
        return True

    def _publish_clock(self) -> None:
        """Never behind the stamp of the message that follows."""
        self._clock_publisher.publish(Clock(clock=Time(nanoseconds=self._playback.now()).to_msg()))


def message_class(name: str) -> type:
    """The class of a message type such as `sensor_msgs/msg/Image`.

    Raises ImportError or AttributeError if this ROS installation does not have it, and for what is no PACKAGE/msg/NAME:
    it is the bag that says what is imported here.
    """
    if not _MESSAGE_TYPE.fullmatch(name):
        raise ImportError("message types are called PACKAGE/msg/NAME")
    package, folder, kind = name.split("/")
    found: type = getattr(import_module(f"{package}.{folder}"), kind)
    if not hasattr(found, "get_fields_and_field_types"):
        raise ImportError(f"{package}.{folder}.{kind} is no message type")
    return found


def main(args: list[str] | None = None) -> int:
    """Play until the bag ends or SIGINT or SIGTERM comes (exit code 0); 2 for a bag or parameters that cannot be."""
    return process.run(BagPlayer, args, BagError)


if __name__ == "__main__":
    sys.exit(main())
