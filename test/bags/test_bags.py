"""Bags survive the round trip through both storages, damaged ones end in one line, half ones never show."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from transkd_ros.bags.conversion import from_images
from transkd_ros.bags.label_classes import read_classes
from transkd_ros.bags.messages import (
    IMAGE,
    STORE,
    STRING,
    compressed_message,
    header_stamp,
    image_message,
    serialize,
)
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.model.labels import LabelTable

STORAGES = ("mcap", "sqlite3")
SECOND = 1_000_000_000


def frame(index: int) -> np.ndarray:
    return np.full((24, 32, 3), index, np.uint8)


def write_bag(path: Path, storage: str = "mcap", count: int = 5) -> Path:
    with BagWriter(path, storage) as bag:
        for index in range(count):
            bag.write("/front/image_raw", image_message(frame(index), "bgr8", index * SECOND + 7))
    return path


def image_folders(root: Path, count: int = 3, suffix: str = ".png") -> tuple[Path, Path]:
    images, labels = root / "images", root / "labels"
    images.mkdir()
    labels.mkdir()
    for index in reversed(range(count)):
        cv2.imwrite(str(images / f"f{index}{suffix}"), frame(index))
        cv2.imwrite(str(labels / f"f{index}.png"), frame(index)[..., 0])
    return images, labels


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transkd_ros.bags", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


# ------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("storage", STORAGES)
def test_raw_frames_and_stamps_survive_the_round_trip(tmp_path, storage):
    with BagReader(write_bag(tmp_path / "bag", storage)) as bag:
        assert bag.topics == {"/front/image_raw": IMAGE}
        assert bag.counts == {"/front/image_raw": 5}
        assert bag.duration == pytest.approx(4.0)
        for index, (stamp_ns, message) in enumerate(bag.frames("/front/image_raw")):
            assert stamp_ns == header_stamp(message) == index * SECOND + 7
            assert (message.height, message.width, message.encoding, message.step) == (24, 32, "bgr8", 96)
            np.testing.assert_array_equal(message.data.reshape(24, 32, 3), frame(index))
    assert index == 4


@pytest.mark.parametrize("storage", STORAGES)
def test_compressed_frames_survive_byte_for_byte(tmp_path, storage):
    data = cv2.imencode(".jpg", frame(9))[1].tobytes()
    with BagWriter(tmp_path / "bag", storage) as bag:
        bag.write("/c/image_raw/compressed", compressed_message(data, "jpeg", 5, "lens"), stamp_ns=6)
    with BagReader(tmp_path / "bag") as bag:
        ((stamp_ns, message),) = bag.frames("/c/image_raw/compressed")
    assert stamp_ns == 6 and header_stamp(message) == 5
    assert (message.format, message.header.frame_id) == ("jpeg", "lens")
    assert message.data.tobytes() == data


@pytest.mark.parametrize("storage", STORAGES)
def test_a_single_storage_file_opens_without_its_folder(tmp_path, storage):
    (file,) = (p for p in write_bag(tmp_path / "bag", storage).iterdir() if p.name != "metadata.yaml")
    with BagReader(file) as bag:
        assert len(list(bag.frames("/front/image_raw"))) == 5


def test_start_and_stop_bound_the_stamps_half_open(tmp_path):
    with BagReader(write_bag(tmp_path / "bag")) as bag:
        stamps = [stamp for stamp, _ in bag.frames("/front/image_raw", SECOND + 7, 3 * SECOND + 7)]
    assert stamps == [SECOND + 7, 2 * SECOND + 7]


@pytest.mark.parametrize("storage", STORAGES)
def test_frames_are_read_as_they_are_asked_for(tmp_path, storage, monkeypatch):
    decoded = []
    deserialize = STORE.deserialize_cdr
    monkeypatch.setattr(
        STORE, "deserialize_cdr", lambda *args: decoded.append(1) or deserialize(*args), raising=False
    )
    with BagReader(write_bag(tmp_path / "bag", storage, 20)) as bag:
        assert len(list(islice(bag.frames("/front/image_raw"), 3))) == 3
    assert len(decoded) == 3


def test_the_metadata_is_of_the_version_that_humble_and_later_read(tmp_path):
    text = (write_bag(tmp_path / "bag") / "metadata.yaml").read_text()
    assert "version: 8" in text and "offered_qos_profiles: ''" in text


def test_a_frame_serialized_with_a_new_stamp_keeps_everything_else():
    message = image_message(frame(3), "rgb8", 5, "lens")
    data = serialize(message, 2 * SECOND + 1)
    copy = STORE.deserialize_cdr(data, IMAGE)
    assert header_stamp(copy) == 2 * SECOND + 1 and copy.header.frame_id == "lens"
    np.testing.assert_array_equal(copy.data, message.data)


# ------------------------------------------------------------------------------------------ bad bags


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(BagError, match="nowhere: no such bag"):
        BagReader(tmp_path / "nowhere")


def test_what_is_not_a_bag_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no bag")
    with pytest.raises(BagError, match="not a bag"):
        BagReader(tmp_path / "notes.txt")
    with pytest.raises(BagError, match=r"no metadata\.yaml"):
        BagReader(tmp_path)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_without_messages_is_called_empty(tmp_path, storage):
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        writer.add_connection("/camera/image_raw", IMAGE, typestore=STORE)
    with pytest.raises(BagError, match="empty"):
        BagReader(tmp_path / "bag")


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_a_storage_file_of_no_or_foreign_bytes_is_refused(tmp_path, suffix):
    for content in (b"", b"no bag at all " * 100):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        with pytest.raises(BagError, match="damaged"):
            BagReader(path)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_storage_ends_in_a_bag_error(tmp_path, storage, kept):
    folder = write_bag(tmp_path / "bag", storage, 40)
    (file,) = (p for p in folder.iterdir() if p.name != "metadata.yaml")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BagError, match="damaged") as caught, BagReader(folder) as bag:
        list(bag.frames("/front/image_raw"))
    assert "\n" not in str(caught.value)


def test_messages_that_rosbags_passes_over_are_missed(tmp_path):
    folder = write_bag(tmp_path / "bag", "sqlite3", 40)
    (file,) = folder.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM messages WHERE id % 2 = 0")
    with BagReader(folder) as bag:
        for read in (bag.frames("/front/image_raw"), bag.messages(["/front/image_raw"])):
            with pytest.raises(BagError, match="damaged, only 20 of 40 messages of /front/image_raw can be read"):
                list(read)
        assert len(list(islice(bag.frames("/front/image_raw"), 20))) == 20


def test_broken_metadata_ends_in_a_bag_error(tmp_path):
    folder = write_bag(tmp_path / "bag")
    for content in ("", "[1, 2", "rosbag2_bagfile_information: {version: 99}"):
        (folder / "metadata.yaml").write_text(content)
        with pytest.raises(BagError, match="damaged"):
            BagReader(folder)


def test_a_missing_topic_error_lists_the_image_topics(tmp_path):
    with BagReader(write_bag(tmp_path / "bag")) as bag, pytest.raises(BagError, match="/front/image_raw"):
        bag.frames("/back/image_raw")


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("storage", STORAGES)
def test_an_interrupted_writer_leaves_nothing_behind(tmp_path, storage):
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / "bag", storage) as bag:
        bag.write("/c/image_raw", image_message(frame(1), "bgr8", 1))
        assert not (tmp_path / "bag").exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_bag_under_the_final_name(tmp_path):
    code = (
        "import os, signal, sys, numpy as np\n"
        "from transkd_ros.bags.messages import image_message\n"
        "from transkd_ros.bags.storage import BagWriter\n"
        "with BagWriter(sys.argv[1]) as bag:\n"
        "    bag.write('/c/image_raw', image_message(np.zeros((9, 9), np.uint8), 'mono8', 1))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bag")], timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_an_existing_bag_is_kept_unless_overwriting_is_asked_for(tmp_path):
    path = write_bag(tmp_path / "bag", count=2)
    with pytest.raises(BagError, match="exists already"):
        BagWriter(path)
    with pytest.raises(ValueError, match="stop"), BagWriter(path, overwrite=True):
        raise ValueError("stop")
    with BagReader(path) as bag:
        assert bag.counts == {"/front/image_raw": 2}
    with BagWriter(path, overwrite=True) as writer:
        writer.write("/front/image_raw", image_message(frame(1), "bgr8", 1))
    with BagReader(path) as bag:
        assert bag.counts == {"/front/image_raw": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot be written"), BagWriter(tmp_path / "file" / "bag"):
        pass


# ------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize("storage", STORAGES)
def test_from_images_copies_files_and_pairs_labels_by_stamp(tmp_path, storage):
    images, labels = image_folders(tmp_path)
    output = tmp_path / "new" / "bag"
    options = ("--labels", labels, "--output", output, "--rate", 4, "--storage", storage)
    result = cli("from-images", images, *options)
    assert result.returncode == 0, result.stderr
    with BagReader(output) as bag:
        frames = list(bag.frames("/camera/image_raw/compressed"))
        masks = list(bag.frames("/camera/ground_truth"))
    assert [stamp for stamp, _ in frames] == [SECOND, SECOND + SECOND // 4, SECOND + SECOND // 2]
    assert [header_stamp(m) for _, m in frames] == [header_stamp(m) for _, m in masks]
    for index, ((_, message), (_, mask)) in enumerate(zip(frames, masks, strict=True)):
        assert message.data.tobytes() == (images / f"f{index}.png").read_bytes()
        assert mask.encoding == "mono8" and set(mask.data.tolist()) == {index}


@pytest.mark.parametrize("storage", STORAGES)
def test_the_names_of_the_labels_classes_travel_on_a_latched_topic(tmp_path, storage):
    images, labels = image_folders(tmp_path)
    table = LabelTable(("road", "car", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), ignore_id=250)
    bag = tmp_path / "bag"
    from_images(images, bag, labels, storage=storage, classes=table)
    (file,) = (p for p in bag.iterdir() if p.name != "metadata.yaml")
    for path in (bag, file):  # a storage file keeps them without its folder
        with BagReader(path) as reader:
            assert read_classes(reader, "/camera/ground_truth") == table
            assert reader.latched_topics == {"/camera/ground_truth/classes"}
            assert reader.counts["/camera/ground_truth/classes"] == 1
            assert reader.camera_topics() == ["/camera/image_raw/compressed"]
            assert read_classes(reader, "/front/ground_truth") is None


def test_from_images_refuses_labels_that_its_class_table_does_not_know(tmp_path):
    images, labels = image_folders(tmp_path)
    table = tmp_path / "table.yaml"
    table.write_text("classes: [{id: 0, name: a, color: [0, 0, 1]}, {id: 1, name: b, color: [0, 0, 2]}]")
    result = cli("from-images", images, "--labels", labels, "--classes", table, "--output", tmp_path / "bag")
    assert_one_line_error(result, "f2.png", "ids [2] are no classes")
    result = cli("from-images", images, "--labels", labels, "--classes", "camvid", "--output", tmp_path / "bag")
    assert result.returncode == 0 and "note" not in result.stdout
    result = cli("from-images", images, "--labels", labels, "--output", tmp_path / "other")
    assert "does not say of which classes" in result.stdout


def test_a_topic_that_holds_no_class_table_is_named(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/c/ground_truth/classes", STORE.types[STRING](data="[1]"), 1)
    with BagReader(tmp_path / "bag") as bag, pytest.raises(BagError, match="/c/ground_truth/classes holds no class"):
        read_classes(bag, "/c/ground_truth")


def test_from_images_raw_decodes_any_format(tmp_path):
    images, _ = image_folders(tmp_path, suffix=".bmp")
    result = cli("from-images", images, "--output", tmp_path / "bag", "--raw", "--camera", "/front/")
    assert result.returncode == 0, result.stderr
    with BagReader(tmp_path / "bag") as bag:
        assert [m.encoding for _, m in bag.frames("/front/image_raw")] == ["bgr8"] * 3


def test_from_images_names_the_frame_without_a_label_and_leaves_no_bag(tmp_path):
    images, labels = image_folders(tmp_path)
    (labels / "f1.png").unlink()
    result = cli("from-images", images, "--labels", labels, "--output", tmp_path / "bag")
    assert_one_line_error(result, "no label", "f1.png")
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize(
    ("label", "words"),
    [(np.zeros((24, 31), np.uint8), "31x24"), (np.zeros((24, 32, 3), np.uint8), "single-channel")],
)
def test_from_images_refuses_a_label_that_does_not_fit_its_image(tmp_path, label, words):
    images, labels = image_folders(tmp_path)
    cv2.imwrite(str(labels / "f2.png"), label)
    result = cli("from-images", images, "--labels", labels, "--output", tmp_path / "bag")
    assert_one_line_error(result, "f2.png", words)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels"}


def test_from_images_names_a_broken_image(tmp_path):
    images, _ = image_folders(tmp_path)
    (images / "f1.png").write_bytes(b"")
    assert_one_line_error(cli("from-images", images, "--output", tmp_path / "bag"), "f1.png")


def test_from_images_of_no_images_and_a_bad_rate_end_with_code_2(tmp_path):
    assert_one_line_error(cli("from-images", tmp_path, "--output", tmp_path / "bag"), "holds no images")
    assert_one_line_error(cli("from-images", tmp_path / "gone", "--output", tmp_path / "bag"), "gone")
    assert cli("from-images", tmp_path, "--output", tmp_path / "bag", "--rate", 0).returncode == 2


@pytest.mark.parametrize("camera", ["", "a b", "front//left", "2nd"])
def test_from_images_refuses_a_camera_that_no_topic_can_be_called(tmp_path, camera):
    images, _ = image_folders(tmp_path, 1)
    result = cli("from-images", images, "--camera", camera, "--output", tmp_path / "bag")
    assert result.returncode == 2 and "not a ROS name" in result.stderr
    assert not (tmp_path / "bag").exists()


def test_info_lists_topics_and_counts(tmp_path):
    result = cli("info", write_bag(tmp_path / "bag"))
    assert result.returncode == 0
    assert "/front/image_raw" in result.stdout and "5 messages" in result.stdout
    assert_one_line_error(cli("info", tmp_path / "gone"), "no such bag")
