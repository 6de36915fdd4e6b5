"""A folder of frames and, beside it, a folder of label masks with the same file names.

Finds, pairs and reads them; how a label image is read is in `label_image`. What becomes of them (a bag, a live topic)
is decided in `conversion` and in the demo.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from transkd_ros.bags.label_image import LabelImageError, mask_of
from transkd_ros.model.labels import LabelTable

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
    paths = list_images(Path(images))
    if labels is None:
        return [FramePath(path, None) for path in paths]
    by_stem = {path.stem: path for path in list_images(Path(labels))}
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


def read_label(path: Path, size: tuple[int, int], table: LabelTable | None = None) -> np.ndarray:
    """A label mask, (H, W) uint8 class ids, which must have the `size` (H, W) of its frame.

    It holds ids, or with `table` the colours of the classes, see `label_image`.
    """
    mask = decode_label(path.read_bytes(), path, table)
    if mask.shape != tuple(size):
        raise ImageFolderError(f"{path}: the label is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}")
    return mask


def decode_label(data: bytes, name: Path | str, table: LabelTable | None = None) -> np.ndarray:
    """The bytes of a label image as a mask, (H, W) uint8 class ids; `name` is only named in the error."""
    try:
        return mask_of(data, table)
    except LabelImageError as error:
        raise ImageFolderError(f"{name}: {error}") from error


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder sorted by name. Raises ImageFolderError if it is missing or holds none."""
    if not folder.is_dir():
        raise ImageFolderError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ImageFolderError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return paths
