"""Video files and webcams, frame by frame, through OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from transkd_ros.bags.image_folder import ImageFolderError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
_LONGEST_RATE = 1000.0  # Hz; what is above, or no number, is a file that does not say
_UNKNOWN_RATE = 25.0  # Hz


def is_video(path: Path) -> bool:
    """Whether it is a file called like a video."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def rate_of(source: Path | int) -> float:
    """Frames per second of a file, or of the webcam of that number; 25 where it does not say.

    Raises ImageFolderError where it cannot be opened or holds no frame.
    """
    with _opened(source) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= _LONGEST_RATE else _UNKNOWN_RATE


def count_of(path: Path) -> int:
    """How many frames a file says it has, which may be a few too many or none."""
    with _opened(path) as capture:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


def frames_of(source: Path | int) -> Iterator[np.ndarray]:
    """The frames of a file to its end, or of a webcam without one: (H, W, 3) uint8 BGR. Raises ImageFolderError."""
    with _opened(source) as capture:
        is_read, pixels = capture.read()
        if not is_read:
            raise ImageFolderError(f"{_named(source)}: no frame can be read")
        while is_read:
            yield pixels
            is_read, pixels = capture.read()


@contextmanager
def _opened(source: Path | int) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            is_camera = isinstance(source, int)
            reason = "no such camera, or it is in use" if is_camera else "not a video that OpenCV can read"
            raise ImageFolderError(f"{_named(source)}: {reason}")
        yield capture
    finally:
        capture.release()


def _named(source: Path | int) -> str:
    return f"camera {source}" if isinstance(source, int) else str(source)
