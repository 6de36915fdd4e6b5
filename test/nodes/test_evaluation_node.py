"""The evaluation node, running: what it hears of a replay, when it ends, and what it leaves."""

from __future__ import annotations

import array
import json
import signal
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy: install the extra `ros` or source a ROS 2 installation")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.parameter import Parameter
from ros_graph import DEADLINE, client, process, spinning, wait_until
from sensor_msgs.msg import Image

from transkd_ros.bags.messages import image_message
from transkd_ros.bags.storage import BagWriter
from transkd_ros.cli import CommandError
from transkd_ros.evaluate.replay import conclude
from transkd_ros.nodes.bag_player import BagPlayer
from transkd_ros.nodes.evaluation import READY, EvaluationNode
from transkd_ros.nodes.segmentation.node import SegmentationNode

pytestmark = pytest.mark.ros
FRAMES, MASKS = "/front/image_raw", "/front/segmentation/mask"
LENGTH = 6


@pytest.fixture
def drive(tmp_path, colours):
    """A bag whose labels are the tiny model's answers; frame i is stamped i + 1 s, recorded 0.1 s apart."""
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(LENGTH):
            recorded, stamp_ns = 10**9 + index * 10**8, (index + 1) * 10**9
            bag.write(FRAMES, image_message(colours, "rgb8", stamp_ns), recorded)
            truth = image_message(colours.argmax(axis=2).astype(np.uint8), "mono8", stamp_ns)
            bag.write("/front/ground_truth", truth, recorded)
    return tmp_path / "drive"


@contextmanager
def evaluating(drive, bundle, output, **parameters):
    """The node in this process; reliable, so that no test loses a frame."""
    values = {"bag": str(drive), "model": str(bundle.path), "output": str(output), "qos_reliability": "reliable"}
    overrides = [Parameter(name, value=value) for name, value in (values | parameters).items()]
    with spinning(lambda context: EvaluationNode(context=context, parameter_overrides=overrides)) as node:
        yield node


def segmentation(bundle, **parameters):
    """A real segmentation node in this process."""
    values = {"model": str(bundle.path), "cameras": ["/front"], "qos_reliability": "reliable", "qos_depth": 10}
    overrides = [Parameter(name, value=value) for name, value in (values | parameters).items()]
    return spinning(lambda context: SegmentationNode(context=context, parameter_overrides=overrides))


def player(drive, **parameters):
    """A real player in this process."""
    values = {"bag": str(drive), "topics": [FRAMES], "wait_for_subscribers": 2, "qos_reliability": "reliable"}
    overrides = [Parameter(name, value=value) for name, value in (values | parameters).items()]
    return spinning(lambda context: BagPlayer(context=context, parameter_overrides=overrides))


def command(drive, bundle, output, *more):
    """The arguments of the evaluation node as a process; `more` are parameters such as `offline:=run`."""
    given = [f"bag:={drive}", f"model:={bundle.path}", f"output:={output}", *more]
    return "-m", "transkd_ros.nodes.evaluation", "--ros-args", *(word for one in given for word in ("-p", one))


def message(pixels, sec, encoding):
    image = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels[0].size)
    image.data = array.array("B", pixels.astype(np.uint8).tobytes())
    image.header.stamp.sec = sec
    return image


def refusal(drive, bundle, output, **parameters):
    errors = (ValueError, OSError, CommandError)
    with pytest.raises(errors) as refused, evaluating(drive, bundle, output, **parameters):
        pass
    return str(refused.value)


# ---- what is heard -------------------------------------------------------------------------------


def test_frames_masks_and_drops_are_counted_until_the_player_has_gone(user, drive, tiny_bundle, colours, tmp_path):
    """The segmentation node is played by the test, which answers every second frame."""
    user.listen(Image, FRAMES)
    answers = {sec: colours.argmax(axis=2) for sec in (1, 3, 5)}
    drops = DiagnosticStatus(name="segmentation_node: /front", values=[KeyValue(key="dropped superseded", value="3")])
    with evaluating(drive, tiny_bundle, tmp_path / "out") as node:
        masks = user.node.create_publisher(Image, MASKS, 10)
        wait_until(masks.get_subscription_count, "the evaluation")
        for sec in range(1, LENGTH + 1):
            user.send(FRAMES, message(colours, sec, "rgb8"))
            wait_until(lambda sec=sec: node.account().recordings["/front"].sent.get(sec * 10**9), f"frame {sec}")
            if sec in answers:
                masks.publish(message(answers[sec], sec, "mono8"))
        user.send("/diagnostics", DiagnosticArray(status=[drops]))
        wait_until(lambda: node.account().diagnostics, "the diagnostics")
        assert not node.finished
        user.stop_sending(FRAMES)
        wait_until(lambda: node.finished, "the end")
    conclude(node.account(), tmp_path / "out", "")
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    counts = result["live"]["cameras"]["/front"]
    assert [counts[key] for key in ("in_bag", "sent", "answered", "never_answered")] == [LENGTH, LENGTH, 3, 3]
    assert result["live"]["dropped_by_the_node"] == {"/front": {"superseded": 3}}
    assert result["models"]["tiny live"]["total"]["miou"] == 1.0
    assert result["live"]["gap"]["latency_p50_ms"]["live"] > 0
    assert result["partial"] is None


