"""The observer of a soak: hears every mask and every diagnosis, and keeps what was wrong with them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

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


class Watcher(Node):
    """Spun by a thread; its methods are called from another."""

    def __init__(self) -> None:
        super().__init__("soak_watcher")
        self.masks = 0
        self.wrong: Counter[str] = Counter()
        self.oldest = 0.0  # seconds from a frame's leaving the camera to its mask's leaving the node
        self.answers: Counter[str] = Counter()
        self._diagnostics: dict[str, dict[str, str]] = {}
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(Image, f"{CAMERA}/segmentation/mask", self._on_mask, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        names = {ChangeState: "change_state", GetState: "get_state", SetParameters: "set_parameters"}
        self._clients_of_node = {kind: self.create_client(kind, f"{NODE}/{name}") for kind, name in names.items()}

    def _on_mask(self, message: Image, info: dict[str, int]) -> None:
        self.masks += 1
        self.oldest = max(self.oldest, (info["source_timestamp"] - int(message.header.frame_id)) / 1e9)
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
                until = time.monotonic() + PATIENCE / 4
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

    def wait_for(self, condition: Any, what: str) -> bool:
        """Whether it came true in time; if not, that is wrong."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                self.wrong[f"never: {what}"] += 1
                return False
            time.sleep(0.02)
        return True

    def missing_frames(self) -> int:
        """Frames that the camera's account has not explained: received less masks and drops."""
        values = self.values(CAMERA)
        return int(values["received"]) - int(values["processed"]) - sum(read_drops(values).values())


def footprint(pid: int) -> dict[str, float]:
    """Resident memory (MB), threads and open file descriptors of a process, as proc(5) tells."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) * 1024 / 1e6,
        "threads": int(status["Threads"]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }
