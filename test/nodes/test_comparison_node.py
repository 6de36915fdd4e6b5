"""The comparison node, running: it hears masks as two segmentation nodes send them, and tells what they add up to."""

from __future__ import annotations

import array
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from builtin_interfaces.msg import Time
from conftest import renamed
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import spinning, wait_until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from transkd_ros.model.labels import LabelTable
from transkd_ros.nodes.comparison import ComparisonNode
from transkd_ros.nodes.segmentation.node import SegmentationNode

pytestmark = pytest.mark.ros
NAME = "comparison_node: camera"
OK, WARN = b"\0", b"\1"
SIDES = ("teacher", "student")


@contextmanager
def running(tmp_path, **parameters):
    """The node in this process, with quick diagnostics, and reliable subscriptions so that no test loses a mask."""
    values = {
        "labels": "camvid",
        "output": str(tmp_path / "out"),
        "diagnostics_period": 0.05,
        "qos_reliability": "reliable",
        "qos_depth": 50,
        **parameters,
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    with spinning(lambda context: ComparisonNode(context=context, parameter_overrides=overrides)) as node:
        yield node


def image(pixels, sec, encoding="mono8"):
    message = Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=pixels.size // pixels.shape[0],
        data=array.array("B", np.ascontiguousarray(pixels).tobytes()),
    )
    message.header.stamp.sec = sec
    message.header.frame_id = "lens"
    return message


def mask(value, sec, size=(48, 64)):
    return image(np.full(size, value, np.uint8), sec)


def answer(user, sec, teacher, student):
    """Both sides' masks of the frame of this stamp."""
    user.send("teacher/camera/segmentation/mask", mask(teacher, sec))
    user.send("student/camera/segmentation/mask", mask(student, sec))


