"""`python -m transkd_ros.compare` runs every frame of a bag through both models and leaves what it found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import renamed

from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter

TINY_SIZE = (64, 96)


def command(bag, *arguments):
    return [sys.executable, "-m", "transkd_ros.compare", "--bag", *map(str, (bag, *arguments))]


def compare(bag, *arguments):
    return subprocess.run(command(bag, *arguments), capture_output=True, text=True, check=False)


def results(folder: Path) -> dict:
    return json.loads((folder / "comparison.json").read_text())


def frames(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*TINY_SIZE, 3), np.uint8) for _ in range(count)]


def write_bag(path, raw=(), compressed=(), storage="mcap"):
    """Raw frames and ground truth of /front, JPEGs of /rear: images to compress, or the bytes themselves."""
    with BagWriter(path, storage) as bag:
        for index, pixels in enumerate(raw):
            bag.write("/front/image_raw", image_message(pixels, "rgb8", (index + 1) * 10**9))
            bag.write("/front/ground_truth", image_message(pixels[..., 0], "mono8", (index + 1) * 10**9))
        for index, pixels in enumerate(compressed):
            data = pixels if isinstance(pixels, bytes) else cv2.imencode(".jpg", pixels)[1].tobytes()
            bag.write("/rear/image_raw/compressed", compressed_message(data, "jpeg", (index + 1) * 10**9))
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_frame_of_every_camera_goes_through_both_models(tmp_path, tiny_bundle, storage):
    bag = write_bag(tmp_path / "bag", raw=frames(5), compressed=[*frames(3), b"no image"], storage=storage)
    models = ("--teacher", tiny_bundle.path, "--student", tiny_bundle.path, "--student-size", "192x128")
    result = compare(bag, *models, "--output", tmp_path / "new/out")
    assert result.returncode == 0, result.stderr
    cameras = results(tmp_path / "new/out")["cameras"]
    assert {camera: values["pairs"]["complete"] for camera, values in cameras.items()} == {
        "/front/image_raw": 5,
        "/rear/image_raw/compressed": 3,
    }
    assert cameras["/rear/image_raw/compressed"]["broken frames"] == {"compressed": 1}
    front = cameras["/front/image_raw"]
    assert 0.5 < front["agreement"]["total"]["pixel_accuracy"] < 1  # the student sees a larger picture
    assert front["teacher"]["latency_ms"]["count"] == 5 and front["teacher"]["mean_rate_hz"] > 0
    assert "/front/image_raw" in (tmp_path / "new/out/comparison.html").read_text()
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if "×" in line] == ["/front", "/rear"]  # a line each, of 80 columns
    assert max(map(len, lines[2:-2])) <= 80 and [line.split() for line in lines if "ms" in line and "%" in line]


def test_the_same_model_twice_agrees_with_itself_on_the_topics_and_frames_that_were_asked_for(tmp_path, tiny_bundle):
    bag = write_bag(tmp_path / "bag", raw=frames(5), compressed=frames(2))
    models = ("--teacher", tiny_bundle.path, "--student", tiny_bundle.path)
    result = compare(bag, *models, "--topic", "/front/image_raw", "--frames", 2, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    (camera,) = results(tmp_path / "out")["cameras"].values()
    assert camera["pairs"]["complete"] == 2 and camera["agreement"]["total"]["miou"] == 1.0


def test_a_camera_recorded_raw_and_compressed_is_compared_once(tmp_path):
    with BagWriter(tmp_path / "bag", "mcap") as bag:
        bag.write("/front/image_raw", image_message(frames(1)[0], "rgb8", 1))
        bag.write("/front/image_raw/compressed", compressed_message(b"", "jpeg", 1))
        bag.write("/front/segmentation/mask", image_message(frames(1)[0][..., 0], "mono8", 1))
    with BagReader(tmp_path / "bag") as bag:
        assert bag.chosen_topics(None) == ["/front/image_raw"]


def refused(result, *words):
    assert result.returncode == 2, result.stdout + result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def test_models_of_different_classes_end_with_one_line(tmp_path, tiny_bundle):
    bag = write_bag(tmp_path / "bag", raw=frames(1))
    other = renamed(tiny_bundle, tmp_path / "other", ("red", "sky", "blue"))
    result = compare(bag, "--teacher", tiny_bundle.path, "--student", other.path, "--output", tmp_path / "out")
    refused(result, "only tiny has green; only other has sky")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--topic", "/side/image_raw"), ("no topic /side/image_raw", "/front/image_raw")),
        (("--student-size", "100x64"), ("multiples of 32",)),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(tmp_path, tiny_bundle, arguments, words):
    bag = write_bag(tmp_path / "bag", raw=frames(1))
    models = ("--teacher", tiny_bundle.path, "--student", tiny_bundle.path)
    refused(compare(bag, *models, *arguments, "--output", tmp_path / "out"), *words)


def test_a_bag_without_a_usable_frame_ends_with_one_line(tmp_path, tiny_bundle):
    bag = write_bag(tmp_path / "bag", compressed=[b"one", b"two"])
    models = ("--teacher", tiny_bundle.path, "--student", tiny_bundle.path)
    refused(compare(bag, *models, "--output", tmp_path / "out"), "no frame", "2 are broken")


def test_of_a_bag_that_is_damaged_in_the_middle_the_frames_before_are_compared(tmp_path, tiny_bundle, monkeypatch):
    from transkd_ros.compare import __main__ as main

    bag = write_bag(tmp_path / "bag", raw=frames(5))
    read = BagReader.frames

    def damaged(self, topic):
        yield from islice(read(self, topic), 3)
        raise BagError("damaged from here on")

    monkeypatch.setattr(BagReader, "frames", damaged)
    arguments = command(bag, "--teacher", tiny_bundle.path, "--student", tiny_bundle.path, "--output", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", arguments[2:])
    with pytest.raises(main.cli.CommandError, match="damaged from here on"):
        main.main()
    assert results(tmp_path / "out")["cameras"]["/front/image_raw"]["pairs"]["complete"] == 3


def test_ctrl_c_leaves_what_was_compared(tmp_path, tiny_bundle):
    bag = write_bag(tmp_path / "bag", raw=frames(20))
    code = f"""
import signal, os
from transkd_ros import cli
from transkd_ros.bags.storage import BagReader
from transkd_ros.compare import __main__ as main
read = BagReader.frames
def interrupted(self, topic):
    for index, item in enumerate(read(self, topic)):
        if index == 7:
            os.kill(os.getpid(), signal.{signal.SIGINT.name})
        yield item
BagReader.frames = interrupted
cli.run(main.main)
"""
    arguments = command(bag, "--teacher", tiny_bundle.path, "--student", tiny_bundle.path, "--output", tmp_path / "out")
    result = subprocess.run([sys.executable, "-c", code, *arguments[3:]], capture_output=True, text=True, check=False)
    assert result.returncode == 130 and "Traceback" not in result.stderr
    assert results(tmp_path / "out")["cameras"]["/front/image_raw"]["pairs"]["complete"] == 7
