"""The comparison node: how far a student agrees with its teacher on the live cameras, and how fast both are.

Hears the masks of two segmentation nodes, `teacher/<camera>/segmentation/mask` and `student/…`, pairs them by header
stamp, and tells what came out; at its end it writes comparison.json and a page. Either segmentation node may start
late, stop or restart. What is compared, and how, is in `transkd_ros.compare`; here are the topics.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from transkd_ros.cli import CommandError, one_line
from transkd_ros.compare import pair_page
from transkd_ros.compare.agreement import WINDOW, Comparison, common_labels
from transkd_ros.compare.pair_page import Subject, View
from transkd_ros.compare.pairing import SIDES, Pair
from transkd_ros.compare.pictures import disagreement, side_by_side
from transkd_ros.frames import Frame, FrameError, SampleBits, decode, decode_image, image_message
from transkd_ros.model.bundle import load_bundle
from transkd_ros.model.labels import LabelTable
from transkd_ros.nodes import process
from transkd_ros.nodes.options import START, Option, cameras_refusal, declare, read
from transkd_ros.nodes.reliability import BEST_AVAILABLE, RELIABILITIES, ImageSubscription
from transkd_ros.nodes.timers import steady_timer
from transkd_ros.resources import DEFAULT_MODEL, find_model
from transkd_ros.timing import diagnostic_name, diagnostic_status, stamp_ns

SILENCE = 3.0  # seconds without a mask that are worth a warning
VIEWER_PERIOD = 0.5  # seconds between two looks for somebody who wants pictures
MASK_ENCODINGS = ("mono8", "8UC1")
PICTURE_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

OPTIONS = (
    Option("cameras", ["camera"], "Names of the cameras, relative: the masks are on teacher/<camera>/…", START),
    Option("teacher_model", DEFAULT_MODEL, "The teacher: a shipped model, or the path of a bundle.", START),
    Option("student_model", "camvid_student", "The student: a shipped model, or the path of a bundle.", START),
    Option("labels", "", "Class table (camvid, or a YAML file) where the bundles are not on this machine.", START),
    Option("window", WINDOW, "Agreement is told of so many last pairs, and of all.", START, limits=(1, 100_000)),
    Option("most_waiting", 32, "So many masks a side wait for their partner.", START, limits=(1, 1000)),
    Option("output", "comparison", "Folder of comparison.json and comparison.html; '' writes none.", START),
    Option(
        "image_transport", "raw", "Of the frames of the side-by-side picture.", START, choices=("raw", "compressed")
    ),
    Option(
        "qos_reliability",
        BEST_AVAILABLE,
        "Of the subscriptions; best_available is what the publishers offer.",
        START,
        choices=RELIABILITIES,
    ),
    Option("qos_depth", 5, "Queue depth of the subscriptions.", START, limits=(1, 1000)),
    Option("diagnostics_period", 1.0, "Seconds between two diagnostics and summaries.", START, limits=(0.05, 60.0)),
)


class ComparisonNode(Node):
    """Keyword arguments are those of rclpy's Node.

    Raises ParameterException, CommandError or OSError where it cannot start with its parameters.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("comparison_node", **kwargs)
        declare(self, OPTIONS)
        settings = read(self, OPTIONS)
        if reason := _names_refusal(settings.cameras):
            raise CommandError(reason)
        self._subject = _subject(settings)
        self._folder = Path(settings.output).absolute() if settings.output else None
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._cameras = [_Camera(self, name, settings, self._subject) for name in settings.cameras]
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady_timer(self, settings.diagnostics_period, self._publish)
        steady_timer(self, VIEWER_PERIOD, self._look_for_viewers)
        self.get_logger().info(f"comparing {self._subject.student} with its teacher {self._subject.teacher}")

    def destroy_node(self) -> None:
        if self._folder and any(camera.was_heard for camera in self._cameras):
            self._write(self._folder)
        super().destroy_node()

    def _publish(self) -> None:
        message = DiagnosticArray(status=[camera.report() for camera in self._cameras])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _look_for_viewers(self) -> None:
        for camera in self._cameras:
            camera.look_for_viewer()

    def _write(self, folder: Path) -> None:
        views = {camera.name: camera.view for camera in self._cameras}
        source = "Live, on the frames that each model took; a latency is the age of a frame when its mask is heard"
        try:
            pair_page.write(folder, self._subject, views, source)
        except (OSError, ImportError) as error:  # no space, or no Jinja2 and matplotlib for the page
            print(f"error: the report is not complete: {one_line(error)}", file=sys.stderr)
        else:  # printed, not logged: by now ROS has ended
            print(f"{folder / pair_page.JSON}\n{folder / pair_page.HTML}", flush=True)


