"""Real ROS graphs for tests: a domain of their own, a node in a thread or a process, a client that talks and listens.

Import it after `pytest.importorskip("rclpy")`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 60.0  # seconds; only a failing test ever waits that long


def wait_until(condition: Callable[[], T], what: str, timeout: float = DEADLINE) -> T:
    """The first true value of `condition()`; AssertionError naming `what` did not happen by the deadline."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.01)
    return value


@contextmanager
def spinning(make_node: Callable[[Context], Node]) -> Iterator[Node]:
    """The node, in a context of its own, spun by a thread of its own until the block ends."""
    context = Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
    node = make_node(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException, SystemExit):  # SystemExit: a node that has finished
            executor.spin()

    thread = threading.Thread(target=spin, name=node.get_name())
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join(DEADLINE)
        node.destroy_node()
        if state_machine := getattr(node, "_state_machine", None):
            # rclpy's destroy_node leaves it, and with it the lifecycle services and the DDS participant, to the garbage
            # collector. Dead nodes used up the 32 participants that loopback discovery finds.
            state_machine.destroy_when_not_in_use()
        rclpy.try_shutdown(context=context)


class Client:
    """The other end of a node under test; `client()` makes one."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}

    def listen(self, message_type: type, topic: str, reliability: str = "RELIABLE", depth: int = 100) -> list[Any]:
        """A list to which every message on `topic` is added."""
        heard: list[Any] = []
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability])
        self.node.create_subscription(message_type, topic, heard.append, qos)
        return heard

    def send(self, topic: str, message: Any) -> None:
        """Publish as soon as somebody subscribes to `topic`."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, 10)
        publisher = self._publishers[topic]
        wait_until(publisher.get_subscription_count, f"a subscription to {topic}")
        publisher.publish(message)

    def stop_sending(self, topic: str) -> None:
        """Leave the topic, as a node does that ends."""
        self.node.destroy_publisher(self._publishers.pop(topic))

    def send_until(self, condition: Callable[[], T], what: str, topic: str, message: Any) -> T:
        """Repeat `message` until `condition()`: for the first one, which may come before the graph is connected."""

        def sent() -> T:
            self.send(topic, message)
            time.sleep(0.02)
            return condition()

        return wait_until(sent, what)

    def call(self, service_type: Any, name: str, request: Any, probe: Any | None = None) -> Any:
        """The response of a service. `probe` is a request that changes nothing (default: an empty one)."""
        future = self.ask(service_type, name, request, probe)
        wait_until(future.done, f"an answer of {name}")
        return future.result()

    def ask(self, service_type: Any, name: str, request: Any, probe: Any | None = None) -> Any:
        """The future of that response."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
            self._connect(self._clients[name], probe or service_type.Request())
        return self._clients[name].call_async(request)

    def _connect(self, service: Any, probe: Any) -> None:
        """A service that does not know its new client yet loses the answer: ask until one comes."""
        assert service.wait_for_service(DEADLINE), f"no service {service.srv_name}"
        answers: list[Any] = []

        def answered() -> bool:
            answers.append(service.call_async(probe))
            time.sleep(0.05)
            return any(answer.done() for answer in answers)

        wait_until(answered, f"a first answer of {service.srv_name}")


@contextmanager
def client(name: str = "client") -> Iterator[Client]:
    with spinning(lambda context: Node(name, context=context)) as node:
        yield Client(node)


class Diagnostics:
    """The latest status of each name on /diagnostics."""

    def __init__(self, listener: Client) -> None:
        self._arrays = listener.listen(DiagnosticArray, "/diagnostics")

    def latest(self, name: str) -> Any:
        """The newest DiagnosticStatus called `name`; None before the first."""
        found = (status for array in reversed(list(self._arrays)) for status in array.status if status.name == name)
        return next(found, None)

    def first(self, name: str) -> Any:
        """The oldest DiagnosticStatus called `name`; None before it."""
        return next((status for array in list(self._arrays) for status in array.status if status.name == name), None)

    def value(self, name: str, key: str) -> str | None:
        status = self.latest(name)
        return next((pair.value for pair in status.values if pair.key == key), None) if status else None

    def wait_for(self, name: str, key: str, value: Any) -> None:
        wait_until(lambda: self.value(name, key) == str(value), f"{name}: {key} = {value}")


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen]:
    """A child of this interpreter, killed if the test leaves it alive; its output is for `communicate`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()
