"""Sources hand out the frames they promise, each with its own ground truth or none."""

from __future__ import annotations

from itertools import count, islice

import cv2
import numpy as np
import pytest

from transkd_ros.bags import video
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.label_classes import write_classes
from transkd_ros.bags.messages import image_message
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.demo import sources
from transkd_ros.model.class_map import ClassTableError
from transkd_ros.model.labels import LabelTable

SECOND = 1_000_000_000


def frame(value: int) -> np.ndarray:
    return np.full((8, 10, 3), value, np.uint8)


def write_bag(path, frames=(), masks=(), camera="/front", others=()):
    with BagWriter(path) as bag:
        for stamp in sorted({*frames, *masks}):
            if stamp in frames:
                bag.write(f"{camera}/image_raw", image_message(frame(stamp), "bgr8", stamp * SECOND))
            if stamp in masks:
                mask = image_message(frame(stamp)[..., 0], "mono8", stamp * SECOND)
                bag.write(f"{camera}/ground_truth", mask)
        for topic in others:
            bag.write(topic, image_message(frame(1), "bgr8", SECOND))
    return path


def test_scenes_come_in_the_size_and_number_asked_for():
    source = sources.scenes(3, size=(64, 96))
    shots = list(source.shots())
    assert (len(shots), source.length, source.compressed) == (3, 3, False)
    assert shots[0].message.height == 64 and shots[0].truth.shape == (64, 96)
    assert next(sources.scenes(1, size=(64, 96), labelled=False).shots()).truth is None


def test_a_bag_frame_gets_the_mask_of_its_stamp_and_never_a_neighbours(tmp_path):
    source = sources.bag(write_bag(tmp_path / "bag", frames=(2, 4, 5, 7), masks=(1, 2, 3, 5, 6)))
    truths = [None if s.truth is None else int(s.truth[0, 0]) for s in source.shots()]
    assert truths == [2, None, 5, None]
    assert (source.camera, source.length) == ("/front", 4)


def test_the_ground_truth_of_a_source_is_scored_as_the_model_s_classes_of_the_same_names(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    cv2.imwrite(str(tmp_path / "i" / "1.png"), frame(1))
    cv2.imwrite(str(tmp_path / "l" / "1.png"), frame(1)[..., 0])
    table = LabelTable(("sky", "road", "bus"), ((1, 1, 0), (2, 2, 0), (3, 3, 0)))
    model = LabelTable(("road", "car"), ((1, 1, 1), (2, 2, 2)))
    source, mapping = sources.images(tmp_path / "i", tmp_path / "l", table).scored_as(model, "m")
    (shot,) = source.shots()
    assert (shot.truth == 0).all()  # their class 1 is the model's class 0
    assert mapping.scored.tolist() == [True, False]
    with pytest.raises(ClassTableError, match="no class in common"):
        source.scored_as(LabelTable(("tree",), ((1, 1, 1),)), "m")
    cv2.imwrite(str(tmp_path / "l" / "1.png"), frame(7)[..., 0])
    with pytest.raises(ImageFolderError, match=r"ids \[7\] are no classes"):
        list(source.shots())


def test_a_bag_s_own_class_table_names_its_ground_truth(tmp_path):
    table = LabelTable(("sky", "road"), ((1, 1, 0), (2, 2, 0)))
    path = write_bag(tmp_path / "bag", frames=(1, 2), masks=(1, 2))
    assert sources.bag(path).classes is None
    with BagReader(path) as old, BagWriter(tmp_path / "named") as new:
        write_classes(new, "/front/ground_truth", table, old.start)
        for topic in old.topics:
            for stamp, message in old.frames(topic):
                new.write(topic, message, stamp)
    assert sources.bag(tmp_path / "named").classes == table


def test_a_bag_keeps_its_rate_and_can_be_played_again(tmp_path):
    source = sources.bag(write_bag(tmp_path / "bag", frames=(1, 2, 3, 4, 5)))
    assert source.rate == pytest.approx(1.0)
    assert len(list(source.shots())) == len(list(source.shots())) == 5


def test_a_bag_of_one_frame_has_a_rate(tmp_path):
    assert sources.bag(write_bag(tmp_path / "bag", frames=(1,))).rate == 1.0


def test_a_bag_of_several_cameras_asks_for_the_topic(tmp_path):
    path = write_bag(tmp_path / "bag", frames=(1,), others=("/back/camera/image_raw", "/view"))
    with pytest.raises(BagError, match=r"/back/camera/image_raw, /front/image_raw, /view"):
        sources.bag(path)
    assert sources.bag(path, "/back/camera/image_raw").camera == "/back/camera"
    assert sources.bag(path, "/view").camera == "/camera"
    with pytest.raises(BagError, match="no topic /side"):
        sources.bag(path, "/side")


def test_a_folder_of_jpeg_and_png_travels_compressed_and_others_raw(tmp_path):
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "1.png"), frame(1))
    cv2.imwrite(str(tmp_path / "a" / "2.jpg"), frame(2))
    source = sources.images(tmp_path / "a")
    assert source.compressed and [s.message.format for s in source.shots()] == ["png", "jpeg"]
    cv2.imwrite(str(tmp_path / "a" / "3.bmp"), frame(3))
    source = sources.images(tmp_path / "a")
    assert not source.compressed and [s.message.encoding for s in source.shots()] == ["bgr8"] * 3


def test_a_webcam_goes_on_until_nobody_asks(monkeypatch):
    monkeypatch.setattr(video, "rate_of", lambda number: 30.0)
    monkeypatch.setattr(video, "frames_of", lambda number: (frame(number) for _ in count()))
    source = sources.webcam(3)
    assert (source.rate, source.length, source.compressed) == (30.0, sources.ENDLESS, False)
    assert [shot.message.encoding for shot in islice(source.shots(), 4)] == ["bgr8"] * 4


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ImageFolderError, match="no images"):
        sources.images(tmp_path)
