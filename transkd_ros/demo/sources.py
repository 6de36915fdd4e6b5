"""Where frames to play come from: rendered scenes, a folder of images, a video, a webcam, a bag. No ROS needed.

A source says what its camera is called and how fast it runs, and hands out its frames one by one, as messages
and with the ground truth where there is one. Publishing them is the business of `stand_in_camera`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transkd_ros.bags import video
from transkd_ros.bags.frame_files import FrameFiles
from transkd_ros.bags.label_classes import read_classes
from transkd_ros.bags.messages import COMPRESSED_IMAGE, header_stamp, image_message
from transkd_ros.bags.storage import BagError, BagReader
from transkd_ros.frames import FrameError, decode_image
from transkd_ros.model.class_map import ClassMap, ClassTableError, class_map
from transkd_ros.model.labels import LabelTable
from transkd_ros.scenes import Drive

SCENE_SIZE = (480, 640)  # (height, width)
SCENE_RATE = 10.0  # Hz
ENDLESS = sys.maxsize  # frames of a webcam


class Shot(NamedTuple):
    """One frame: an Image or CompressedImage message, and its labels, (H, W) uint8 class ids, if any."""

    message: Any
    truth: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Source:
    """`length` frames of one camera at `rate` Hz; `shots()` starts at the first, every time it is called.

    `classes` is the table of its ground truth, None where there is none or it is not known.
    """

    name: str
    camera: str
    compressed: bool
    rate: float
    length: int
    shots: Callable[[], Iterator[Shot]]
    classes: LabelTable | None = None

    def scored_as(self, labels: LabelTable, model: str) -> tuple[Source, ClassMap]:
        """The same frames with the ground truth in the ids of a model's classes, and how they fit those.

        Raises ClassTableError if they have no class in common, and from `shots` for an id of no class.
        """
        whose = f"the labels of {self.name}"
        mapping = class_map(self.classes or labels, labels, whose, model)
        if self.classes in (None, labels):
            return self, mapping

        def shots() -> Iterator[Shot]:
            for shot in self.shots():
                if shot.truth is not None and (unknown := mapping.undefined[np.unique(shot.truth)]).any():
                    ids = np.unique(shot.truth)[unknown].tolist()
                    raise ClassTableError(f"{whose} have ids {ids}, which are not in their class table")
                yield shot._replace(truth=None if shot.truth is None else mapping(shot.truth))

        return replace(self, shots=shots, classes=labels), mapping


def scenes(
    frames: int,
    size: tuple[int, int] = SCENE_SIZE,
    rate: float = SCENE_RATE,
    seed: int = 1,
    labelled: bool = True,
) -> Source:
    """A drive through a rendered street; `size` is (height, width). The labels are CamVid's 11 classes."""

    def shots() -> Iterator[Shot]:
        drive = Drive(seed, size)
        for index in range(frames):
            pixels, labels = drive.frame(index, rate)
            yield Shot(image_message(pixels, "rgb8", 0), labels if labelled else None)

    name = f"rendered scenes {size[1]}x{size[0]}"
    classes = LabelTable.load("camvid") if labelled else None
    return Source(name, "/camera", compressed=False, rate=rate, length=frames, shots=shots, classes=classes)


def images(path: Path, labels: Path | None = None, classes: LabelTable | None = None) -> Source:
    """The images of a folder in name order, with the labels of the same names, or the frames of a video.

    `classes` is the class table of the labels. Raises ImageFolderError; an unreadable file only when it is reached.
    """
    files = FrameFiles(path, labels, classes)
    name = f"{'video' if video.is_video(path) else 'images of'} {path}"
    length = files.counts[files.topic] or ENDLESS  # a video may not say; it ends all the same

    def shots() -> Iterator[Shot]:
        return (Shot(*labelled) for labelled in files.shots())

    return Source(name, "/camera", files.compressed, files.rate, length, shots, classes)


def webcam(number: int) -> Source:
    """The frames of the webcam of that number, without an end. Raises ImageFolderError where there is none."""
    rate = video.rate_of(number)

    def shots() -> Iterator[Shot]:
        return (Shot(image_message(pixels, "bgr8", 0), None) for pixels in video.frames_of(number))

    return Source(f"camera {number}", "/camera", compressed=False, rate=rate, length=ENDLESS, shots=shots)


def bag(path: Path, topic: str | None = None) -> Source:
    """The frames of an image topic of a bag, with the masks on `<camera>/ground_truth` of equal stamps.

    The topic may be left out where the bag has only one camera. Raises BagError.
    """
    with BagReader(path) as reader:
        topic = topic or _only_camera(reader)
        next(reader.frames(topic), None)  # a missing topic and a damaged start are found here, before anything runs
        kind, count, duration = reader.topics[topic], reader.counts[topic], reader.duration
        camera = _camera_of(topic)
        truths = f"{camera}/ground_truth" if f"{camera}/ground_truth" in reader.topics else None
        classes = read_classes(reader, truths) if truths else None

    def shots() -> Iterator[Shot]:
        with BagReader(path) as reader:
            masks = _Masks(reader, truths) if truths else None
            for _, message in reader.frames(topic):
                yield Shot(message, masks.at(header_stamp(message)) if masks else None)

    rate = (count - 1) / duration if count > 1 and duration > 0 else 1.0
    return Source(f"{topic} of {path}", camera, kind == COMPRESSED_IMAGE, rate, count, shots, classes)


class _Masks:
    """The label masks of a bag by header stamp; asked in rising order, as the frames come."""

    def __init__(self, reader: BagReader, topic: str) -> None:
        self._topic = topic
        self._path = reader.path
        self._messages = (message for _, message in reader.frames(topic))
        self._next = next(self._messages, None)

    def at(self, stamp_ns: int) -> NDArray[np.uint8] | None:
        """The mask stamped exactly so, or None."""
        while self._next is not None and header_stamp(self._next) < stamp_ns:
            self._next = next(self._messages, None)
        if self._next is None or header_stamp(self._next) != stamp_ns:
            return None
        try:
            mask = decode_image(self._next).pixels
        except FrameError as error:
            raise BagError(f"{self._path}: a mask on {self._topic} is broken: {error}") from error
        if mask.ndim != 2:
            raise BagError(f"{self._path}: masks on {self._topic} must be mono8, not {self._next.encoding}")
        return mask


def _only_camera(reader: BagReader) -> str:
    topics = reader.camera_topics()
    if len(topics) != 1:
        found = f"several image topics, choose one: {', '.join(topics)}" if topics else "no image topic"
        raise BagError(f"{reader.path}: the bag has {found}")
    return topics[0]


def _camera_of(topic: str) -> str:
    """`/front` of `/front/image_raw` and `/front/image_raw/compressed`; else `/camera`."""
    name = topic.removesuffix("/compressed")
    return name.removesuffix("/image_raw") if name.endswith("/image_raw") and name != "/image_raw" else "/camera"