def pixels_of(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()


# ---- what it says --------------------------------------------------------------------------------


def test_masks_are_paired_by_stamp_and_their_agreement_is_in_diagnostics_and_summary(user, diagnostics, tmp_path):
    with running(tmp_path, window=2):
        answer(user, 1, teacher=3, student=4)
        for sec in (2, 3):
            answer(user, sec, teacher=3, student=3)
        user.send("student/camera/segmentation/mask", mask(3, 9))
        diagnostics.wait_for(NAME, "student masks", 4)
        diagnostics.wait_for(NAME, "pairs complete", 3)
        assert diagnostics.value(NAME, "pairs waiting") == "1"
        assert diagnostics.value(NAME, "pixel_accuracy window (%)") == "100.00"
        assert diagnostics.value(NAME, "pixel_accuracy total (%)") == "66.67"
        assert diagnostics.value(NAME, "IoU road (%)") == "100.00" and diagnostics.value(NAME, "IoU sky (%)") == ""
        assert diagnostics.value(NAME, "rate ratio")

        # A late listener gets the summary at once: it is latched.
        heard = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        user.node.create_subscription(String, "camera/comparison/summary", heard.append, latched)
        summary = json.loads(wait_until(lambda: heard, "the summary")[0].data)
    assert summary["pairs"]["complete"] == 3
    assert summary["agreement"]["total"]["pixel_accuracy"] == pytest.approx(2 / 3, abs=1e-4)


def test_latency_is_the_age_of_the_frame_when_its_mask_is_heard(user, diagnostics, tmp_path):
    with running(tmp_path):
        for side, seconds in (("teacher", 20), ("student", 10)):
            sent = mask(0, 0)
            sent.header.stamp.sec = user.node.get_clock().now().seconds_nanoseconds()[0] - seconds
            user.send(f"{side}/camera/segmentation/mask", sent)
            wait_until(lambda side=side: diagnostics.value(NAME, f"{side} latency p50 (ms)"), f"latency of the {side}")
        teacher, student = (float(diagnostics.value(NAME, f"{side} latency p50 (ms)")) for side in SIDES)
        assert 20_000 <= teacher < 30_000 and 10_000 <= student < 20_000
        assert float(diagnostics.value(NAME, "latency ratio")) == pytest.approx(teacher / student, abs=0.01)


def test_latency_is_measured_in_simulated_time(user, diagnostics, tmp_path):
    with running(tmp_path, use_sim_time=True) as node:
        user.send("teacher/camera/segmentation/mask", mask(0, 998))
        diagnostics.wait_for(NAME, "teacher masks", 1)  # the clock does not run yet: the latency is not known
        now = Clock(clock=Time(sec=1000))
        user.send_until(lambda: node.get_clock().now().nanoseconds == 1000 * 10**9, "time 1000", "/clock", now)
        user.send("teacher/camera/segmentation/mask", mask(0, 999))
        diagnostics.wait_for(NAME, "teacher latency p50 (ms)", "1000.00")
        user.send("teacher/camera/segmentation/mask", mask(0, 2000))
        diagnostics.wait_for(NAME, "teacher stamp of another clock", 1)


def test_pictures_are_made_only_while_someone_listens_and_the_frame_is_heard_only_then(
    user, diagnostics, tmp_path, monkeypatch
):
    made = []
    from transkd_ros.nodes import comparison

    for name in ("disagreement", "side_by_side"):
        original = getattr(comparison, name)
        monkeypatch.setattr(comparison, name, lambda *args, o=original: made.append(o(*args)) or made[-1])
    with running(tmp_path) as node:
        answer(user, 1, 3, 4)
        diagnostics.wait_for(NAME, "pairs complete", 1)
        assert not made and node.count_subscribers("camera/image_raw") == 0

        disagreements = user.listen(Image, "camera/comparison/disagreement")
        sides = user.listen(Image, "camera/comparison/side_by_side")
        # `send` waits for the subscription to the frames, which follows that to the picture.
        user.send("camera/image_raw", image(np.full((48, 64, 3), 77, np.uint8), 2, "rgb8"))
        answer(user, 2, 3, 4)
        wait_until(lambda: disagreements and sides, "both pictures")
        assert disagreements[0].header.stamp.sec == 2 and disagreements[0].header.frame_id == "lens"
        assert pixels_of(disagreements[0])[0, 0].tolist() == list(LabelTable.load("camvid").colors[4])
        user.send("camera/image_raw", image(np.full((48, 64, 3), 77, np.uint8), 3, "rgb8"))

        def framed():
            answer(user, 3, 3, 4)
            return any(pixels_of(side)[40, 60].tolist() == [77, 77, 77] for side in list(sides))

        wait_until(framed, "a side-by-side picture with the frame")


# ---- what may go wrong ---------------------------------------------------------------------------


def test_a_side_that_is_silent_is_named_and_comes_back(user, diagnostics, tmp_path, monkeypatch):
    from transkd_ros.nodes import comparison

    monkeypatch.setattr(comparison, "SILENCE", 0.3)
    monkeypatch.setattr("transkd_ros.compare.agreement.LONGEST_LATENCY", float("inf"))  # the stamps are not of now
    with running(tmp_path):
        wait_until(lambda: diagnostics.latest(NAME), "diagnostics")

        def student_alone():
            user.send("student/camera/segmentation/mask", mask(0, 1))
            return "no mask of the teacher" in diagnostics.latest(NAME).message

        wait_until(student_alone, "a word about the teacher")
        assert diagnostics.latest(NAME).level == WARN
        sec = iter(range(2, 10_000))

        def both():
            answer(user, next(sec), 0, 0)
            return diagnostics.latest(NAME).level == OK

        wait_until(both, "all well")


def test_bad_masks_are_counted_by_what_was_wrong_and_the_next_good_pair_is_compared(user, diagnostics, tmp_path):
    broken = mask(0, 1)
    broken.data = broken.data[:10]
    with running(tmp_path):
        user.send("teacher/camera/segmentation/mask", broken)
        user.send("teacher/camera/segmentation/mask", image(np.zeros((48, 64, 3), np.uint8), 1, "rgb8"))
        user.send("student/camera/segmentation/mask", mask(0, 0))
        user.send("student/camera/segmentation/mask", mask(0, -1))
        endless = mask(0, 1)
        endless.header.stamp.nanosec = 10**9
        user.send("student/camera/segmentation/mask", endless)
        user.send("teacher/camera/segmentation/mask", mask(77, 2))
        user.send("student/camera/segmentation/mask", mask(0, 2, size=(24, 32)))
        answer(user, 1, 5, 5)
        diagnostics.wait_for(NAME, "pairs complete", 2)
        counted = {
            "teacher bad mask": 2,
            "student no stamp": 1,
            "student bad stamp": 2,
            "teacher unknown ids": 1,
            "pairs resized": 1,
            "teacher stamp jumped back": 1,
            "pixel_accuracy total (%)": "100.00",
        }
        for key, value in counted.items():
            diagnostics.wait_for(NAME, key, value)


def test_a_pair_with_different_classes_is_refused_with_one_line(tiny_bundle, tmp_path):
    other = renamed(tiny_bundle, tmp_path / "other", ("red", "sky", "blue"))
    result = start(teacher_model=tiny_bundle.path, student_model=other.path)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "only tiny has green; only other has sky" in result.stderr


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"labels": "no_such_table"}, "no label table 'no_such_table'"),
        ({"cameras": ["/front"], "labels": "camvid"}, "'/front' must be relative"),
        ({"teacher_model": "no_such_model"}, "no_such_model"),
        ({"labels": "camvid", "output": "/proc/version/out"}, "/proc/version/out"),
    ],
)
def test_what_it_cannot_start_with_ends_with_one_line(parameters, words):
    result = start(**parameters)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr


