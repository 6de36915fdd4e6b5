"""The evaluation node: scores what a running segmentation node really answers while a bag is replayed.

It hears frames and masks, notices when the player has finished, and then writes metrics.json and report.html; the
labels come from the bag or a folder. What is kept and how it is scored is in `transkd_ros.evaluate.live`, and who
plays and who segments in `launch/evaluate.launch.py`.
"""

from __future__ import annotations

import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from transkd_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, deserialize, header_stamp
from transkd_ros.cli import CommandError, one_line
from transkd_ros.evaluate.bag_cameras import Camera, matched
from transkd_ros.evaluate.live import Recording, read_offline
from transkd_ros.evaluate.replay import RUN, Account, Replay, conclude, plan
from transkd_ros.evaluate.result import METRICS, REPORT
from transkd_ros.frames import FrameError, decode_image
from transkd_ros.model.bundle import load_bundle
from transkd_ros.nodes import process
from transkd_ros.nodes.options import START, Option, declare, read
from transkd_ros.nodes.reliability import BEST_AVAILABLE, RELIABILITIES, ImageSubscription
from transkd_ros.nodes.timers import steady_timer
from transkd_ros.resources import DEFAULT_MODEL, find_model

READY = "ready: the segmentation node answers, the bag can be played"
"""What the node logs when it and the segmentation node hear the frames; the launch file starts the player then."""
LOOK = 0.1  # seconds between two looks at the graph
LAST_ANSWERS = 2.0  # seconds after the player has gone for masks and diagnostics that are still on their way
IMAGE_DEPTH = 100
OPTIONS = (
    Option("bag", "", "The bag that is replayed: labels and the number of frames are read from it.", START),
    Option("topics", [""], "Image topics of the bag; [''] is every camera.", START),
    Option("ground_truth", "", "Label topic, or its name below each camera; '': ground_truth if there is one.", START),
    Option("labels", "", "Folder of label images instead, named by stamp (ns) or else in order.", START),
    Option("classes", "", "Class table of the labels, a name or a file; '': what the bag says, or the model's.", START),
    Option("model", DEFAULT_MODEL, "What the segmentation node runs: a shipped model, or the path of a bundle.", START),
    Option("node", "segmentation_node", "Name of the segmentation node in its diagnostics.", START),
    Option("offline", "", "To compare with: a metrics.json, or run for an offline evaluation afterwards.", START),
    Option("output", "evaluation", "Folder of metrics.json and report.html.", START),
    Option("start_timeout", 120.0, "Seconds until the segmentation node has to be there.", START, limits=(0.0, 1e6)),
    Option(
        "qos_reliability",
        BEST_AVAILABLE,
        "Of the image subscriptions; best_available is what the publishers offer.",
        START,
        choices=RELIABILITIES,
    ),
)  # fmt: skip


