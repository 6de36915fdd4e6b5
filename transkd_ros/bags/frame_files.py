"""A folder of images, or a video, as the frames of one camera: messages in order, with labels where there are some.

It answers what a BagReader answers about cameras, so that whoever reads frames from a bag can read these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from transkd_ros.bags import image_folder, video
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, compressed_message, image_message
from transkd_ros.model.labels import LabelTable

START = 1_000_000_000  # ns: the stamp of the first frame
FOLDER_RATE = 10.0  # Hz
_QUALITY = 95  # of the JPEG that a frame of a video becomes

Labelled = tuple[Any, np.ndarray | None]
"""An Image or CompressedImage message, and its label mask (H, W) uint8 if it has one."""


class FrameFiles:
    """The images of a folder in name order, or the frames of a video.

    `labels` is a folder of label images of the images' names, in ids or in the colours of `classes`. The frames come at
    `rate` Hz, by default the video's, or FOLDER_RATE. JPEG and PNG files travel as they are, unless the folder holds
    others too; with `compressed` a video's frames as JPEG, and other files are refused. Raises ImageFolderError.
    """

    def __init__(
        self, path: Path, labels: Path | None = None, classes: LabelTable | None = None, *, rate: float | None = None,
        camera: str = "camera", compressed: bool | None = None,
    ) -> None:  # fmt: skip
        self.path = path
        self._is_video = video.is_video(path)
        if path.is_file() and not self._is_video:
            raise ImageFolderError(f"{path}: neither a folder of images nor a video ({', '.join(video.SUFFIXES)})")
        if self._is_video and labels:
            raise ImageFolderError(f"{path}: labels belong to a folder of images of the same names, not to a video")
        self.classes, self.labels = classes, labels
        self._camera = camera
        self._files = [] if self._is_video else image_folder.list_frames(path, labels)
        self._count = video.count_of(path) if self._is_video else len(self._files)
        self.rate = rate or (video.rate_of(path) if self._is_video else FOLDER_RATE)
        others = [f.image for f in self._files if f.image.suffix.lower() not in image_folder.COMPRESSED_FORMATS]
        if compressed and others:
            raise ImageFolderError(f"{others[0]}: only JPEG and PNG travel compressed; use --raw for other formats")
        self.compressed = not (others or self._is_video) if compressed is None else compressed
        self.topic = f"/{camera}/image_raw" + ("/compressed" if self.compressed else "")

    @property
    def label_files(self) -> list[Path]:
        """One for every image, in their order; none without `labels`."""
        return [label for _, label in self._files if label]

    def shots(self) -> Iterator[Labelled]:
        """The messages, the first one stamped START, each with its label."""
        count = 0
        for labelled in self._video() if self._is_video else self._folder():
            count += 1
            yield labelled
        self._count = count  # a video does not always know before

    def _video(self) -> Iterator[Labelled]:
        for index, pixels in enumerate(video.frames_of(self.path)):
            if self.compressed:
                data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))[1].tobytes()
                yield compressed_message(data, "jpeg", self._stamp(index), self._camera), None
            else:
                yield image_message(pixels, "bgr8", self._stamp(index), self._camera), None

    def _folder(self) -> Iterator[Labelled]:
        for index, (image, label) in enumerate(self._files):
            data = image.read_bytes()
            pixels = image_folder.decode_image(data, image)
            mask = image_folder.read_label(label, pixels.shape[:2], self.classes) if label else None
            if mask is not None and self.classes:
                self._check_ids(mask, label)
            if self.compressed:
                kind = image_folder.COMPRESSED_FORMATS[image.suffix.lower()]
                yield compressed_message(data, kind, self._stamp(index), self._camera), mask
            else:
                yield image_message(pixels, "bgr8", self._stamp(index), self._camera), mask

    def _stamp(self, index: int) -> int:
        return START + round(index * 1e9 / self.rate)

    def _check_ids(self, mask: np.ndarray, label: Path | None) -> None:
        assert self.classes
        known, ignored = len(self.classes.names), self.classes.ignore_id
        if unknown := [i for i in np.unique(mask).tolist() if i >= known and i != ignored]:
            raise ImageFolderError(
                f"{label}: ids {unknown} are no classes; the class table has 0 to {known - 1}, and {ignored} for none"
            )

    # ---- what a BagReader answers ----------------------------------------------------------------

    @property
    def topics(self) -> dict[str, str]:
        return {self.topic: COMPRESSED_IMAGE if self.compressed else IMAGE}

    @property
    def counts(self) -> dict[str, int]:
        """Of a video, what it says until all its frames have been read."""
        return {self.topic: self._count}

    def frames(self, topic: str) -> Iterator[tuple[int, Any]]:
        """(stamp in ns, message) of every frame. Raises ImageFolderError for another topic than `topic`."""
        if topic != self.topic:
            raise ImageFolderError(f"{self.path}: no topic {topic}; its frames are on {self.topic}")
        return ((self._stamp(index), message) for index, (message, _) in enumerate(self.shots()))