def start(**parameters):
    """The node as a process of its own that ends by itself."""
    return subprocess.run(command(**parameters), capture_output=True, text=True, check=False)


def command(**parameters):
    given = [
        f"{name}:={json.dumps(value if isinstance(value, list) else str(value))}" for name, value in parameters.items()
    ]
    overrides = [argument for parameter in given for argument in ("-p", parameter)]
    return [sys.executable, "-m", "transkd_ros.nodes.comparison", "--ros-args", *overrides]


# ---- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal_it_leaves_the_json_and_the_page(user, diagnostics, tmp_path, number):
    arguments = command(labels="camvid", output=tmp_path / "out", qos_reliability="reliable")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        answer(user, 1, 3, 4)
        diagnostics.wait_for(NAME, "pairs complete", 1)
        process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == 0 and "Traceback" not in errors
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["cameras"]["camera"]["pairs"]["complete"] == 1
    assert "road" in (tmp_path / "out" / "comparison.html").read_text()


def test_without_a_mask_it_leaves_no_report(tmp_path):
    with running(tmp_path):
        pass
    assert list((tmp_path / "out").iterdir()) == []


# ---- with real segmentation nodes ----------------------------------------------------------------


@contextmanager
def segmenting(side, bundle):
    """A segmentation node in the namespace of its side, on the camera outside of it: what compare.launch.py starts."""
    values = {"model": str(bundle.path), "qos_reliability": "reliable", "diagnostics_period": 0.05}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    remapping = ["--ros-args", "-r", "camera/image_raw:=/camera/image_raw"]
    with spinning(
        lambda context: SegmentationNode(
            context=context, namespace=side, cli_args=remapping, parameter_overrides=overrides
        )
    ) as node:
        yield node


def test_two_segmentation_nodes_on_one_camera_are_compared_though_one_starts_late_and_restarts(
    user, diagnostics, tmp_path, tiny_bundle, colours
):
    model = str(tiny_bundle.path)
    sec = iter(range(1, 10_000))

    def play_until(condition, what):
        def played():
            user.send("camera/image_raw", image(colours, next(sec), "rgb8"))
            return condition()

        return wait_until(played, what)

    def value(key):
        return int(diagnostics.value(NAME, key) or 0)

    with running(tmp_path, labels="", teacher_model=model, student_model=model), segmenting("student", tiny_bundle):
        play_until(lambda: value("student masks") > 3, "masks of the student alone")
        assert value("pairs complete") == 0
        for _ in range(2):  # the teacher starts late, ends, and starts again
            before = value("pairs complete")
            with ExitStack() as teacher:
                teacher.enter_context(segmenting("teacher", tiny_bundle))
                play_until(lambda before=before: value("pairs complete") > before + 3, "pairs")
        assert value("pairs student only") > 0
        for side in SIDES:  # two nodes of one name are two in the diagnostics
            assert diagnostics.latest(f"{side}/segmentation_node: camera")
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())["cameras"]["camera"]
    assert result["agreement"]["total"]["miou"] == 1.0 and result["pairs"]["waiting"] <= 64
