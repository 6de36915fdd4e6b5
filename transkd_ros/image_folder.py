"""A folder of frames and, beside it, a folder of label masks with the same file names.

Finds, pairs and reads them. What becomes of them (a bag, a live topic) is decided in `bags` and `sources`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

COMPRESSED_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
"""File suffix to the `format` of sensor_msgs/CompressedImage: files that can travel as they are."""
SUFFIXES = (*COMPRESSED_FORMATS, ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp")


# A rotation in the EXIF data is not applied: like image_transport, the node takes the frame as it is stored.
_AS_SENT = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


class ImageFolderError(ValueError):
    """A folder, frame or label that cannot be used; the text names it."""


class FramePath(NamedTuple):
    image: Path
    label: Path | None


def list_frames(images: Path | str, labels: Path | str | None = None) -> list[FramePath]:
    """The images of a folder sorted by name, each with the label of the same stem if `labels` is given.

    Raises ImageFolderError if a folder is missing, holds no images, or an image has no label.
    """
    paths = _images_in(Path(images))
    if labels is None:
        return [FramePath(path, None) for path in paths]
    by_stem = {path.stem: path for path in _images_in(Path(labels))}
    for path in paths:
        if path.stem not in by_stem:
            raise ImageFolderError(f"no label for {path}: expected {Path(labels) / path.stem}.png")
    return [FramePath(path, by_stem[path.stem]) for path in paths]


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 BGR."""
    return decode_image(path.read_bytes(), path)


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """The bytes of an image file as (H, W, 3) uint8 BGR; `path` is only named in the error."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_SENT) if data else None
    if pixels is None:
        raise ImageFolderError(f"{path}: not an image that OpenCV can decode (broken or unknown format)")
    return pixels


def read_label(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A label mask, (H, W) uint8 class ids, which must have the `size` (H, W) of its frame."""
    data = path.read_bytes()
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if mask is None:
        raise ImageFolderError(f"{path}: not an image that OpenCV can decode (broken or unknown format)")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ImageFolderError(
            f"{path}: a label must be a single-channel 8-bit image of class ids, not {mask.dtype} of shape {mask.shape}"
        )
    if mask.shape != tuple(size):
        raise ImageFolderError(f"{path}: the label is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}")
    return mask


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ImageFolderError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ImageFolderError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return paths
