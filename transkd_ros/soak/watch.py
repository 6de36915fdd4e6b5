"""The observer of a soak: hears every mask and every diagnosis, and keeps what was wrong with them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.cli import CommandError
from transkd_ros.soak.camera import CAMERA, NO_TIME_SIZE, SIZES
from transkd_ros.timing import read_drops, stamp_ns

NODE = "segmentation_node"
PATIENCE = 60.0  # seconds for an answer of the node
VIEWS = {"overlay": Image, "confidence": Image, "mask/compressed": CompressedImage}
T = TypeVar("T")


class Watcher(Node):
    """Spun by a thread; its methods are called from another."""

    def __init__(self) -> None:
        super().__init__("soak_watcher")
        self.masks = 0
        self.wrong: Counter[str] = Counter()
        # Seconds since a frame left the camera: when its mask left the node, and when the mask before it did, which is
        # before the work on it began. The first depends on the machine's speed, the second must not.
        self.oldest_mask = self.oldest_begun = 0.0
        self._last_mask = 0  # when it left, system time in ns
        self._diagnostics: dict[str, dict[str, str]] = {}
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(Image, f"{CAMERA}/segmentation/mask", self._on_mask, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        names = {ChangeState: "change_state", GetState: "get_state", SetParameters: "set_parameters"}
        self._clients_of_node = {kind: self.create_client(kind, f"{NODE}/{name}") for kind, name in names.items()}

    def _on_mask(self, message: Image, info: dict[str, int]) -> None:
        self.masks += 1
        left = int(message.header.frame_id)
        self.oldest_begun = max(self.oldest_begun, (self._last_mask - left) / 1e9)
        self._last_mask = info["source_timestamp"]
        self.oldest_mask = max(self.oldest_mask, (self._last_mask - left) / 1e9)
        stamp = stamp_ns(message.header.stamp)
        kind = NO_TIME_SIZE if stamp is None else stamp % 10
        if kind >= len(SIZES):
            self.wrong["mask of a malformed frame"] += 1
        elif (message.height, message.width) != SIZES[kind] or len(message.data) != message.height * message.width:
            self.wrong["mask of another size than its frame"] += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name, _, what = status.name.partition(": ")
            if name == NODE:
                self._diagnostics[what] = {pair.key: pair.value for pair in status.values}

    def values(self, what: str) -> dict[str, str]:
        """Of the last diagnostics: of the `node`, or of the camera."""
        return self._diagnostics.get(what, {})

    # ---- the operator ----------------------------------------------------------------------------

    def call(self, kind: type, request: Any) -> Any:
        """The response of a service of the node. Raises CommandError if none comes."""
        service, deadline = self._clients_of_node[kind], time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if service.service_is_ready():
                future = service.call_async(request)
                # The first answer of a service may get lost while the two discover each other; only a question may
                # be put again.
                until = time.monotonic() + PATIENCE / 4 if kind is GetState else deadline
                while not future.done() and time.monotonic() < until:
                    time.sleep(0.005)
                if future.done():
                    return future.result()
            time.sleep(0.02)
        raise CommandError(f"{service.srv_name} did not answer within {PATIENCE:.0f} s")

    def state(self) -> str:
        return str(self.call(GetState, GetState.Request()).current_state.label)

    def change(self, transition: str) -> None:
        request = ChangeState.Request()
        request.transition.label = transition
        if not self.call(ChangeState, request).success:
            self.wrong[f"{transition} refused in state {self.state()}"] += 1

    def set(self, name: str, value: Any, acceptable: bool = True) -> None:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        if self.call(SetParameters, request).results[0].successful != acceptable:
            self.wrong[f"{name} = {value!r} {'refused' if acceptable else 'accepted'}"] += 1

    def look(self) -> None:
        """Listen to all VIEWS for a moment."""
        views = self._in_executor(
            lambda: [
                self.create_subscription(kind, f"{CAMERA}/segmentation/{topic}", lambda _: None, 1)
                for topic, kind in VIEWS.items()
            ]
        )
        time.sleep(0.7)
        self._in_executor(lambda: [self.destroy_subscription(view) for view in views])

    def _in_executor(self, work: Callable[[], T]) -> T:
        """What `work` returns. rclpy lets nobody else destroy what its executor is about to wait for."""
        task = self.executor.create_task(work)
        while not task.done():
            time.sleep(0.005)
        return cast(T, task.result())

    def wait_for(self, condition: Any, what: str) -> bool:
        """Whether it came true in time; if not, that is wrong."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                self.wrong[f"never: {what}"] += 1
                return False
            time.sleep(0.02)
        return True

    def frames(self) -> Counter[str]:
        """What the node's account of the camera says: frames received, masks, and drops by cause."""
        values = self.values(CAMERA)
        counts = {"received": int(values["received"]), "masks": int(values["processed"])}
        return Counter(counts | {f"dropped {cause}": count for cause, count in read_drops(values).items()})


def unexplained(frames: Mapping[str, int]) -> int:
    """Frames received less masks and drops."""
    return frames["received"] - sum(count for what, count in frames.items() if what != "received")


def footprint(pid: int) -> dict[str, float]:
    """Memory, threads and open file descriptors of a process, as proc(5) tells.

    `memory_mb`: what is resident and its own. `shared_mb`: what is resident and shared, in which Fast DDS hands images
    over: as much of the camera's segment as was read, until the death of a killed camera is noticed.
    """
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    own, files, shared = (int(status[f"Rss{kind}"].split()[0]) * 1024 / 1e6 for kind in ("Anon", "File", "Shmem"))
    return {
        "memory_mb": round(own + files, 1),
        "shared_mb": round(shared, 1),
        "threads": int(status["Threads"]),
        "descriptors": min(_descriptors(pid) for _ in range(5)),  # some are open for a moment only
    }


def _descriptors(pid: int) -> int:
    time.sleep(0.1)
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