def test_a_mask_that_cannot_be_read_is_passed_over(user, drive, tiny_bundle, colours, tmp_path, capfd):
    with evaluating(drive, tiny_bundle, tmp_path / "out") as node:
        broken = message(colours.argmax(axis=2), 1, "mono8")
        broken.step = 1
        user.send(MASKS, broken)
        user.send(MASKS, message(colours.argmax(axis=2), 2, "mono8"))
        wait_until(lambda: node.account().recordings["/front"].answered, "a mask")
        assert list(node.account().recordings["/front"].answered) == [2 * 10**9]
    assert "a mask cannot be read" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_bag_through_the_real_nodes_is_scored_live_and_offline(drive, tiny_bundle, tmp_path):
    arguments = command(drive, tiny_bundle, tmp_path / "out", "offline:=run", "qos_reliability:=reliable")
    playing = ("-p", f"bag:={drive}", "-p", f"topics:=[{FRAMES}]", "-p", "qos_reliability:=reliable")
    with segmentation(tiny_bundle), process(*arguments) as child, client() as user:
        wait_until(lambda: user.node.count_subscribers(FRAMES) == 2, "segmentation and evaluation")
        with process("-m", "transkd_ros.nodes.bag_player", "--ros-args", *playing, "-p", "wait_for_subscribers:=2"):
            output, errors = child.communicate(timeout=4 * DEADLINE)  # two pages, one in a process of its own
    assert child.returncode == 0, errors
    assert READY in errors
    assert f"{LENGTH} of {LENGTH} frames answered, mIoU 100.0 %" in output
    assert str(tmp_path / "out" / "report.html") in output
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    gap = result["live"]["gap"]
    for score in ("answered", "miou", "boundary_f1"):
        assert gap[score] == {"live": 1.0, "offline": 1.0}
    assert gap["latency_p50_ms"]["live"] > 0 and gap["latency_p50_ms"]["offline"] > 0
    assert result["models"]["tiny live"]["engine"] == json.loads(
        (tmp_path / "out" / "offline" / "metrics.json").read_text()
    )["models"]["tiny"]["engine"]  # fmt: skip
    assert "infer" in result["live"]["node_stages_ms"]


# ---- how it ends ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_stopped_underway_it_writes_what_it_heard(drive, tiny_bundle, tmp_path):
    arguments = command(drive, tiny_bundle, tmp_path / "out")
    with segmentation(tiny_bundle), client() as user, process(*arguments) as child:
        masks = user.listen(Image, MASKS)
        wait_until(lambda: user.node.count_subscribers(MASKS) == 2, "the evaluation")
        with player(drive, loop=True):
            wait_until(lambda: len(masks) > 4 * LENGTH, "masks, of which the evaluation may miss the first")
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["partial"] == "Stopped before the end of the bag."
    assert result["live"]["cameras"]["/front"]["answered"] > 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_stopped_before_the_first_mask_it_leaves_nothing(drive, tiny_bundle, tmp_path):
    with client() as user, process(*command(drive, tiny_bundle, tmp_path / "out")) as child:
        wait_until(lambda: user.node.count_subscribers(MASKS), "the evaluation")
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []


def test_without_a_segmentation_node_it_ends_with_one_line_and_code_2(drive, tiny_bundle, tmp_path):
    arguments = command(drive, tiny_bundle, tmp_path / "out", "start_timeout:=0.5")
    with process(*arguments) as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line == "error: no active segmentation node of /front within 0.5 s" and "Traceback" not in errors


def test_a_segmentation_node_that_does_not_start_is_named_with_its_reason(drive, tiny_bundle, tmp_path):
    arguments = command(drive, tiny_bundle, tmp_path / "out")
    gone = str(tmp_path / "gone")
    with segmentation(tiny_bundle, model=gone, diagnostics_period=0.1), process(*arguments) as child:
        _, errors = child.communicate(timeout=DEADLINE)
    assert child.returncode == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "the segmentation node does not start" in line and gone in line


def test_what_it_cannot_start_with_is_refused_by_name(drive, tiny_bundle, tmp_path):
    def refused(**parameters):
        return refusal(drive, tiny_bundle, tmp_path / "out", **parameters)

    assert "set the parameter bag" in refused(bag="")
    assert "no such bag" in refused(bag=str(tmp_path / "gone"))
    assert f"its image topics: /front/ground_truth, {FRAMES}" in refused(topics=["/rear"])
    assert "no model 'gone'" in refused(model="gone")
    assert "no such folder" in refused(labels=str(tmp_path / "gone"))
    assert "gone.json" in refused(offline=str(tmp_path / "gone.json"))
    assert not (tmp_path / "out").exists()
