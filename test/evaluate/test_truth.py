"""Every frame gets its own label, by stamp or by order, or none; one that cannot be used is told and stops no other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.evaluate import bag_cameras
from transkd_ros.evaluate.truth import FolderTruth, LabelError, TopicTruth, TruthError
from transkd_ros.model.labels import LabelTable

TOPIC = "/front/ground_truth"


def label(value: int) -> np.ndarray:
    return np.full((4, 6), value, np.uint8)


def png(value: int) -> bytes:
    return cv2.imencode(".png", label(value))[1].tobytes()


def write_labels(path: Path, stamps: list[int], compressed: bool = False) -> Path:
    """A bag of labels recorded in this order; the n-th one's pixels have the value n."""
    with BagWriter(path) as bag:
        for index, stamp in enumerate(stamps):
            if compressed:
                message = compressed_message(png(index), "png", stamp)
            else:
                message = image_message(label(index), "mono8", stamp)
            bag.write(TOPIC, message, stamp_ns=index)
    return path


def found(path: Path, asked: list[int]) -> list[int | None]:
    """The value of the label that each stamp gets."""
    with BagReader(path) as bag:
        truth = TopicTruth(bag, TOPIC)
        masks = [truth.mask(index, stamp) for index, stamp in enumerate(asked)]
    return [None if mask is None else int(mask[0, 0]) for mask in masks]


# ---- a topic -------------------------------------------------------------------------------------
@pytest.mark.parametrize("compressed", [False, True], ids=["mono8", "png"])
def test_frames_get_the_label_of_their_stamp_and_others_none(tmp_path, compressed):
    bag = write_labels(tmp_path / "bag", [10, 20, 30, 40], compressed)
    assert found(bag, [10, 15, 20, 40, 50]) == [0, None, 1, 3, None]


def test_sparse_labels_wait_for_their_frames_however_long_it_takes(tmp_path):
    bag = write_labels(tmp_path / "bag", list(range(0, 3000, 100)))
    masks = found(bag, list(range(3000)))
    assert [stamp for stamp, mask in enumerate(masks) if mask is not None] == list(range(0, 3000, 100))


def test_labels_without_frames_are_passed_over_however_many(tmp_path):
    bag = write_labels(tmp_path / "bag", list(range(200)))
    assert found(bag, [150, 151, 199]) == [150, 151, 199]


def test_labels_and_frames_in_another_order_still_meet(tmp_path):
    bag = write_labels(tmp_path / "bag", [10, 30, 20, 40])
    assert found(bag, [20, 10, 40, 30]) == [2, 0, 3, 1]


def test_stamps_that_start_again_get_the_labels_of_the_second_run(tmp_path):
    stamps = list(range(0, 40))
    bag = write_labels(tmp_path / "bag", stamps + stamps)
    assert found(bag, stamps[:20] + stamps) == [*range(20), *range(40, 80)]


def test_labels_in_the_colours_of_their_class_table_are_read_by_them(tmp_path):
    table = LabelTable(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
    picture = cv2.imencode(".png", table.colorize(label(1))[..., ::-1])[1].tobytes()
    with BagWriter(tmp_path / "bag") as bag:
        bag.write(TOPIC, compressed_message(picture, "png", 5))
    with BagReader(tmp_path / "bag") as bag:
        assert (TopicTruth(bag, TOPIC, table).mask(0, 5) == 1).all()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.png").write_bytes(picture)
    assert (FolderTruth(tmp_path / "labels", 1, table).mask(0, 5) == 1).all()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (image_message(np.zeros((4, 6, 3), np.uint8), "rgb8", 5), "encoding rgb8"),
        (compressed_message(b"\xff\xd8\xff\xd9", "jpeg", 5), "not PNG"),
        (compressed_message(b"\x89PNG\r\n\x1a\n", "png", 5), "neither an 8-bit image of class ids"),
        (
            compressed_message(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes(), "png", 5),
            "neither an 8-bit image of class ids",
        ),
    ],
)
def test_a_label_that_holds_no_class_ids_says_so(tmp_path, message, complaint):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write(TOPIC, message)
    with BagReader(tmp_path / "bag") as reader, pytest.raises(LabelError, match=complaint):
        TopicTruth(reader, TOPIC).mask(0, 5)


# ---- a folder ------------------------------------------------------------------------------------
def write_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / f"{name}.png").write_bytes(png(index))
    return folder


def test_label_images_numbered_with_ten_digits_are_no_stamps(tmp_path):
    truth = FolderTruth(write_folder(tmp_path / "labels", [f"{index:010}" for index in range(3)]), frames=3)
    assert [int(truth.mask(index, 1_305_031_102_000_000_000 + index)[0, 0]) for index in range(3)] == [0, 1, 2]