class _Camera:
    """One camera: its topics, and the view that its masks add up to."""

    def __init__(self, node: Node, name: str, settings: SimpleNamespace, subject: Subject) -> None:
        self.name = name
        self.view = View(
            Comparison(subject.labels, settings.window, settings.most_waiting, subject.student_labels)
        )
        self._node = node
        self._problems = 0  # that have been reported
        self._heard = dict.fromkeys((*SIDES, "pair"), time.monotonic())
        self._frames: dict[int, Any] = {}  # messages by stamp, in the order they came
        self._bits = SampleBits()
        self._most_frames = settings.most_waiting
        self._qos = settings.qos_reliability, settings.qos_depth
        compressed = settings.image_transport == "compressed"
        self._frame_type: type = CompressedImage if compressed else Image
        self._frame_topic = f"{name}/image_raw/compressed" if compressed else f"{name}/image_raw"
        self._frame_subscription: ImageSubscription | None = None  # while somebody listens to the side-by-side picture
        for side in SIDES:
            topic = f"{side}/{name}/segmentation/mask"
            ImageSubscription(node, Image, topic, partial(self._on_mask, side), *self._qos)
        self._disagreement = node.create_publisher(Image, f"{name}/comparison/disagreement", PICTURE_QOS)
        self._side_by_side = node.create_publisher(Image, f"{name}/comparison/side_by_side", PICTURE_QOS)
        self._summary = node.create_publisher(String, f"{name}/comparison/summary", LATCHED)

    @property
    def was_heard(self) -> bool:
        return any(side.received for side in self.view.comparison.sides.values())

    def look_for_viewer(self) -> None:
        """Hear the camera's frames while somebody listens to the picture that shows them."""
        wanted = self._side_by_side.get_subscription_count() > 0
        if wanted and not self._frame_subscription:
            self._frame_subscription = ImageSubscription(
                self._node, self._frame_type, self._frame_topic, self._on_frame, *self._qos
            )
        elif not wanted and self._frame_subscription:
            self._frame_subscription.destroy()
            self._frame_subscription = None
            self._frames.clear()

    def report(self) -> DiagnosticStatus:
        """Publish the summary; what of it goes into the diagnostics."""
        now = self._now()
        summary = self.view.comparison.summary(now / 1e9)
        self._summary.publish(String(data=json.dumps(summary, ensure_ascii=False, allow_nan=False)))
        level, text = self._health()
        return diagnostic_status(f"{diagnostic_name(self._node)}: {self.name}", level, text, _flat(summary))

    def _on_mask(self, side: str, message: Image) -> None:
        self._heard[side] = time.monotonic()
        comparison = self.view.comparison
        try:
            mask = _mask(message)
        except FrameError as error:
            comparison.sides[side].problems["bad mask"] += 1
            self._node.get_logger().warning(f"{self.name}: bad mask of the {side}: {error}", throttle_duration_sec=1.0)
            return
        stamp, now = stamp_ns(message.header.stamp), self._now()
        latency = (now - stamp) / 1e9 if stamp and now else None  # simulated time is 0 until it has started
        pair = comparison.hear(side, stamp, mask, now / 1e9, latency)
        if pair:
            self._heard["pair"] = time.monotonic()
            self._show(message.header, pair)

    def _on_frame(self, message: Any) -> None:
        if stamp := stamp_ns(message.header.stamp):
            self._frames[stamp] = message
        if len(self._frames) > self._most_frames:
            del self._frames[next(iter(self._frames))]

    def _show(self, header: Any, pair: Pair) -> None:
        """Publish the pictures that somebody listens to."""
        labels, frame = self.view.comparison.labels, self._take_frame(pair.stamp_ns)
        if pair is self.view.comparison.worst:
            self.view.worst_frame = frame
        if self._disagreement.get_subscription_count():
            self._disagreement.publish(image_message(disagreement(labels, pair), "rgb8", header))
        if self._side_by_side.get_subscription_count():
            self._side_by_side.publish(image_message(side_by_side(labels, pair, frame), "rgb8", header))

    def _take_frame(self, stamp_ns: int) -> Frame | None:
        """The frame of this stamp, if it was heard."""
        message = self._frames.pop(stamp_ns, None)
        if message is None:
            return None
        try:
            return decode(message, bits=self._bits)
        except FrameError as error:
            self.view.broken[error.cause] += 1
            return None

    def _health(self) -> tuple[bytes, str]:
        """Level and text of the diagnostics: OK while both answer the same frames and nothing is wrong with them."""
        problems = sum(sum(side.problems.values()) for side in self.view.comparison.sides.values())
        new, self._problems = problems - self._problems, problems
        now = time.monotonic()
        for what, text in zip((*SIDES, "pair"), (*(f"mask of the {side}" for side in SIDES), "pair"), strict=True):
            if now - self._heard[what] > SILENCE:
                return DiagnosticStatus.WARN, f"no {text} for {now - self._heard[what]:.0f} s"
        return (DiagnosticStatus.WARN, f"{new} masks with problems") if new else (DiagnosticStatus.OK, "comparing")

    def _now(self) -> int:
        """ns on the node's clock."""
        return self._node.get_clock().now().nanoseconds


