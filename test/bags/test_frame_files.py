"""Folders of images and videos come as the frames of one camera, in order, with their labels and rates."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from transkd_ros.bags import video
from transkd_ros.bags.conversion import from_images
from transkd_ros.bags.frame_files import START, FrameFiles
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.messages import header_stamp
from transkd_ros.bags.storage import BagReader
from transkd_ros.frames import decode
from transkd_ros.reports.album import Video

LEVELS = (20, 90, 160, 230)


@pytest.fixture
def drive(tmp_path) -> Path:
    """A video as the demo writes it: frame after frame brighter, 5 Hz."""
    writer = Video(tmp_path / "drive.mp4", 5.0)
    for level in LEVELS:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    path = writer.finish()
    if path is None:
        pytest.skip("this OpenCV writes no MP4")
    return path


def levels(messages) -> list[float]:
    return [float(decode(message).pixels.mean()) for message in messages]


def test_a_video_s_frames_come_in_order_at_its_rate(drive):
    files = FrameFiles(drive)
    messages = [message for message, label in files.shots() if label is None]
    assert (files.rate, files.compressed, files.counts) == (5.0, False, {"/camera/image_raw": 4})
    assert levels(messages) == pytest.approx(LEVELS, abs=6)
    assert [header_stamp(m) - START for m in messages] == [0, 200_000_000, 400_000_000, 600_000_000]
    assert levels(m for _, m in files.frames(files.topic)) == pytest.approx(LEVELS, abs=6)  # and once more


@pytest.mark.parametrize("raw", [False, True])
def test_a_video_becomes_a_bag_at_its_own_rate(tmp_path, drive, raw):
    assert from_images(drive, tmp_path / "bag", camera="front", raw=raw) == 4
    with BagReader(tmp_path / "bag") as bag:
        topic = "/front/image_raw" + ("" if raw else "/compressed")
        assert bag.counts == {topic: 4} and bag.duration == pytest.approx(0.6)
        assert levels(m for _, m in bag.frames(topic)) == pytest.approx(LEVELS, abs=8)


def test_what_is_no_video_is_said(tmp_path, drive):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(ImageFolderError, match=r"broken\.mp4: not a video"):
        FrameFiles(tmp_path / "broken.mp4")
    with pytest.raises(ImageFolderError, match=r"notes\.txt: neither a folder of images nor a video"):
        FrameFiles(tmp_path / "notes.txt")
    with pytest.raises(ImageFolderError, match=r"gone\.mp4: no such folder"):
        FrameFiles(tmp_path / "gone.mp4")
    with pytest.raises(ImageFolderError, match="not to a video"):
        FrameFiles(drive, tmp_path)


def test_a_video_that_does_not_know_its_length_is_counted_when_it_was_read(drive, monkeypatch):
    monkeypatch.setattr(video, "count_of", lambda path: 0)
    files = FrameFiles(drive)
    assert len(list(files.shots())) == files.counts[files.topic] == 4


def test_a_webcam_that_is_not_there_is_said(monkeypatch):
    class Nothing:
        def __init__(self, source):
            assert source == 7

        def isOpened(self):  # noqa: N802 (OpenCV's name)
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Nothing)
    with pytest.raises(ImageFolderError, match="camera 7: no such camera"):
        video.rate_of(7)
