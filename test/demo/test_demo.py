"""The demo plays a real ROS graph to its end, scores it, and ends cleanly when it cannot or may not go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from transkd_ros.bags.conversion import from_images

pytest.importorskip("rclpy", reason="the demo is a ROS 2 graph")

pytestmark = pytest.mark.ros
ENVIRONMENT = os.environ | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "transkd_ros.demo", *map(str, arguments)]


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, env=ENVIRONMENT, check=False
    )


def results(output: Path) -> dict:
    return json.loads((output / "timing.json").read_text())


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Frames whose brightest channel, the class that the tiny bundle answers, is known for every pixel."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for index in range(4):
        label = np.full((64, 96), index % 3, np.uint8)
        label[:, 48:] = (index + 1) % 3
        rgb = np.where(np.arange(3) == label[..., None], 200, 20).astype(np.uint8)
        cv2.imwrite(str(images / f"{index}.png"), rgb[..., ::-1])
        label[:8] = 255
        cv2.imwrite(str(labels / f"{index}.png"), label)
    return images, labels


def test_every_rendered_frame_is_answered_and_shown(tmp_path, tiny_bundle):
    result = demo("--model", tiny_bundle.path, "--frames", 6, "--size", "320x240", "--output", tmp_path / "new")
    assert result.returncode == 0, result.stdout + result.stderr
    report = results(tmp_path / "new")
    assert report["frames"] == {"sent": 6, "answered": 6, "dropped": 0}
    assert report["end_to_end_ms"]["count"] == 6
    assert {"decode", "resize", "infer", "publish", "total"} <= set(report["stages_ms"])
    assert report["node"]["engine"] and report["machine"]["cpus"] and report["versions"]["numpy"]
    assert "quality" not in report  # the scenes' classes are not this model's
    sheet = cv2.imread(str(tmp_path / "new" / "contact_sheet.png"))
    assert sheet is not None and sheet.shape[0] > 4 * 300
    video = cv2.VideoCapture(str(tmp_path / "new" / "overlay.mp4"))
    assert not (tmp_path / "new" / "overlay.mp4").exists() or video.get(cv2.CAP_PROP_FRAME_COUNT) == 6


def test_masks_are_scored_against_the_labels_of_a_folder(tmp_path, tiny_bundle, folders):
    images, labels = folders
    result = demo("--model", tiny_bundle.path, "--images", images, "--labels", labels, "--output", tmp_path / "o")
    assert result.returncode == 0, result.stdout + result.stderr
    quality = results(tmp_path / "o")["quality"]
    assert quality["miou"] == 1.0 and quality["iou"] == {"red": 1.0, "green": 1.0, "blue": 1.0}
    assert "green" in result.stdout and "of the labels (%)" in result.stdout
    assert "The Hz are the player's: it waits for every mask" in result.stdout


@pytest.mark.parametrize("raw", [False, True], ids=["compressed", "raw"])
def test_a_bag_is_replayed_on_its_topic_and_scored(tmp_path, tiny_bundle, folders, raw):
    from_images(folders[0], tmp_path / "bag", folders[1], camera="front", raw=raw)
    result = demo("--model", tiny_bundle.path, "--bag", tmp_path / "bag", "--rate", 5, "--output", tmp_path / "o")
    assert result.returncode == 0, result.stdout + result.stderr
    report = results(tmp_path / "o")
    assert report["frames"]["sent"] == 4
    assert report["frames"]["answered"] + report["frames"]["dropped"] == 4
    assert report["quality"]["miou"] == 1.0
    assert list(report["cameras"]) == ["/front"]


def test_the_demo_plays_its_own_video_and_a_folder_of_other_classes(tmp_path, tiny_bundle, folders):
    images, labels = folders
    table = tmp_path / "table.yaml"
    entries = [{"id": i, "name": n, "color": [i, 9, 9]} for i, n in enumerate(("blue", "red", "green", "sky"))]
    table.write_text(json.dumps({"classes": entries}))
    for path in labels.iterdir():
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.select([ids == 0, ids == 1, ids == 2], [1, 2, 0], 3).astype(np.uint8))
    options = ("--images", images, "--labels", labels, "--classes", table)
    result = demo("--model", tiny_bundle.path, *options, "--output", tmp_path / "o")
    assert result.returncode == 0, result.stdout + result.stderr
    assert results(tmp_path / "o")["quality"]["iou"] == {"red": 1.0, "green": 1.0, "blue": 1.0}
    assert "sky of the labels are no classes of tiny" in " ".join(result.stdout.split())
    video = tmp_path / "o" / "overlay.mp4"
    if not video.exists():
        pytest.skip("this OpenCV writes no MP4")
    result = demo("--model", tiny_bundle.path, "--video", video, "--output", tmp_path / "again")
    assert result.returncode == 0, result.stdout + result.stderr
    assert results(tmp_path / "again")["frames"] == {"sent": 4, "answered": 4, "dropped": 0}
    result = demo("--model", tiny_bundle.path, "--images", video, "--output", tmp_path / "o")
    assert_one_line_error(result, "overlay.mp4", "would replace", "--output")
    assert video.is_file()


def test_labels_of_other_classes_than_the_models_end_with_one_line(tmp_path, tiny_bundle, folders):
    images, labels = folders
    cv2.imwrite(str(labels / "2.png"), np.full((64, 96), 7, np.uint8))
    output = tmp_path / "o"
    result = demo("--model", tiny_bundle.path, "--images", images, "--labels", labels, "--output", output)
    assert_one_line_error(result, "does not fit the model's classes")
    assert [path.name for path in output.iterdir()] == ["node.log"]


def test_a_missing_model_ends_with_one_line_before_anything_starts(tmp_path):
    result = demo("--model", "no_such_model", "--output", tmp_path / "o")
    assert_one_line_error(result, "no_such_model")
    assert not (tmp_path / "o").exists()


def test_a_model_that_the_node_refuses_ends_with_its_reason(tmp_path, tiny_bundle):
    altered = tmp_path / "altered"
    altered.mkdir()
    for file in tiny_bundle.path.iterdir():
        (altered / file.name).write_bytes(file.read_bytes() + b" " * (file.name == "model.onnx"))
    result = demo("--model", altered, "--frames", 2, "--output", tmp_path / "o")
    assert_one_line_error(result, "did not start", "model.onnx")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--labels", "x"),
        ("--bag", "x", "--images", "y"),
        ("--topic", "x"),
        ("--images", "x", "--size", "64x64"),
        ("--video", "0", "--bag", "x"),
        ("--images", "x", "--classes", "camvid"),
    ],
)
def test_options_that_do_not_belong_together_end_with_one_line(arguments):
    assert_one_line_error(demo(*arguments), "--")


def test_a_missing_bag_and_an_unwritable_output_end_with_one_line(tmp_path, tiny_bundle):
    assert_one_line_error(demo("--model", tiny_bundle.path, "--bag", tmp_path / "gone"), "no such bag")
    (tmp_path / "file").write_text("")
    assert_one_line_error(
        demo("--model", tiny_bundle.path, "--output", tmp_path / "file" / "o"), str(tmp_path / "file")
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_stops_the_node_and_keeps_the_results_so_far(tmp_path, tiny_bundle, number, code):
    output = tmp_path / "o"
    arguments = ("--model", tiny_bundle.path, "--frames", 2000, "--size", "320x240", "--output", output)
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        seen = next(line for line in process.stdout if " answered" in line and " 0 answered" not in line)
        child = children_of(process.pid)
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == code
    assert "Traceback" not in seen + rest
    assert results(output)["frames"]["answered"] > 0
    assert (output / "contact_sheet.png").is_file()
    assert not list(output.glob(".*"))
    assert child and not any(Path(f"/proc/{pid}").exists() for pid in child)


def test_a_killed_demo_leaves_no_node_behind(tmp_path, tiny_bundle):
    arguments = ("--model", tiny_bundle.path, "--frames", 2000, "--output", tmp_path / "o")
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        next(line for line in process.stdout if " answered" in line)
        (child,) = children_of(process.pid)
        process.kill()
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def test_a_node_that_dies_ends_the_demo_with_one_line(tmp_path, tiny_bundle):
    arguments = ("--model", tiny_bundle.path, "--frames", 2000, "--output", tmp_path / "o")
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        next(line for line in process.stdout if " answered" in line)
        (child,) = children_of(process.pid)
        os.kill(child, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "node ended" in errors.splitlines()[-1]  # DDS may have complained about the lost peer before
    assert "Traceback" not in errors


def children_of(pid: int) -> list[int]:
    """Process ids of the children, from /proc."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        if text:
            return [int(child) for child in text.split()]
        time.sleep(0.05)
    return []


def is_running(pid: int) -> bool:
    """Whether the process is there and has not ended; a container may have nobody to reap an orphan."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