def _mask(message: Image) -> Any:
    """(H, W) uint8 class ids of a mask message. Raises FrameError."""
    if message.encoding not in MASK_ENCODINGS:
        raise FrameError("encoding", f"masks are {' or '.join(MASK_ENCODINGS)}, this one is '{message.encoding}'")
    return decode_image(message).pixels


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """The values of a summary as lines of a diagnostic status; agreement in %, that by class of the window only."""
    values = {f"pairs {key}": count for key, count in summary["pairs"].items()}
    for span, scores in summary["agreement"].items():
        values |= {f"{key} {span} (%)": _percent(scores[key]) for key in ("pixel_accuracy", "miou")}
    values |= {f"IoU {name} (%)": _percent(value) for name, value in summary["agreement"]["window"]["iou"].items()}
    for side in SIDES:
        account = summary[side]
        values |= {f"{side} masks": account["masks"], f"{side} rate (Hz)": account["rate_hz"]}
        values |= {f"{side} latency {key} (ms)": account["latency_ms"].get(key, "") for key in ("p50", "p95")}
        values |= {f"{side} {problem}": count for problem, count in account["problems"].items()}
    return values | {f"{key} ratio": "" if ratio is None else ratio for key, ratio in summary["ratios"].items()}


def _percent(fraction: float | None) -> float | str:
    return "" if fraction is None else 100 * fraction


def _names_refusal(names: list[str]) -> str:
    """Why these names cannot be used, or ""."""
    if absolute := [name for name in names if name.startswith("/")]:
        return f"camera '{absolute[0]}' must be relative: its masks are on teacher/<camera>/segmentation/mask"
    return cameras_refusal(names)


def _subject(settings: SimpleNamespace) -> Subject:
    """The models and their classes. Raises CommandError or OSError."""
    models = settings.teacher_model, settings.student_model
    try:
        if settings.labels:
            return Subject(*models, LabelTable.load(settings.labels))
        teacher, student = (load_bundle(find_model(model), verify=False).manifest for model in models)
        return Subject(teacher.name, student.name, common_labels(teacher, student), student.labels)
    except ValueError as error:  # BundleError, ClassTableError, and a bad label table
        raise CommandError(str(error)) from error


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (exit code 0); 2 for arguments or parameters it cannot start with."""
    return process.run(ComparisonNode, args)


if __name__ == "__main__":
    sys.exit(main())
