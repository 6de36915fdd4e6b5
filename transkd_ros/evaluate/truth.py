"""Ground truth for the frames of a bag: from a label topic, or from a folder of label images.

Both answer for one camera with the mask of a frame, found by its stamp or its place in the order. A teacher's masks
serve as ground truth too; they are made where the models run, in `pipeline`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transkd_ros.bags import image_folder
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.messages import COMPRESSED_IMAGE, header_stamp
from transkd_ros.bags.storage import BagError, BagReader
from transkd_ros.frames import FrameError, decode_image
from transkd_ros.model.labels import LabelTable

Mask = NDArray[np.uint8]

_UNREADABLE = "labels that are neither an 8-bit image of class ids nor one of the class table's colours"
_STAMP = re.compile(r"(?P<ns>[1-9]\d{9,})|(?P<seconds>\d+)\.(?P<fraction>\d{1,9})")


class TruthError(ValueError):
    """The ground truth cannot be used at all; the text names it and says what is wrong."""


class LabelError(ValueError):
    """One label cannot be used; the text is short and the same for all with that trouble, to be counted."""


class Truth(Protocol):
    """The labels of one camera's frames."""

    first_stamp: int | None  # of the first label, in ns; None where labels have none

    def mask(self, index: int, stamp_ns: int) -> Mask | None:
        """The (H, W) uint8 mask of the frame of that index and header stamp, asked in the bag's order; None if there
        is none. Raises LabelError; BagError where the bag is damaged.
        """
        ...


class TopicTruth:
    """Labels on a topic of the bag, with the header stamps of their frames: Image mono8, or CompressedImage PNG.

    The stamps are read first, so that labels are found however frames and labels are recorded: at other times, in
    another order, with gaps, or in a recording whose stamps start again. Of a stamp that comes twice it is the next.
    """

    def __init__(self, bag: BagReader, topic: str, table: LabelTable | None = None) -> None:
        """`bag` is read by nobody else; by the colours of `table` PNG images of colours are read."""
        self._bag = bag
        self._table = table
        self._topic = topic
        self._is_png = bag.topics.get(topic) == COMPRESSED_IMAGE
        self._recorded: dict[int, list[int]] = {}  # ns by header stamp
        self._damage: BagError | None = None
        try:
            for recorded_ns, message in bag.frames(topic):
                self._recorded.setdefault(header_stamp(message), []).append(recorded_ns)
        except BagError as error:
            self._damage = error
        self.first_stamp = next(iter(self._recorded), None)
        self._labels = bag.frames(topic)
        self._last = -1  # when the label was recorded that was given out last

    def mask(self, index: int, stamp_ns: int) -> Mask | None:
        if stamp_ns not in self._recorded:
            if self._damage:
                raise self._damage
            return None
        times = self._recorded[stamp_ns]
        wanted = next((time for time in times if time > self._last), times[-1])
        if wanted <= self._last:
            self._labels = self._bag.frames(self._topic, start=wanted)
        self._last = wanted
        message = next(m for time, m in self._labels if time == wanted and header_stamp(m) == stamp_ns)
        return _decode_png(message, self._table) if self._is_png else _decode_mono8(message)


class FilesTruth:
    """Label images, one for every frame in their order, in ids or in the colours of `table`."""

    first_stamp: int | None = None

    def __init__(self, paths: tuple[Path, ...], table: LabelTable | None = None) -> None:
        self._paths, self._table = paths, table

    def mask(self, index: int, stamp_ns: int) -> Mask | None:
        return _read(self._paths[index], self._table)


class FolderTruth:
    """Label images of a folder: by stamp where every name is one (`1305031102175304000.png` in ns, or
    `1305031102.175304.png` in s), else in the order of their names, one for every frame.
    """

    def __init__(self, folder: Path, frames: int, table: LabelTable | None = None) -> None:
        """By the colours of `table` images of colours are read.

        Raises ImageFolderError for a folder without images, TruthError for one of another number of them.
        """
        self._table = table
        self._paths = image_folder.list_images(folder)
        self._by_stamp = self._stamped()
        self.first_stamp = min(self._by_stamp, default=None)
        if not self._by_stamp and len(self._paths) != frames:
            raise TruthError(
                f"{folder} holds {len(self._paths)} labels for {frames} frames; in order there must be one for each, "
                "else name them by the stamps of their frames in ns"
            )

    def mask(self, index: int, stamp_ns: int) -> Mask | None:
        path = self._by_stamp.get(stamp_ns) if self._by_stamp else self._paths[index]
        return None if path is None else _read(path, self._table)

    def _stamped(self) -> dict[int, Path]:
        """{} unless every name is a stamp."""
        found = {}
        for path in self._paths:
            if not (match := _STAMP.fullmatch(path.stem)):
                return {}
            ns = match["ns"] or match["seconds"] + match["fraction"].ljust(9, "0")
            found[int(ns)] = path
        return found


def _read(path: Path, table: LabelTable | None) -> Mask:
    try:
        return image_folder.decode_label(path.read_bytes(), path.name, table)
    except (OSError, ImageFolderError) as error:
        raise LabelError(_UNREADABLE) from error


def _decode_mono8(message: Any) -> Mask:
    if message.encoding not in ("mono8", "8UC1"):
        raise LabelError(f"labels of encoding {message.encoding}, which is not mono8")
    try:
        return decode_image(message).pixels
    except FrameError as error:
        raise LabelError(f"broken labels: {error.cause}") from error


def _decode_png(message: Any, table: LabelTable | None) -> Mask:
    data = bytes(message.data)
    if not data.startswith(b"\x89PNG"):
        raise LabelError(f"labels of format {message.format[:40]}, which is not PNG")  # JPEG would blur the ids
    try:
        return image_folder.decode_label(data, "label", table)
    except ImageFolderError as error:
        raise LabelError(_UNREADABLE) from error