class EvaluationNode(Node):
    """Hears one replay; `process.run` ends it when the player has gone. `account()` is what it heard.

    Keyword arguments are those of rclpy's Node. Raises ParameterException for an unacceptable override, and
    CommandError, OSError or ValueError for a bag, labels or a model that cannot be used.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("evaluation_node", **kwargs)
        declare(self, OPTIONS)
        self.settings = read(self, OPTIONS)
        self.output = Path(self.settings.output).absolute()
        self.replay = _plan(self.settings)
        self.output.mkdir(parents=True, exist_ok=True)
        self._recordings = {camera.name: Recording(self.output) for camera in self.replay.cameras}
        self._diagnostics: dict[str, dict[str, str]] = {}
        self._state = self._await_node
        self._since = time.monotonic()  # the last step
        self.finished = False

        masks_qos = QoSProfile(depth=IMAGE_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        kind = CompressedImage if self.replay.compressed else Image
        for camera in self.replay.cameras:
            recording = self._recordings[camera.name]
            # Raw: of a frame only the stamp is looked at, and the mask is decoded without a copy.
            on_frame, on_mask = partial(self._on_frame, recording), partial(self._on_mask, recording)
            topic, reliability = self.replay.frames_topic(camera), self.settings.qos_reliability
            ImageSubscription(self, kind, topic, on_frame, reliability, IMAGE_DEPTH, raw=True)
            self.create_subscription(Image, _masks_topic(camera), on_mask, masks_qos, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        steady_timer(self, LOOK, self._look)

    def account(self) -> Account:
        return Account(
            self.replay, self.settings.model, self._recordings, self._diagnostics, interrupted=not self.finished
        )

    # ---- what is heard ---------------------------------------------------------------------------

    def _on_frame(self, recording: Recording, data: bytes, info: Any) -> None:
        kind = COMPRESSED_IMAGE if self.replay.compressed else IMAGE
        message = deserialize(data, kind)
        recording.frame(header_stamp(message), info["source_timestamp"])

    def _on_mask(self, recording: Recording, data: bytes, info: Any) -> None:
        message = deserialize(data, IMAGE)
        try:
            recording.answer(header_stamp(message), info["source_timestamp"], decode_image(message).pixels)
        except FrameError as error:
            self.get_logger().warning(f"a mask cannot be read: {error}", throttle_duration_sec=1.0)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name, _, what = status.name.partition(": ")
            if name != self.settings.node:
                continue
            self._diagnostics[what] = {pair.key: pair.value for pair in status.values}
            if status.level == DiagnosticStatus.ERROR and status.message.startswith("unconfigured: "):
                raise CommandError(f"the segmentation node does not start: {status.message}")

    # ---- where the replay is ---------------------------------------------------------------------

    def _look(self) -> None:
        state = self._state
        self._state()
        if self._state != state:
            self._since = time.monotonic()

    def _await_node(self) -> None:
        if all(self.count_publishers(_masks_topic(c)) and self.count_subscribers(self.replay.frames_topic(c)) > 1
               for c in self.replay.cameras):  # fmt: skip
            self.get_logger().info(READY)
            self._state = self._await_player
        elif time.monotonic() - self._since > self.settings.start_timeout:
            names = ", ".join(camera.name for camera in self.replay.cameras)
            raise CommandError(f"no active segmentation node of {names} within {self.settings.start_timeout:g} s")

    def _await_player(self) -> None:
        if self._is_played() or any(recording.sent for recording in self._recordings.values()):
            self._state = self._await_end

    def _await_end(self) -> None:
        if not self._is_played():
            self._state = self._await_last_answers

    def _await_last_answers(self) -> None:
        if time.monotonic() - self._since > LAST_ANSWERS:
            self.finished = True
            raise SystemExit(0)

    def _is_played(self) -> bool:
        return any(self.count_publishers(self.replay.frames_topic(camera)) for camera in self.replay.cameras)


def _masks_topic(camera: Camera) -> str:
    return f"{camera.name}/segmentation/mask"


def _plan(settings: SimpleNamespace) -> Replay:
    """The replay that the parameters describe, and a first look at what is needed only at the end."""
    if not settings.bag:
        raise CommandError("no bag: set the parameter bag, e.g. --ros-args -p bag:=PATH")
    bundle = load_bundle(find_model(settings.model), verify=False)  # the segmentation node verifies
    if settings.offline not in ("", RUN):
        read_offline(Path(settings.offline), bundle.manifest.name)
    topics = [topic for topic in settings.topics if topic]
    replay = plan(Path(settings.bag), topics, settings.ground_truth, settings.labels, settings.classes)
    matched(replay.cameras, bundle.manifest.name, bundle.manifest.labels)  # refuses labels of other classes
    return replay


def main(args: list[str] | None = None) -> int:
    """Hear one replay and write what it was like; SIGINT or SIGTERM ends it earlier, again ends the scoring.

    Exit code 0; 2 for arguments it cannot start with, for no mask at all, and for a damaged bag.
    """
    nodes: list[EvaluationNode] = []

    def make() -> EvaluationNode:
        nodes.append(EvaluationNode())
        return nodes[0]

    code = process.run(make, args, ValueError)  # BagError, BundleError and the like
    if code or not nodes:
        return code
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    node, account = nodes[0], nodes[0].account()
    if account.interrupted and not any(recording.answered for recording in account.recordings.values()):
        print("stopped before the first mask: there is nothing to write")
        return 0
    try:
        evaluation = conclude(account, node.output, node.settings.offline)
    except KeyboardInterrupt:
        return 0
    except (CommandError, OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(evaluation.line(), node.output / METRICS, node.output / REPORT, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