def test_label_images_called_by_stamps_are_found_by_stamp(tmp_path):
    folder = write_folder(tmp_path / "labels", ["1305031102175304000", "1305031103.5"])
    truth = FolderTruth(folder, frames=900)
    assert truth.mask(7, 1305031102_175304000)[0, 0] == 0
    assert truth.mask(8, 1305031103_500000000)[0, 0] == 1
    assert truth.mask(0, 1305031104_000000000) is None
    assert truth.first_stamp == 1305031102_175304000


def test_label_images_of_other_names_are_taken_in_order_one_for_each_frame(tmp_path):
    folder = write_folder(tmp_path / "labels", ["000001", "000002", "000005"])
    truth = FolderTruth(folder, frames=3)
    assert [int(truth.mask(index, 0)[0, 0]) for index in range(3)] == [0, 1, 2]
    with pytest.raises(TruthError, match="3 labels for 4 frames"):
        FolderTruth(folder, frames=4)


def test_a_broken_label_image_says_so_and_a_folder_without_any_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "labels", ["a", "b"])
    (folder / "a.png").write_bytes(b"no image")
    truth = FolderTruth(folder, frames=2)
    with pytest.raises(LabelError, match="8-bit"):
        truth.mask(0, 0)
    assert truth.mask(1, 0) is not None
    with pytest.raises(ImageFolderError):
        FolderTruth(tmp_path / "gone", frames=2)


# ---- cameras and their labels --------------------------------------------------------------------
@pytest.fixture
def bag(tmp_path: Path):
    """Two cameras, one recorded both ways, each with labels, and the masks of an earlier run."""
    with BagWriter(tmp_path / "bag") as writer:
        image = image_message(np.zeros((4, 6, 3), np.uint8), "rgb8", 1)
        for topic in ("/front/image_raw", "/cam/rear/image_raw"):
            writer.write(topic, image)
        writer.write("/front/image_raw/compressed", compressed_message(b"", "png", 1))
        for topic in (TOPIC, "/cam/rear/ground_truth", "/cam/rear/teacher_labels", "/front/segmentation/mask"):
            writer.write(topic, image_message(label(0), "mono8", 1))
    with BagReader(tmp_path / "bag") as reader:
        yield reader


def chosen(found: list[bag_cameras.Camera]) -> list[tuple[str, str, str | None]]:
    return [(camera.name, camera.topic, camera.label_topic) for camera in found]


def test_every_camera_is_taken_once_with_the_labels_below_its_name(bag):
    topics = ["/front/image_raw", "/cam/rear/image_raw"]
    assert chosen(bag_cameras.choose(bag, topics)) == [
        ("/front", "/front/image_raw", TOPIC),
        ("/cam/rear", "/cam/rear/image_raw", "/cam/rear/ground_truth"),
    ]
    assert {camera.topic for camera in bag_cameras.choose(bag, None)} >= set(topics)
    assert not {"/front/image_raw/compressed", TOPIC, "/front/segmentation/mask"} & {
        camera.topic for camera in bag_cameras.choose(bag, None)
    }


def test_labels_asked_for_by_topic_or_by_name_go_to_their_camera(bag):
    topics = ["/front/image_raw", "/cam/rear/image_raw"]
    for name in ("/cam/rear/teacher_labels", "teacher_labels"):
        assert [camera.label_topic for camera in bag_cameras.choose(bag, topics, name)] == [
            None,
            "/cam/rear/teacher_labels",
        ]
    only = bag_cameras.choose(bag, ["/front/image_raw/compressed"], "/cam/rear/teacher_labels")
    assert chosen(only) == [("/front", "/front/image_raw/compressed", "/cam/rear/teacher_labels")]


@pytest.mark.parametrize(("topics", "labels"), [(["/nope"], None), (None, "/nope"), (["/front/image_raw"], "nope")])
def test_a_topic_that_is_not_there_is_answered_with_those_that_are(bag, topics, labels):
    with pytest.raises((BagError, TruthError), match=r"nope.*/cam/rear/teacher_labels"):
        bag_cameras.choose(bag, topics, labels)


def test_label_folders_of_several_cameras_have_the_names_of_the_cameras(bag, tmp_path):
    topics = ["/front/image_raw", "/cam/rear/image_raw"]
    write_folder(tmp_path / "labels" / "front", ["a"])
    with pytest.raises(TruthError, match=r"cam/rear: no such folder"):
        bag_cameras.choose(bag, topics, label_folder=tmp_path / "labels")
    write_folder(tmp_path / "labels" / "cam" / "rear", ["a"])
    folders = [camera.label_folder for camera in bag_cameras.choose(bag, topics, label_folder=tmp_path / "labels")]
    assert folders == [tmp_path / "labels" / "front", tmp_path / "labels" / "cam" / "rear"]
    (single,) = bag_cameras.choose(bag, topics[1:], label_folder=tmp_path / "labels" / "front")
    assert single.label_folder == tmp_path / "labels" / "front"
